"""A table on disk of what networks found in pictures, by what it was computed from."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recurrent_attention._files import check_regular_file, make_folder, whole_file
from recurrent_attention.training.processes import from_all

T = TypeVar("T")
KEY_BYTES = 32  # of SHA-256
BYTES_OF_A_FILE = 32_000_000  # about; a process can map some 65,000 files
SECONDS_BETWEEN_FILES = 20.0  # the work that a kill loses
KEYS_AT_ONCE = 4096  # pictures whose keys are computed before they are looked up
ROWS_AT_ONCE = 65536  # keys that are looked up together, so that this needs little memory
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]


class FeatureStore:
    """Feature vectors, maps or boxes by key, in memory or in a folder of safetensors files.

    A row is read by its position, which `find` returns for its key. Each file is written beside its
    place, then renamed, so that it is whole or not there. Its rows are mapped from disk, not read,
    until they are asked for, and all processes of a machine share them. What a process keeps for
    itself are 16 bytes a row, from the first `find` to the next `add` or `forget_keys`.

    Args:
        folder: where to keep them, or None for memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._keys: list[Tensor] = []  # (n 32) of each file
        self._features: list[Tensor] = []  # (n ...)
        self._starts = np.zeros(1, np.int64)  # position of each file's first row, and the next one
        # The first 8 bytes of every key, sorted, and the positions of the rows with these.
        self._index: tuple[Any, Numbers] | None = None
        self._added: list[tuple[str, Tensor, Tensor]] = []
        for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
            check_regular_file(path, "a file of features", "Remove it.")
            self._take(load_file(path))

    @classmethod
    def of(cls, digest: str, cache_dir: Path | None) -> Self:
        """Open the part of a cache that holds what was computed with what `digest` names."""
        short = hashlib.sha256(digest.encode()).hexdigest()[:16]
        return cls(None if cache_dir is None else cache_dir / short)

    def find(self, keys: Sequence[bytes] | Bytes) -> Tensor:
        """Return the position (n) of each key's row, -1 where there is none."""
        if self._index is None:
            self._index = self._indexed()
        table = table_of(keys)
        starts = range(0, len(table), ROWS_AT_ONCE)
        found = [self._find(table[start : start + ROWS_AT_ONCE], *self._index) for start in starts]
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *found]))

    def forget_keys(self) -> None:
        """Free the memory that `find` needs; the next one builds it up again."""
        self._index = None

    def _indexed(self) -> tuple[Any, Numbers]:
        prefixes = np.empty(self._starts[-1], np.uint64)
        for start, table in zip(self._starts, self._keys, strict=False):
            prefixes[start : start + len(table)] = _prefixes_of(table.numpy())
        order = np.argsort(prefixes, kind="stable")
        return prefixes[order], order

    def _find(self, table: Bytes, sorted_prefixes: Any, positions_of: Numbers) -> Numbers:
        prefixes = _prefixes_of(table)
        found = np.full(len(table), -1, np.int64)
        at = np.searchsorted(sorted_prefixes, prefixes)
        left = np.arange(len(table))
        while len(left := left[at[left] < len(sorted_prefixes)]):
            left = left[sorted_prefixes[at[left]] == prefixes[left]]
            positions = positions_of[at[left]]
            same = (self._gather(self._keys, positions).numpy() == table[left]).all(1)
            found[left[same]] = positions[same]
            left = left[~same]  # another key that begins alike; the next one may be it
            at[left] += 1
        return found

    def rows(self, positions: Tensor) -> Tensor:
        """Read the rows (n ...) at positions (n)."""
        return self._gather(self._features, positions.numpy())

    def add(self, keys: Sequence[bytes] | Bytes, features: Tensor) -> None:
        """Keep features (n ...) under n keys."""
        tensors = {"keys": torch.from_numpy(table_of(keys)), "features": features.contiguous()}
        name = hashlib.sha256(tensors["keys"].numpy().tobytes()).hexdigest() + ".safetensors"
        if self.folder is not None:
            make_folder(self.folder)
            with whole_file(self.folder / name) as beside:
                save_file(tensors, beside)
            tensors = load_file(self.folder / name)  # mapped: what was computed can be forgotten
        self._take(tensors)
        self._added.append((name, tensors["keys"], tensors["features"]))

    def exchange(self) -> None:
        """Take over what the other processes added since the last exchange.

        Files are mapped where every process finds them; what is in memory, or on the disks of
        another machine, is sent.
        """
        if PartialState().num_processes > 1:
            mine = [name for name, *_ in self._added]
            names = [n for some in _of_others(mine) for n in some]
            folder = self.folder
            if all(from_all(folder is not None and all((folder / n).is_file() for n in names))):
                assert folder is not None
                for name in names:
                    self._take(load_file(folder / name))
            else:
                for some in _of_others(self._added):
                    for _, keys, features in some:
                        self._take({"keys": keys, "features": features})
        self._added = []

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self._keys.append(tensors["keys"])
        self._features.append(tensors["features"])
        self._starts = np.append(self._starts, self._starts[-1] + len(tensors["keys"]))
        self._index = None

    def _gather(self, tables: list[Tensor], positions: Numbers) -> Tensor:
        """Read rows at positions out of the tables of all files."""
        files = np.searchsorted(self._starts, positions, side="right") - 1
        order = np.argsort(files, kind="stable")
        by_file = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
        shape, dtype = (tables[0].shape[1:], tables[0].dtype) if tables else ((), torch.uint8)
        found = torch.empty((len(positions), *shape), dtype=dtype)
        for some in by_file if len(positions) else []:
            file = files[some[0]]
            rows = torch.from_numpy(positions[some] - self._starts[file])
            found[torch.from_numpy(some)] = tables[file][rows]
        return found


class Pending:
    """Rows on their way into a store: few files of many rows, and few seconds lost by a kill.

    Args:
        store: where `add` puts them now and then, and `flush` at last.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._keys: list[Bytes] = []
        self._features: list[Tensor] = []
        self._since = time.monotonic()

    def add(self, keys: Sequence[bytes] | Bytes, features: Tensor) -> None:
        """Keep features (n ...) under n keys, sooner or later."""
        self._keys.append(table_of(keys))
        self._features.append(features)
        late = time.monotonic() - self._since > SECONDS_BETWEEN_FILES
        if late or sum(found.nbytes for found in self._features) > BYTES_OF_A_FILE:
            self.flush()

    def flush(self) -> None:
        """Keep what is left."""
        if self._keys:
            self.store.add(np.concatenate(self._keys), torch.cat(self._features))
        self._keys, self._features, self._since = [], [], time.monotonic()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`; itertools has it from Python 3.12 on."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def table_of(keys: Sequence[bytes] | Bytes) -> Bytes:
    """Put n keys into a table (n 32), where they are not in one."""
    if isinstance(keys, np.ndarray):
        return keys
    return np.frombuffer(bytearray(b"".join(keys)), np.uint8).reshape(-1, KEY_BYTES)


def tables_of(keys_of: Callable[[int], Sequence[bytes]], count: int) -> Bytes:
    """Put the m keys that `keys_of` returns for each number below n into a table (n m 32)."""
    of_each = len(keys_of(0)) if count else 1
    found = np.empty((count, of_each, KEY_BYTES), np.uint8)
    for some in batched(range(count), KEYS_AT_ONCE):
        keys = [key for index in some for key in keys_of(index)]
        found[some[0] : some[-1] + 1] = table_of(keys).reshape(-1, of_each, KEY_BYTES)
    return found


def _prefixes_of(table: Bytes) -> Any:
    return np.ascontiguousarray(table[:, :8]).view(np.uint64)[:, 0]


def _of_others(mine: T) -> list[T]:
    every = from_all(mine)
    del every[PartialState().process_index]
    return every


def digest_of(module: nn.Module) -> str:
    """Name a network by its architecture as built and its weights, in hexadecimal."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def key_of(*parts: Any) -> bytes:
    """Return the key of what is computed from `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def keys_of_each(parts: Sequence[Any], ends: Iterable[Sequence[Any]]) -> list[bytes]:
    """Return `key_of(*parts, *end)` for each end; what they share is hashed once."""
    shared = hashlib.sha256(json.dumps(parts)[:-1].encode())
    keys = []
    for end in ends:
        digest = shared.copy()
        digest.update(f", {json.dumps(end)[1:]}".encode())
        keys.append(digest.digest())
    return keys
