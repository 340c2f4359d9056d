"""Pictures read some at a time, and whole ones as the global stream sees them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention._workers import leave_signals
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.images.views import EDITION, cut_view, reduction_for
from recurrent_attention.training.draws import plainly
from recurrent_attention.training.feature_store import (
    KEY_BYTES,
    KEYS_AT_ONCE,
    Bytes,
    FeatureStore,
    Numbers,
    Pending,
    batched,
    tables_of,
)
from recurrent_attention.training.networks import in_dtype_of
from recurrent_attention.training.processes import Resources, from_all, share_of_missing

PICTURES_PER_PASS_CPU = 1
PICTURES_PER_PASS = 16  # on other devices


def read_each(
    data: Dataset[Any],
    indices: Sequence[int],
    batch_size: int | None,
    resources: Resources,
    description: str,
) -> Iterator[Any]:
    """Read some samples of a data set, in order, behind a bar.

    `data` returns (index, ...). Yield batches of samples; single ones if `batch_size` is None.
    """
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size,
        sampler=indices,
        num_workers=resources.num_workers,
        generator=torch.Generator(),  # for the workers' seeds; the caller's random state stays
        worker_init_fn=leave_signals,
    )
    hidden = not resources.progress or not indices
    with tqdm(total=len(indices), desc=description, unit="picture", disable=hidden) as bar:
        for samples in plainly(loader):
            yield samples
            bar.update(1 if batch_size is None else len(samples[0]))


class Appearances:
    """What decides how each picture looks, for keys: its content and size, and what prepares it.

    Several processes share the reading; each file is read once. What is kept are some 80 bytes a
    picture.

    Args:
        place: returns what holds picture number `index` and prepares it, and its number there; the
            former has `pictures`, `mean`, `std` and `interpolation`.
        count: of the pictures.
        resources: a bar is shown where the reading takes seconds.

    Attributes:
        sizes: (n 2) width and height of each picture.
    """

    def __init__(
        self, place: Callable[[int], tuple[Any, int]], count: int, resources: Resources
    ) -> None:
        self._place = place
        state = PartialState()
        mine = range(state.process_index, count, state.num_processes)
        hidden = not resources.progress
        bar = tqdm(mine, desc="files", unit="picture", delay=2, leave=False, disable=hidden)
        read: Any = [self._read(some) for some in batched(bar, KEYS_AT_ONCE)] or [self._read([])]
        read = tuple(np.concatenate(tables) for tables in zip(*read, strict=True))
        every = from_all(read)
        self._contents = np.empty(count, np.result_type(*(contents for contents, _ in every)))
        self.sizes = np.empty((count, 2), np.int64)
        for process, (some, of_these) in enumerate(every):
            self._contents[process :: state.num_processes] = some
            self.sizes[process :: state.num_processes] = of_these

    def _read(self, indices: Sequence[int]) -> tuple[NDArray[np.bytes_], Numbers]:
        places = [self._place(index) for index in indices]
        contents = [data.pictures.content(number).encode() for data, number in places]
        sizes = [data.pictures.size(number) for data, number in places]
        return np.array(contents, np.bytes_), np.array(sizes, np.int64).reshape(-1, 2)

    def __getitem__(self, index: int) -> list[Any]:
        """Return all that decides how a picture looks but the part and the size of the view."""
        data, _ = self._place(index)
        content = bytes(self._contents[index]).decode()
        size = self.sizes[index].tolist()
        return [content, size, data.mean, data.std, data.interpolation, EDITION]


class WholePictures(Dataset[tuple[int, Tensor]]):
    """The pictures of a data set, whole, prepared for a model; views of `side` pixels."""

    def __init__(self, model: TwoStreamClassifier, pictures: Pictures, side: int) -> None:
        self.pictures, self.side = pictures, side
        config = model.data_config
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.interpolation = config["interpolation"]

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        reduction = reduction_for(self.pictures.size(index), self.side)
        pixels = self.pictures.pixels(index, reduction=reduction)
        whole = torch.tensor([0.0, 0.0, pixels.shape[2], pixels.shape[1]])
        look = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        return index, cut_view(pixels, whole, self.side, **look)


def fill_store(
    store: FeatureStore,
    shown: WholePictures,
    keys_of: Callable[[list[Any]], Sequence[bytes]],
    see: Callable[[Tensor], Sequence[Tensor]],
    model: TwoStreamClassifier,
    resources: Resources,
    description: str,
) -> tuple[Tensor, Numbers]:
    """Compute what a store does not hold of whole pictures; several processes share the work.

    `keys_of` turns an entry of `Appearances` into the m keys of that picture, m for each.
    `see` gets views (b c side side), on the model's device and in its dtype, and returns m tensors
    (b ...): the rows for each of the keys.
    Return the positions (n m) of all rows, and the pictures' sizes (n 2), width before height.
    """
    keys, sizes = _keys_and_sizes(shown, keys_of, resources)

    def find() -> Tensor:
        return store.find(keys.reshape(-1, KEY_BYTES)).view(keys.shape[:2])

    positions = find()
    absent = (positions < 0).any(1).nonzero()[:, 0].numpy()
    missing = share_of_missing(absent)
    device = next(model.parameters()).device
    batch_size = PICTURES_PER_PASS_CPU if device.type == "cpu" else PICTURES_PER_PASS
    pending = Pending(store)
    for indices, views in read_each(shown, missing, batch_size, resources, description):
        for number, rows in enumerate(see(in_dtype_of(model, views.to(device))[0])):
            pending.add(keys[indices.numpy(), number], rows)
    pending.flush()
    store.exchange()
    if len(absent):
        positions = find()
    store.forget_keys()
    return positions, sizes


def _keys_and_sizes(
    shown: WholePictures, keys_of: Callable[[list[Any]], Sequence[bytes]], resources: Resources
) -> tuple[Bytes, Numbers]:
    count = len(shown.pictures)
    appearances = Appearances(lambda index: (shown, index), count, resources)
    return tables_of(lambda index: keys_of(appearances[index]), count), appearances.sizes
