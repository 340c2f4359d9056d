"""Which tensors the functions of this package take."""

from typing import Any

from torch import Tensor


def check_is_tensor(name: str, tensor: Any) -> None:
    """Refuse what is no tensor."""
    if not isinstance(tensor, Tensor):
        hint = f" Put them together: torch.stack({name}, 1)." if isinstance(tensor, list) else ""
        raise TypeError(f"Expected `{name}` to be a tensor, but got {type(tensor).__name__}.{hint}")


def check_shape(name: str, tensor: Tensor, wanted: str) -> None:
    """Refuse a tensor whose axes are not as `wanted`, hold nothing (b may), or is no float."""
    shape = tuple(tensor.shape)
    axes = wanted.strip("()").split(", ")
    if len(shape) != len(axes) or (axes[-1].isdigit() and shape[-1] != int(axes[-1])):
        hint = f" Add a batch axis: {name}[None]." if len(shape) == len(axes) - 1 else ""
        raise ValueError(f"Expected `{name}` to have shape {wanted}, but got {shape}.{hint}")
    if 0 in shape[1:]:
        raise ValueError(f"Expected `{name}` to be empty in no axis but b, but got {shape}.")
    if not tensor.is_floating_point():
        raise TypeError(
            f"Expected `{name}` to be floating point, but got {tensor.dtype}. Convert: "
            f"{name}.float()."
        )


def check_patches(images: Tensor, patches: Tensor) -> None:
    """Refuse patches that are not (b p c h w) with p at least 1 and the b of `images`."""
    if patches.ndim != 5:
        raise ValueError(
            "Expected `patches` to have shape (b, 3, h, w) or (b, p, 3, h, w), but got "
            f"{tuple(patches.shape)}."
        )
    if patches.shape[0] != images.shape[0]:
        raise ValueError(
            "Expected `patches` to hold patches of as many images as `images`, but got batches "
            f"of {patches.shape[0]} and {images.shape[0]}."
        )
    if patches.shape[1] == 0:
        raise ValueError(
            "Expected `patches` to hold at least one patch per image, but got shape "
            f"{tuple(patches.shape)}."
        )
