"""Boxes in pixels of a picture: the one check of them, clipped to a region, mirrored."""

import torch
from torch import Tensor

from recurrent_attention._errors import printable

EDGE_TOLERANCE = 1.0  # pixels that a box may lie outside its picture by rounding; then it is cut


def are_inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which boxes have an area and lie inside their picture.

    Args:
        boxes: (... 4) xyxy in pixels of the picture.
        size: (width, height) of the picture.

    Returns:
        (...) booleans; False for a box with NaN.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    (width, height), slack = size, EDGE_TOLERANCE
    inside = (x0 >= -slack) & (y0 >= -slack) & (x1 <= width + slack) & (y1 <= height + slack)
    x0, y0, x1, y1 = clip_boxes(boxes, boxes.new_tensor([0, 0, width, height])).unbind(-1)
    return inside & (x1 > x0) & (y1 > y0)


def check_boxes(boxes: Tensor, size: tuple[int, int], name: str) -> None:
    """Refuse boxes that are empty or lie outside their picture.

    Args:
        boxes: (n 4) xyxy in pixels of the picture.
        size: (width, height) of the picture.
        name: of the picture, for the message.

    Raises:
        ValueError: naming the first such box.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise ValueError(
            f"Expected the boxes of {printable(name)} to have shape (n, 4) with at least one box, "
            f"but got {tuple(boxes.shape)}."
        )
    good = are_inside(boxes, size)
    if not bool(good.all()):
        first, (width, height) = int((~good).nonzero()[0]), size
        raise ValueError(
            f"Expected box {first} of {printable(name)} to be (x0, y0, x1, y1) with x0 < x1 and "
            f"y0 < y1 inside its {width} x {height} picture, but got "
            f"{tuple(boxes[first].tolist())}."
        )


def clip_boxes(boxes: Tensor, region: Tensor) -> Tensor:
    """Intersect boxes with a region.

    Args:
        boxes: (... 4) xyxy in pixels.
        region: (4) xyxy in the same pixels.

    Returns:
        (... 4); what lies outside gets no area.
    """
    low, high = region[[0, 1, 0, 1]], region[[2, 3, 2, 3]]
    return torch.minimum(torch.maximum(boxes, low), high)


def mirror_boxes(boxes: Tensor, width: float) -> Tensor:
    """Move boxes to where they lie in the mirrored picture.

    Args:
        boxes: (n 4) xyxy in pixels.
        width: of the picture.

    Returns:
        (n 4).
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=-1)
