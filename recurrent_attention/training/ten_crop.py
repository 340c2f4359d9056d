"""A control for looking at parts: the same network, averaged over ten crops of each picture."""

import torch
from einops import rearrange, reduce
from torch import Tensor
from torchvision.transforms.v2.functional import ten_crop

from recurrent_attention._devices import Device
from recurrent_attention._modes import eval_view
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data import Pictures
from recurrent_attention.training.networks import in_dtype_of
from recurrent_attention.training.processes import Resources
from recurrent_attention.training.reading import WholePictures, read_each

WHOLE_OVER_CROP = 8 / 7  # 256 pixels for crops of 224, as Krizhevsky et al. (2012) had it
PICTURES_PER_PASS = 16  # ten crops each


def answers_over_ten_crops(
    model: TwoStreamClassifier,
    pictures: Pictures,
    *,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> Tensor:
    """Let the global stream classify ten crops of each picture, and average its probabilities.

    The crops have `image_size`; they are the corners and the middle of the picture at 8/7 of that
    size, as they are and mirrored.

    Args:
        model: stays as it is, but for the device.
        pictures: no label of theirs is read.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show a bar.

    Returns:
        (n k) probabilities.
    """
    pictures = pictures.for_channels(model.global_backbone.in_chans)
    resources = Resources(model, device=device, num_workers=num_workers, progress=progress)
    shown = WholePictures(model, pictures, round(WHOLE_OVER_CROP * model.image_size))
    every = range(len(pictures))
    found = []
    with eval_view(model) as view, torch.no_grad():
        for _, views in read_each(shown, every, PICTURES_PER_PASS, resources, "ten crops"):
            crops = torch.stack(ten_crop(views, model.image_size), 1)
            images = rearrange(crops, "b n c h w -> (b n) c h w").to(resources.accelerator.device)
            features = view.global_backbone(*in_dtype_of(view, images))
            shares = view.classify_global(features).float().softmax(-1)
            found.append(reduce(shares, "(b n) k -> b k", "mean", n=crops.shape[1]).cpu())
    return torch.cat(found)
