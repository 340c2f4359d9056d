"""What a stream sees of a picture: a box of it, resized to a square and normalised."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recurrent_attention.images.reading import Mode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# As in Pillow's `thumbnail`. Views differ on average by 1 (half) to 2 (an eighth) of 255 levels
# from those of a whole decoding, and a classifier answers as well (docs/speed.md).
REDUCING_GAP = 2.0
EDITION = 3  # part of the keys of kept features: to be raised when the pixels of a view change
_MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resampling(interpolation: str) -> Image.Resampling:
    """Look up how Pillow calls an interpolation of timm's.

    Args:
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".

    Returns:
        The filter.

    Raises:
        ValueError: if it is none of them.
    """
    if interpolation not in _RESAMPLING:
        raise ValueError(
            f"Expected `interpolation` to be one of {', '.join(_RESAMPLING)}, but got "
            f"{interpolation!r}."
        )
    return _RESAMPLING[interpolation]


def mode_of(in_chans: int) -> Mode:
    """Return the mode that pictures are opened in for a model of so many channels.

    Args:
        in_chans: 1 (gray), 3 (RGB) or 4 (RGB and alpha).

    Returns:
        The mode, as Pillow calls it.

    Raises:
        ValueError: if pictures have no mode of so many channels.
    """
    if in_chans not in _MODES:
        raise ValueError(
            f"Expected a model of 1, 3 or 4 channels to open pictures for, but got {in_chans}. "
            f"Pass arrays (h, w, {in_chans}) of uint8, or a `loader` that returns them: "
            "Pictures(..., loader=...)."
        )
    return _MODES[in_chans]


def pixels_of(picture: Image.Image | NDArray[np.uint8]) -> Tensor:
    """Return the pixels of a picture, once for all the views that are cut out of it.

    Args:
        picture: upright, of mode L, RGB or RGBA, or an array (h w) or (h w c) uint8.

    Returns:
        (c h w) uint8, in memory pixel by pixel, which torch resizes three times as fast as Pillow.

    Raises:
        ValueError: if an array has another shape or type.
    """
    pixels = np.array(picture)
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(
            "Expected a picture as an array (h, w) or (h, w, c) of uint8, but got "
            f"{pixels.dtype} in shape {pixels.shape}."
        )
    if pixels.ndim == 2:
        return rearrange(torch.from_numpy(pixels), "h w -> 1 h w")
    return rearrange(torch.from_numpy(pixels), "h w c -> c h w")


def cut_view(
    pixels: Tensor,
    box: Tensor,
    size: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
) -> Tensor:
    """Cut a box out of a picture, resize it to a square, antialiased, and normalise it.

    Resized with "bilinear" or "bicubic", pixels equal Pillow's `resize` of the cut-out to 2 of 255
    levels.

    Args:
        pixels: (c h w) uint8, of `pixels_of`.
        box: (4) xyxy in pixels, inside the picture; cut at the nearest whole pixels.
        size: side of the square in pixels; the box's aspect ratio is lost, as in the paper.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        interpolation: "bilinear", "bicubic", "lanczos" or "nearest".

    Returns:
        (c size size) float32.

    Raises:
        ValueError: if `interpolation` is another, or `mean` or `std` fit other channels.

    Example:
        >>> pixels = pixels_of(Image.new("RGB", (40, 30), (255, 0, 0)))
        >>> cut_view(pixels, torch.tensor([0, 0, 40, 30]), 2, mean=(0.5,) * 3, std=(0.5,) * 3)[:2]
        tensor([[[ 1.,  1.],
                 [ 1.,  1.]],
        <BLANKLINE>
                [[-1., -1.],
                 [-1., -1.]]])
    """
    return cut_views(pixels, box[None], size, mean=mean, std=std, interpolation=interpolation)[0]


def cut_views(
    pixels: Tensor,
    boxes: Tensor,
    size: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
) -> Tensor:
    """Cut several boxes out of a picture, as `cut_view` does; all are normalised together.

    Args:
        pixels: as in `cut_view`, and so are the others that are not named here.
        boxes: (p 4), p at least 1.
        size: as there.
        mean: as there.
        std: as there.
        interpolation: as there.

    Returns:
        (p c size size) float32.

    Raises:
        ValueError: as in `cut_view`.
    """
    known = resampling(interpolation)
    if not len(pixels) == len(mean) == len(std):
        raise ValueError(
            f"Expected `mean` and `std` to have a number for each of the {len(pixels)} channels, "
            f"but got {tuple(mean)} and {tuple(std)}. TwoStreamDataset.for_model takes the model's."
        )
    resized = torch.stack([_resized(pixels, box, size, interpolation, known) for box in boxes])
    # (pixels / 255 - mean) / std, in two passes over one tensor
    scale = torch.tensor([1 / (255 * s) for s in std], device=pixels.device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)
    views = resized.to(torch.float32, memory_format=torch.contiguous_format)
    return views.mul_(rearrange(scale, "c -> c 1 1")).sub_(rearrange(shift, "c -> c 1 1"))


def _resized(
    pixels: Tensor, box: Tensor, size: int, interpolation: str, known: Image.Resampling
) -> Tensor:
    """Cut a box (4) out of pixels (c h w) and resize it: (c size size) uint8."""
    x0, y0, x1, y1 = whole_pixels(box, pixels.shape[2], pixels.shape[1])
    cut = pixels[:, y0:y1, x0:x1]
    if interpolation in ("bilinear", "bicubic"):
        return F.interpolate(cut[None], (size, size), mode=interpolation, antialias=True)[0]
    # torch does not have the others for whole numbers
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in cut.numpy()]
    return torch.cat([pixels_of(band.resize((size, size), known)) for band in bands])


def whole_pixels(box: Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Round a box to whole pixels of its picture, at least one on each side.

    Args:
        box: (4) xyxy in pixels, inside the picture.
        width: of the picture.
        height: of the picture.

    Returns:
        x0, y0, x1, y1.
    """
    x0, y0, x1, y1 = (round(corner) for corner in box.tolist())
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def reduction_for(sides: Sequence[float], size: int) -> int:
    """Return how far a JPEG may be reduced while it is decoded, so that its views hardly change.

    Args:
        sides: of the boxes that views of this size are cut from, in pixels of the whole picture.
        size: side of the views in pixels.

    Returns:
        8, 4, 2 or 1: the most that leaves each view `REDUCING_GAP` times as many pixels as it has.
    """
    gap = min(sides) / size / REDUCING_GAP
    return next((reduction for reduction in (8, 4, 2) if reduction <= gap), 1)
