"""What a stream sees of a picture: a box of it, resized to a square and normalised."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EDGE_TOLERANCE = 1.0  # pixels that a box may stand out of its picture by rounding; then it is cut
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


def cut_view(
    picture: Image.Image,
    box: Tensor,
    size: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
) -> Tensor:
    """Cut a box out of a picture, resize it to a square and normalise it.

    Args:
        picture: RGB.
        box: (4) xyxy in pixels of the picture, inside it.
        size: side of the square in pixels; the box's aspect ratio is lost, as in the paper.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        interpolation: "bilinear", "bicubic", "lanczos" or "nearest".

    Returns:
        (3 size size) float32.

    Raises:
        ValueError: if `interpolation` is another.

    Example:
        >>> picture = Image.new("RGB", (40, 30), (255, 0, 0))
        >>> cut_view(picture, torch.tensor([0, 0, 40, 30]), 2, mean=(0.5,) * 3, std=(0.5,) * 3)[:2]
        tensor([[[ 1.,  1.],
                 [ 1.,  1.]],
        <BLANKLINE>
                [[-1., -1.],
                 [-1., -1.]]])
    """
    cut = picture.resize((size, size), resampling(interpolation), box=tuple(box.tolist()))
    pixels = tvf.to_dtype(tvf.pil_to_tensor(cut), torch.float32, scale=True)
    normal: Tensor = tvf.normalize(pixels, list(mean), list(std))
    return normal


def check_boxes(boxes: Tensor, size: tuple[int, int], name: str) -> None:
    """Refuse boxes that are empty or stand outside their picture.

    Args:
        boxes: (n 4) xyxy in pixels of the picture.
        size: (width, height) of the picture.
        name: of the picture, for the message.

    Raises:
        ValueError: naming the first such box.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise ValueError(
            f"Expected the boxes of {name} to have shape (n, 4) with at least one box, but got "
            f"{tuple(boxes.shape)}."
        )
    x0, y0, x1, y1 = boxes.unbind(1)
    width, height = size
    slack = EDGE_TOLERANCE
    inside = (x0 >= -slack) & (y0 >= -slack) & (x1 <= width + slack) & (y1 <= height + slack)
    good = inside & (x1 > x0) & (y1 > y0)  # a NaN compares false, so it is refused as well
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"Expected box {first} of {name} to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 "
            f"inside its {width} x {height} picture, but got {tuple(boxes[first].tolist())}."
        )


def clip_boxes(boxes: Tensor, region: Tensor) -> Tensor:
    """Intersect boxes with a region.

    Args:
        boxes: (n 4) xyxy in pixels.
        region: (4) xyxy in the same pixels.

    Returns:
        (n 4); what lies outside gets no area.
    """
    x0, y0, x1, y1 = region
    return torch.stack(
        [
            boxes[:, 0].clamp(x0, x1),
            boxes[:, 1].clamp(y0, y1),
            boxes[:, 2].clamp(x0, x1),
            boxes[:, 3].clamp(y0, y1),
        ],
        dim=1,
    )
