"""A table on disk of what networks found in pictures, by what it was computed from."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recurrent_attention._files import check_regular_file, whole_file
from recurrent_attention.training.processes import from_all


class FeatureStore:
    """Feature vectors, maps or boxes by key, in memory or in a folder of safetensors files.

    Each file is written beside its place, then renamed, so that it is whole or not there; a file's
    rows are mapped from disk, not read, until they are asked for.

    Args:
        folder: where to keep them, or None for memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._shards: list[Tensor] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._added: list[tuple[Tensor, Tensor]] = []
        for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
            check_regular_file(path, "a file of features", "Remove it.")
            tensors = load_file(path)
            self._index(tensors["keys"], tensors["features"])

    @classmethod
    def of(cls, digest: str, cache_dir: Path | None) -> Self:
        """Open the part of a cache that holds what was computed with what `digest` names."""
        short = hashlib.sha256(digest.encode()).hexdigest()[:16]
        return cls(None if cache_dir is None else cache_dir / short)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __getitem__(self, key: bytes) -> Tensor:
        shard, row = self._places[key]
        return self._shards[shard][row]

    def add(self, keys: list[bytes], features: Tensor) -> None:
        """Keep features (n ...) under n keys."""
        table = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), -1)
        features = features.contiguous()
        self._index(table, features)
        self._added.append((table, features))
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(table.numpy().tobytes()).hexdigest()
            with whole_file(self.folder / f"{name}.safetensors") as beside:
                save_file({"keys": table, "features": features}, beside)

    def exchange(self) -> None:
        """Take over, in memory, what the other processes added since the last exchange."""
        others = from_all(self._added)
        del others[PartialState().process_index]  # its own are here already
        for theirs in others:
            for table, features in theirs:
                self._index(table, features)
        self._added = []

    def _index(self, keys: Tensor, features: Tensor) -> None:
        for row, key in enumerate(keys.numpy()):
            self._places[key.tobytes()] = (len(self._shards), row)
        self._shards.append(features)


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
