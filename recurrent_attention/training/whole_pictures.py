"""Whole pictures as the global stream sees them, read some at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention._workers import leave_signals
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.images.views import cut_view, reduction_for
from recurrent_attention.training.draws import plainly
from recurrent_attention.training.resources import Resources
from recurrent_attention.training.views import cast

PICTURES_PER_PASS_CPU = 1
PICTURES_PER_PASS = 16  # on other devices
PICTURES_PER_SHARD = 256  # a kill loses no more


class WholePictures(Dataset[tuple[int, Tensor]]):
    """Some of the pictures of a data set, whole, prepared for a model.

    Args:
        model: names the normalisation.
        pictures: all of them.
        indices: which to show.
        side: of the views, in pixels.
    """

    def __init__(
        self, model: TwoStreamClassifier, pictures: Pictures, indices: Sequence[int], side: int
    ) -> None:
        self.pictures, self.indices, self.side = pictures, indices, side
        config = model.data_config
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.interpolation = config["interpolation"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        index = self.indices[position]
        reduction = reduction_for(self.pictures.size(index), self.side)
        pixels = self.pictures.pixels(index, reduction=reduction)
        whole = torch.tensor([0.0, 0.0, pixels.shape[2], pixels.shape[1]])
        look = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        return index, cut_view(pixels, whole, self.side, **look)


def whole_views(
    model: TwoStreamClassifier,
    shown: WholePictures,
    resources: Resources,
    description: str,
) -> Iterator[tuple[list[int], Tensor]]:
    """Read whole pictures, some at a time, onto the model's device and in its dtype.

    Args:
        model: that will see them.
        shown: the pictures.
        resources: to read with.
        description: of the bar.

    Yields:
        The pictures' numbers, and their views (b c side side).
    """
    device = next(model.parameters()).device
    loader: DataLoader[Any] = DataLoader(
        shown,
        PICTURES_PER_PASS_CPU if device.type == "cpu" else PICTURES_PER_PASS,
        num_workers=resources.num_workers,
        generator=torch.Generator(),  # draws a seed from it
        worker_init_fn=leave_signals,
    )
    hidden = not resources.progress or not len(shown)
    with tqdm(total=len(shown), desc=description, unit="picture", disable=hidden) as bar:
        for some, views in plainly(loader):
            yield some.tolist(), cast(model, views.to(device))[0]
            bar.update(len(some))
