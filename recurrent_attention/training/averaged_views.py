"""Controls for looking at parts: the same network, averaged over several views of each picture."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor
from torchvision.transforms.v2.functional import horizontal_flip, ten_crop

from recurrent_attention._devices import Device
from recurrent_attention._modes import eval_view
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data import Pictures
from recurrent_attention.training.networks import in_dtype_of
from recurrent_attention.training.processes import Resources, own_accelerate_state
from recurrent_attention.training.reading import WholePictures, read_each

Averaged = Literal["ten-crop", "mirrored"]
VIEWS_PER_PASS = 160


class ViewSet(NamedTuple):
    """Which views of a picture are averaged.

    Attributes:
        per_picture: how many.
        side: of the picture they are cut out of, as a multiple of their own.
        cut: returns the views of pictures (b c H W), each (b c h w), for the side h of a view.
    """

    per_picture: int
    side: float
    cut: Callable[[Tensor, int], tuple[Tensor, ...]]


VIEW_SETS: dict[Averaged, ViewSet] = {
    # 256 pixels for crops of 224, as Krizhevsky et al. (2012) had it
    "ten-crop": ViewSet(10, 8 / 7, ten_crop),
    "mirrored": ViewSet(2, 1.0, lambda pictures, _: (pictures, horizontal_flip(pictures))),
}


@own_accelerate_state()
def answers_over_views(
    model: TwoStreamClassifier,
    pictures: Pictures,
    averaged: Averaged,
    *,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> Tensor:
    """Let the global stream classify several views of each picture, and average its probabilities.

    A view has `image_size`. "ten-crop" takes the corners and the middle of the picture at 8/7 of
    that size, as they are and mirrored; "mirrored" takes the whole picture and its mirror image.

    Args:
        model: stays as it is, but for the device.
        pictures: no label of theirs is read.
        averaged: "ten-crop" or "mirrored".
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show a bar.

    Returns:
        (n k) probabilities.
    """
    views = VIEW_SETS[averaged]
    pictures = pictures.for_channels(model.global_backbone.in_chans)
    resources = Resources(model, device=device, num_workers=num_workers, progress=progress)
    shown = WholePictures(model, pictures, round(views.side * model.image_size))
    every, per_pass = range(len(pictures)), VIEWS_PER_PASS // views.per_picture
    found = []
    with eval_view(model) as view, torch.no_grad():
        for _, whole in read_each(shown, every, per_pass, resources, averaged):
            cut = torch.stack(views.cut(whole, model.image_size), 1)
            images = rearrange(cut, "b n c h w -> (b n) c h w").to(resources.accelerator.device)
            features = view.global_backbone(*in_dtype_of(view, images))
            shares = view.classify_global(features).float().softmax(-1)
            found.append(reduce(shares, "(b n) k -> b k", "mean", n=views.per_picture).cpu())
    return torch.cat(found)
