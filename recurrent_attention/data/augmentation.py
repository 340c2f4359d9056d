"""Random crops, and transforms of the user's, on a picture and its boxes together."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import RandomResizedCrop, v2

from recurrent_attention.ops.boxes import clip_boxes

Augment = Callable[..., Any]
NAMED = ("none", "color", "trivial")
MIN_VISIBLE = 0.5  # a box counts while half of it is left; less shows another part
TRIES = 10  # to show a box in a crop or a transformed picture; then the picture stays as it is
CROP_RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random crop: torchvision's and timm's default
TRIALS = 16  # a transform that is applied by chance is tried until chance can hardly have hidden it
TRIED_SIDES = (64, 1024)  # one that cuts out a fixed size needs a picture of that size


def random_region(
    size: tuple[int, int], boxes: Tensor, scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Draw a part of a picture that shows at least half of one of its boxes.

    Args:
        size: width and height of the picture.
        boxes: (n 4) xyxy in pixels.
        scale: smallest and largest share of the picture's area.

    Returns:
        The part (4), xyxy, and the boxes (m 4) that are at least half in it, cut at its edge, in
        their order; the whole picture and all of them if none is found in `TRIES` draws.
    """
    canvas = torch.empty(0, size[1], size[0])  # of the size alone
    for _ in range(TRIES):
        top, left, height, width = RandomResizedCrop.get_params(
            canvas, list(scale), list(CROP_RATIO)
        )
        region = torch.tensor([left, top, left + width, top + height]).float()
        clipped = clip_boxes(boxes, region)
        seen = box_area(clipped) >= MIN_VISIBLE * box_area(boxes)
        if bool(seen.any()):
            return region, clipped[seen]
    return torch.tensor([0.0, 0.0, *size]), boxes


def check_crop_scale(crop_scale: Any) -> None:
    """Refuse what is neither None nor (smallest, largest) share of a picture."""
    if crop_scale is None:
        return
    pair = isinstance(crop_scale, Sequence) and len(crop_scale) == 2
    if not (
        pair
        and all(isinstance(share, int | float) for share in crop_scale)
        and 0 < crop_scale[0] <= crop_scale[1] <= 1
    ):
        raise ValueError(
            "Expected `crop_scale` to be (smallest, largest) share of the picture in (0, 1], "
            f"but got {crop_scale}."
        )


def takes_boxes(augment: Augment, channels: int) -> bool:
    """Try a transform on a small picture with a box, and refuse what cannot be used.

    Args:
        augment: called with a `tv_tensors.Image` (c h w) uint8 and `tv_tensors.BoundingBoxes`.
        channels: c.

    Returns:
        True if it takes both; False if it takes pictures alone, as torchvision's `RandAugment` and
        its kin do, which move pixels without saying where to.

    Raises:
        TypeError: if it takes neither, or returns something else.
    """
    small, large = TRIED_SIDES
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  # transforms draw from these
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            return all(_takes_boxes_of(augment, channels, small) for _ in range(TRIALS))
        except ValueError:
            return _takes_boxes_of(augment, channels, large)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _takes_boxes_of(augment: Augment, channels: int, side: int) -> bool:
    pixels = torch.zeros(channels, side, side, dtype=torch.uint8)
    boxes = torch.tensor([[0.125, 0.125, 0.75, 0.75]]) * side
    try:
        augment_picture(augment, pixels, boxes)
    except TypeError as refused:
        try:
            _checked(augment(tv_tensors.Image(pixels)), channels)
        except (TypeError, ValueError, RuntimeError):
            raise refused from None
        return False
    return True


def augment_picture(augment: Augment, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Transform a picture and the boxes on it together.

    Args:
        augment: takes and returns a `tv_tensors.Image` and `tv_tensors.BoundingBoxes`, as all of
            `torchvision.transforms.v2` does.
        pixels: (c h w) uint8.
        boxes: (n 4) xyxy in pixels.

    Returns:
        The picture, possibly of another size, and the boxes on it that are at least half as
        visible as the most visible one, in their order; none if it shows none of them.

    Raises:
        TypeError: if `augment` does not return the two, or pixels of another type.
    """
    canvas = (pixels.shape[1], pixels.shape[2])
    places = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas)
    found = augment(tv_tensors.Image(pixels), places)
    if not isinstance(found, Sequence) or len(found) != 2 or not isinstance(found[1], Tensor):
        raise TypeError(
            "Expected `augment` to return a picture and its boxes, as transforms of "
            f"torchvision.transforms.v2 do, but got {type(found).__name__}."
        )
    image, moved = _checked(found[0], len(pixels)), found[1]
    if isinstance(moved, tv_tensors.BoundingBoxes):
        moved = v2.functional.convert_bounding_box_format(moved, new_format="XYXY")
    moved = moved.as_subclass(Tensor).to(boxes.dtype)
    if moved.ndim != 2 or moved.shape[1] != 4:
        raise TypeError(
            f"Expected `augment` to return boxes (n, 4), xyxy in pixels, but got shape "
            f"{tuple(moved.shape)}."
        )
    height, width = image.shape[1:]
    moved = clip_boxes(moved, moved.new_tensor([0, 0, width, height]))
    left = box_area(moved)
    if len(moved) == len(boxes):
        left = left / box_area(boxes).clamp(min=1e-6)
        seen = (left > 0) & (left >= MIN_VISIBLE * left.max())
    else:  # the transform has left some out by itself
        seen = left > 0
    return image, moved[seen]


def augment_view(
    augment: Augment, view: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Transform a normalised view (c h w) by a transform that takes pictures alone.

    Args:
        augment: takes and returns a `tv_tensors.Image` (c h w) uint8 of one size.
        view: normalised.
        mean: per channel, with which it was normalised.
        std: per channel.

    Returns:
        The view, normalised again.

    Raises:
        TypeError: if `augment` returns pixels of another type, or another size.
    """
    shift, scale = (rearrange(torch.tensor(list(v)), "c -> c 1 1") for v in (mean, std))
    pixels = ((view * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)
    found = _checked(augment(tv_tensors.Image(pixels)), len(view))
    if found.shape != view.shape:
        raise TypeError(
            f"Expected `augment` to leave views of {tuple(view.shape)} their size, but got "
            f"{tuple(found.shape)}."
        )
    return (found.float() / 255 - shift) / scale


def name_of_augment(augment: Augment | None) -> str:
    """Name a transform, the same in every process: by what it is and holds, or by its name."""
    if augment is None or isinstance(augment, nn.Module):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(augment))  # functions inside have addresses
    kind = augment if hasattr(augment, "__qualname__") else type(augment)
    return f"{kind.__module__}.{kind.__qualname__}"


def _checked(image: Any, channels: int) -> Tensor:
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
        kind = f"{image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"Expected `augment` to return a picture (c, h, w) of uint8, but got {kind}. Leave "
            "ToDtype and Normalize out: pictures are normalised afterwards, as the model wants."
        )
    if len(image) != channels:
        raise TypeError(
            f"Expected `augment` to leave a picture its {channels} channels, but got {len(image)}."
        )
    return image.as_subclass(Tensor)


def named_augment(name: str) -> Augment | None:
    """Return one of the transforms that the command knows by name.

    Args:
        name: "none"; "color", which jitters brightness, contrast and saturation by up to 30 %; or
            "trivial", torchvision's `TrivialAugmentWide`.

    Returns:
        A transform of `torchvision.transforms.v2`, or None.

    Raises:
        ValueError: if it is none of them.
    """
    if name not in NAMED:
        raise ValueError(f"Expected `name` to be one of {', '.join(NAMED)}, but got {name!r}.")
    made: Augment | None = None
    if name == "color":
        made = v2.ColorJitter(0.3, 0.3, 0.3)
    elif name == "trivial":
        made = v2.TrivialAugmentWide()
    return made
