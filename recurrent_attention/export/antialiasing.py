"""Resizing with antialiasing as two matrix products: ONNX's Resize answers otherwise than torch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor
from torch.overrides import TorchFunctionMode

Key = tuple[int, int, str, bool | None]  # side before, side after, mode, align_corners


class ResizingByMatrices(TorchFunctionMode):
    """Within it, `F.interpolate(x, size, antialias=True)` is two products with constant matrices.

    timm resizes the position embeddings of vision transformers so, where a picture has another
    size than the network was built for. torch.onnx leaves the antialiasing out. Resizing is linear
    and the same in each row and column, so a matrix for each axis says all of it. The matrices are
    made at the first pass, which is to be eager; a traced one finds them.

    Example:
        >>> x = torch.randn(1, 2, 8, 8)
        >>> with ResizingByMatrices():
        ...     found = F.interpolate(x, (5, 7), mode="bicubic", antialias=True)
        >>> wanted = F.interpolate(x, (5, 7), mode="bicubic", antialias=True)
        >>> torch.testing.assert_close(found, wanted)
    """

    def __init__(self) -> None:
        super().__init__()
        self._matrices: dict[Key, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Resize by matrices where a size is given and antialiasing asked for."""
        kwargs = kwargs or {}
        if func is not F.interpolate or not kwargs.get("antialias"):
            return func(*args, **kwargs)
        return self._resize(*args, **kwargs)

    def _resize(
        self,
        input: Tensor,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = True,
    ) -> Tensor:
        if size is None:
            return F.interpolate(input, size, scale_factor, mode, align_corners,
                                 recompute_scale_factor, antialias)  # fmt: skip
        height, width = (size, size) if isinstance(size, int) else size
        rows = self._matrix((input.shape[-2], height, mode, align_corners)).to(input)
        columns = self._matrix((input.shape[-1], width, mode, align_corners)).to(input)
        return einsum(rows, input, columns, "p h, b c h w, q w -> b c p q")

    def _matrix(self, key: Key) -> Tensor:
        """Make the matrix (after before), once, of what resizing does to each unit vector."""
        if key not in self._matrices:
            before, after, mode, align_corners = key
            units = repeat(torch.eye(before), "c h -> 1 c h two", two=2)
            resized = F.interpolate(  # of two columns: torch 2.14 is wrong about a single one
                units, (after, 2), mode=mode, align_corners=align_corners, antialias=True
            )
            self._matrices[key] = rearrange(resized[..., 0], "1 c h -> h c")
        return self._matrices[key]
