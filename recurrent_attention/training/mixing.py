"""Mixup and cutmix for both streams at once: a picture and its patches share partner and share."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Mixed(NamedTuple):
    """A batch after mixing.

    Attributes:
        images: (b c h w).
        patches: (b p c h w).
        targets: (b k) probabilities of the classes, summing to 1.
    """

    images: Tensor
    patches: Tensor
    targets: Tensor


def mix(
    images: Tensor,
    patches: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Mixed:
    """Mix each picture of a batch with the one before it, its patches with that one's patches.

    The share lambda is drawn from Beta(alpha, alpha), once for the batch. Mixup blends: lambda of a
    picture, and 1 - lambda of its partner. Cutmix pastes a box with 1 - lambda of the area out of
    the partner; it lies at the same relative place in the picture and in each patch, and the share
    is that of whole pixels of the picture. With both, a fair coin decides. Random numbers come from
    torch's global generator of the CPU.

    Args:
        images: (b c h w).
        patches: (b p c h w).
        labels: (b) class indices in [0, k).
        num_classes: k.
        mixup: alpha, at least 0; 0 never blends.
        cutmix: alpha, at least 0; 0 never pastes.

    Returns:
        `Mixed`; the inputs stay as they are. Labels are mixed by the share of the pixels.

    References:
        Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
    """
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    if not mixup and not cutmix:
        return Mixed(images, patches, targets)
    pastes = bool(cutmix) and (not mixup or float(torch.rand(())) < 0.5)
    alpha = torch.tensor(float(cutmix if pastes else mixup))
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if pastes:
        box, share = _draw_box(images.shape[-2], images.shape[-1], share)
        images, patches = _paste(images, box), _paste(patches, box)
    else:
        images, patches = _blend(images, share), _blend(patches, share)
    return Mixed(images, patches, _blend(targets, share))


def _blend(tensor: Tensor, share: float) -> Tensor:
    return share * tensor + (1 - share) * tensor.roll(1, 0)


def _draw_box(height: int, width: int, share: float) -> tuple[list[float], float]:
    """Draw a box with 1 - share of the area around a random point, cut at the edges.

    Return it as shares of width and height (x0, y0, x1, y1), and the share that is left of the
    picture.
    """
    side = (1 - share) ** 0.5 / 2
    x, y = torch.rand(2).tolist()
    corners = [max(x - side, 0), max(y - side, 0), min(x + side, 1), min(y + side, 1)]
    x0, y0, x1, y1 = _in_pixels(corners, height, width)
    return corners, 1 - (x1 - x0) * (y1 - y0) / (height * width)


def _in_pixels(box: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)


def _paste(tensor: Tensor, box: list[float]) -> Tensor:
    x0, y0, x1, y1 = _in_pixels(box, tensor.shape[-2], tensor.shape[-1])
    pasted = tensor.clone()
    pasted[..., y0:y1, x0:x1] = tensor.roll(1, 0)[..., y0:y1, x0:x1]
    return pasted


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return a weight for each class: the inverse of its number of pictures.

    Args:
        labels: (n) class indices in [0, k).
        num_classes: k.

    Returns:
        (k) float32: n / (classes that occur * pictures of the class), so that the mean over the
        pictures is 1; 0 for a class without pictures.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 1]), 3)
        tensor([0.6667, 2.0000, 0.0000])
    """
    counts = torch.bincount(labels, minlength=num_classes)
    occurring = int((counts > 0).sum())
    weights = len(labels) / (occurring * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0)
