"""What chance decides in training, from the seed, the epoch and the picture alone.

Nothing depends on what was drawn before. So a resumed run, one with more worker processes, and one
that is spread over several machines see the same pictures in the same order, cut, flipped and
cropped in the same way.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recurrent_attention._workers import leave_signals

T = TypeVar("T")


def seed_of(*parts: int | str) -> int:
    """Return a seed for torch's generators, in [0, 2^63), that `parts` alone decide on."""
    digest = hashlib.blake2b("-".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def own_random_state() -> AbstractContextManager[None]:
    """Give the caller's random state back afterwards, that of the CPU and of every GPU.

    Without `devices`, torch warns where there are several GPUs.
    """
    return torch.random.fork_rng(range(torch.cuda.device_count()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from generators that begin at `seed` meanwhile; the caller's come back afterwards."""
    with own_random_state():
        torch.manual_seed(seed)
        yield


@dataclass(eq=False)
class Draws(Dataset[tuple[Any, ...]]):
    """A data set whose samples draw from a generator seeded by seed, epoch and position.

    Indexing by (epoch, index) returns `(index, *sample)`; (epoch, index, n) is another draw of the
    same picture. The data draw from torch's global generator, which is left wherever they leave
    it: training seeds it anew before each batch.
    """

    data: Any
    seed: int

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Any, ...]:
        return (place[1], *self._seeded(place, self.data.__getitem__))

    def __getitems__(self, places: Sequence[tuple[int, ...]]) -> list[tuple[Any, ...]]:
        """Return the samples of a batch. Data that can `draw` are read together afterwards."""
        if not hasattr(self.data, "draw"):
            return [self[place] for place in places]
        indices = [place[1] for place in places]
        drawn = [self._seeded(place, self.data.draw) for place in places]
        read = self.data.read(indices, drawn)
        return [(index, *sample) for index, sample in zip(indices, read, strict=True)]

    def _seeded(self, place: tuple[int, ...], draw: Callable[[int], Any]) -> Any:
        # A GPU's generators have no part in reading pictures, and a worker process may not touch
        # them.
        torch.default_generator.manual_seed(seed_of(self.seed, *place))
        return draw(place[1])


class EpochOrder(Sampler[tuple[int, ...]]):
    """Go over (epoch, index), in an order that seed and epoch decide on, from any place in it.

    `data` is as long as the epoch. Without `shuffle` the order is that of the data. With `weights`,
    one for each sample, samples are drawn by these instead, with repetition: the n-th repetition in
    an epoch is (epoch, index, n), so that it is not the same view once more.
    """

    def __init__(
        self, data: Sized, seed: int, *, shuffle: bool, weights: Tensor | None = None
    ) -> None:
        self.length = len(data)
        self.weights = weights
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.first = 0

    def go_to(self, epoch: int, first: int = 0) -> None:
        """Set the epoch, and how many samples of it are left out, for the next iteration."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.length - self.first

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        order: Sequence[int] = range(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch, "order"))
            if self.weights is None:
                order = torch.randperm(self.length, generator=generator).tolist()
            else:  # torch's multinomial takes 2^24 samples at most
                sums = self.weights.double().cumsum(0)
                drawn = torch.rand(self.length, dtype=torch.float64, generator=generator)
                places = torch.searchsorted(sums, drawn * sums[-1], right=True)
                order = places.clamp_(max=self.length - 1).tolist()
        seen: Counter[int] = Counter()
        for place, index in enumerate(order):
            again = seen[index]
            seen[index] += 1
            if place >= self.first:
                yield (self.epoch, index, again) if again else (self.epoch, index)


def loader_of(
    data: Any, order: EpochOrder, batch_size: int, num_workers: int, *, drop_last: bool = False
) -> DataLoader[Any]:
    """Build the loader that goes over `data` in `order`: (indices, *what the data return)."""
    return DataLoader(
        Draws(data, order.seed),
        batch_size,
        sampler=order,
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals,
    )


def plainly(batches: Iterable[T]) -> Iterator[T]:
    """Go over a loader; what failed in a worker process is raised as it would be in this one.

    A `DataLoader` puts the worker's whole traceback into the message.
    """
    try:
        yield from batches
    except (OSError, TypeError, ValueError) as error:
        text = str(error).rstrip()
        if not text.startswith("Caught "):
            raise
        raise type(error)(text.rpartition(f"\n{type(error).__name__}: ")[2]) from error
