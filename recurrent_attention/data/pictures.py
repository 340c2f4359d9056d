"""Labelled pictures on disk: the form that every data set of this package has."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch.utils.data import Dataset

from recurrent_attention.data.decoding import BadPicture, decode_all
from recurrent_attention.reading import open_picture, picture_size

_OUT = re.compile(r"^$|^/|(^|/)\.\.(/|$)|\\|^[A-Za-z]:|\0")  # on Windows, too
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


class Pictures(Dataset[tuple[Image.Image, int]]):
    """Pictures by relative file name, each with a label.

    Indexing gives `(picture, label)` with an RGB `PIL.Image`, also for grayscale or palette files.

    Args:
        root: the folder that the names are relative to.
        names: relative file names, with forward slashes.
        labels: one class index in [0, k) for each name.
        class_names: k names.

    Attributes:
        root: the folder.
        names: tuple of relative file names.
        labels: tuple of class indices.
        class_names: tuple of class names.

    Raises:
        ValueError: if names and labels differ in number, a name stands twice, or leads out of the
            folder.
    """

    def __init__(
        self,
        root: str | Path,
        names: Iterable[str],
        labels: Iterable[int],
        class_names: Iterable[str],
    ) -> None:
        self.root = Path(root)
        self.names = tuple(names)
        self.labels = tuple(labels)
        self.class_names = tuple(class_names)
        if len(self.names) != len(self.labels):
            raise ValueError(
                "Expected `names` and `labels` to be equally many, but got "
                f"{len(self.names)} and {len(self.labels)}."
            )
        if len(set(self.names)) != len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"Expected each picture to be listed once, but {twice} stands twice.")
        for name in self.names:  # they may come from the text files of others
            if _OUT.search(name):
                raise ValueError(
                    f"Expected names of pictures below {self.root}, but got {name[:200]!r}."
                )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.open(index), self.labels[index]

    def path(self, index: int) -> Path:
        """Tell where picture number `index` lies."""
        return self.root / self.names[index]

    def open(self, index: int, *, reduction: int = 1) -> Image.Image:
        """Decode picture number `index`, in RGB and upright.

        Args:
            index: of the picture.
            reduction: as in `open_picture`.

        Returns:
            The picture.
        """
        return open_picture(self.path(index), reduction=reduction)

    def size(self, index: int) -> tuple[int, int]:
        """Tell (width, height) of picture number `index` in pixels, from its file's header."""
        return picture_size(self.path(index))

    def subset(self, indices: Sequence[int]) -> Self:
        """Keep some of the pictures, in the given order.

        Args:
            indices: positions in this data set.

        Returns:
            A data set of the same class, sharing whatever else belongs to it (boxes, parts).
        """
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen.names = tuple(self.names[i] for i in indices)
        chosen.labels = tuple(self.labels[i] for i in indices)
        return chosen

    def readable(
        self, *, num_workers: int = 0, progress: bool = True
    ) -> tuple[Self, list[BadPicture]]:
        """Keep the pictures that can be read, and name those that cannot.

        Each is decoded, as training would do it. Pictures that a check finds fault with, but that
        can be read, are kept (`recurrent_attention.data.check`).

        Args:
            num_workers: processes that decode; 0 is this one.
            progress: show a bar.

        Returns:
            A data set of the readable pictures, in the order of this one, and for each of the
            others its path and what is wrong with it.

        Raises:
            ValueError: if `num_workers` is negative.
            RuntimeError: if a worker is ended from outside, as by a system without memory.
        """
        paths = [self.path(index) for index in range(len(self))]
        decoded = decode_all(
            paths, num_workers=num_workers, progress=progress, description="read pictures"
        )
        kept, bad = [], []
        for index, found in enumerate(decoded):
            if found.is_readable:
                kept.append(index)
            else:
                bad.append(BadPicture(paths[index], found.reason))
        return self.subset(kept), bad

    def split(self, fraction: float, *, seed: int) -> tuple[Self, Self]:
        """Split off a validation set, with the same share of every class.

        Args:
            fraction: share of each class to split off, in (0, 1); at least one picture of each
                class that has two, and never all of them.
            seed: of the draw; the global random state is left alone.

        Returns:
            What remains, and what was split off, each in the order of this data set.

        Raises:
            ValueError: if `fraction` is not in (0, 1).
        """
        if not 0 < fraction < 1:
            raise ValueError(f"Expected `fraction` to be in (0, 1), but got {fraction}.")
        generator = torch.Generator().manual_seed(seed)
        by_class: dict[int, list[int]] = {}
        for index, label in enumerate(self.labels):
            by_class.setdefault(label, []).append(index)
        held_out: set[int] = set()
        for _, members in sorted(by_class.items()):
            wanted = max(1, round(fraction * len(members)))
            order = torch.randperm(len(members), generator=generator).tolist()
            held_out.update(members[i] for i in order[: min(wanted, len(members) - 1)])
        kept = [index for index in range(len(self)) if index not in held_out]
        return self.subset(kept), self.subset(sorted(held_out))


def pictures_under(folder: str | Path) -> list[Path]:
    """List the picture files in a folder, at any depth, sorted; hidden ones are left out.

    Args:
        folder: where to look.

    Returns:
        Paths that begin with `folder`.
    """
    return sorted(
        (
            file
            for file in Path(folder).rglob("*")
            if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."
        ),
        key=lambda file: file.parts,  # paths of Windows compare without case: another order
    )
