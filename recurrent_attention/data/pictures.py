"""Labelled pictures on disk: the form that every data set of this package has."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from recurrent_attention._arguments import one_of
from recurrent_attention._errors import listed, printable
from recurrent_attention.data.conversions import class_names_of, labels_of, names_of
from recurrent_attention.data.decoding import BadPicture, decode_all, faults_of_all
from recurrent_attention.images.reading import Mode, open_picture, picture_size
from recurrent_attention.images.views import mode_of, pixels_of

Loader = Callable[[Path], Image.Image | NDArray[np.uint8]]
Opened = Image.Image | NDArray[np.uint8]


class Pictures(Dataset[tuple[Opened, int]]):
    """List pictures by relative file name, each with a label.

    Override `open` if pictures are no files, or are changed when they are opened: indexing, views,
    sizes, digests and `readable` then go through it. Otherwise the last three read the files.

    Indexing returns `(picture, label)`; the picture is a `PIL.Image` in `mode`, also of grayscale
    files, or an array of the `loader`.

    Args:
        root: the folder that the names are relative to.
        names: relative file names, with forward slashes; paths will do.
        labels: one class index in [0, k) for each name, as whole numbers, an array or a tensor.
        class_names: k names.
        mode: what pictures are opened as: "RGB", "L" (gray) or "RGBA"; see `in_mode`.
        loader: what opens a file instead of `open_picture`: from its path to an upright PIL image
            or an array (h w) or (h w c) of uint8. For formats that are not read, numbers without a
            declared range, other numbers of channels.

    Attributes:
        root: the folder.
        names: tuple of relative file names.
        labels: tuple of class indices.
        class_names: tuple of class names.
        mode: as given.
        loader: as given.

    Raises:
        ValueError: if names and labels differ in number, a label is no class, or a name is listed
            twice or leads out of the folder.
        TypeError: if a name is no text, or a label no whole number.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        names: Iterable[str | os.PathLike[str]],
        labels: Iterable[int],
        class_names: Iterable[str],
        *,
        mode: Mode = "RGB",
        loader: Loader | None = None,
    ) -> None:
        self.root = Path(root)
        self.names = names_of(names, self.root)
        self.class_names = class_names_of(class_names)
        self.labels = labels_of(labels, self.names, len(self.class_names))
        self.mode = mode
        one_of(mode, "mode", get_args(Mode))
        self.loader = loader
        self._sizes: dict[str, tuple[int, int]] = {}  # of what has no header to read them from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__getitem__" in vars(cls) and cls.open is Pictures.open:
            raise TypeError(
                f"Expected {cls.__name__} to override `open`, through which views, sizes and "
                "checks see a picture, but it overrides `__getitem__` alone."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Opened, int]:
        return self.open(index), self.labels[index]

    def path(self, index: int) -> Path:
        """Return the path of picture number `index`."""
        return self.root / self.names[index]

    def open(self, index: int, *, reduction: int = 1) -> Opened:
        """Decode picture number `index`, upright, in this data set's mode.

        Args:
            index: of the picture.
            reduction: as in `open_picture`.

        Returns:
            The picture, or what the loader returned where that is an array.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no picture.
            TypeError: if the loader returned something else.
        """
        if self.loader is None:
            return open_picture(self.path(index), reduction=reduction, mode=self.mode)
        found = self.loader(self.path(index))
        if isinstance(found, Image.Image):
            return open_picture(found, name=printable(self.path(index)), mode=self.mode)
        if isinstance(found, np.ndarray):
            return found
        raise TypeError(
            f"Expected `loader` to return a PIL image or an array of uint8 for "
            f"{printable(self.path(index))}, but got {type(found).__name__}."
        )

    def pixels(self, index: int, *, reduction: int = 1) -> Tensor:
        """Return the pixels of picture number `index` in this data set's mode: (c h w) uint8.

        Args:
            index: of the picture.
            reduction: as in `open_picture`.
        """
        found = self.open(index, reduction=reduction)
        if isinstance(found, np.ndarray) and found.shape[2:] in ((), (1,), (3,), (4,)):
            pixels_of(found)  # refuses what is no picture
            found = Image.fromarray(found[..., 0] if found.shape[2:] == (1,) else found)
        if isinstance(found, Image.Image) and found.mode != self.mode:
            found = open_picture(found, mode=self.mode)
        return pixels_of(found)

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of picture number `index` in pixels.

        Read it from the file's header; with a loader or an `open` of your own, open the picture.
        """
        if self.is_plain:
            return picture_size(self.path(index))
        name = self.names[index]
        if name not in self._sizes:
            _, height, width = self.pixels(index).shape
            self._sizes[name] = (width, height)
        return self._sizes[name]

    def content(self, index: int) -> str:
        """Return a digest of picture number `index`: of its file, or of its pixels without one."""
        if self.is_plain:
            return hashlib.sha256(self.path(index).read_bytes()).hexdigest()
        pixels = self.pixels(index)
        digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def is_plain(self) -> bool:
        """Whether what is opened is what the file holds."""
        return self.loader is None and type(self).open is Pictures.open

    def in_mode(self, mode: Mode) -> Self:
        """Return the same pictures, opened as "RGB", "L" (gray) or "RGBA"."""
        if mode == self.mode:
            return self
        other = self.subset(range(len(self)))
        other.mode = mode
        return other

    def for_channels(self, in_chans: int) -> Self:
        """Return the same pictures, opened for a model of so many channels.

        Args:
            in_chans: 1 opens gray, 3 RGB, 4 RGB with alpha; others need a loader, or an `open` of
                a subclass, that returns arrays of so many.

        Raises:
            ValueError: if there is neither.
        """
        if in_chans not in (1, 3, 4) and not self.is_plain:
            return self
        return self.in_mode(mode_of(in_chans))

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
        can be read, are kept (`check_pictures`).

        Args:
            num_workers: processes that decode; 0 is this one.
            progress: show a bar.

        Returns:
            A data set of the readable pictures, in the order of this one, and for each of the
            others its path (of `PictureItems` its name) and what is wrong with it.

        Raises:
            ValueError: if `num_workers` is negative.
            RuntimeError: if a worker is ended from outside, as by a system without memory.
        """
        if self.is_plain:
            decoded = decode_all(
                map(self.path, range(len(self))),
                len(self),
                num_workers=num_workers,
                progress=progress,
                description="read pictures",
            )
            with closing(decoded):  # its bar ends before anybody says why
                faults = ["" if found.is_readable else found.reason for found in decoded]
        else:  # its own `open`, or a loader, reads what no file says
            faults = faults_of_all(self, num_workers=num_workers, progress=progress)
        kept = [index for index, fault in enumerate(faults) if not fault]
        bad = [BadPicture(self._called(i), fault) for i, fault in enumerate(faults) if fault]
        return self.subset(kept), bad

    def _called(self, index: int) -> Path:
        """Return what a message calls picture number `index`."""
        return self.path(index)

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
            TypeError: if it is no number.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise TypeError(f"Expected `fraction` to be a number, but got {fraction!r}.")
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
        lone = [self.class_names[label] for label in sorted(by_class) if len(by_class[label]) == 1]
        if lone:
            warnings.warn(
                f"{len(lone)} of {len(by_class)} classes have one picture, which cannot be split: "
                f"{listed(lone)}. What is split off lacks them.",
                stacklevel=2,
            )
        kept = [index for index in range(len(self)) if index not in held_out]
        return self.subset(kept), self.subset(sorted(held_out))


def require_pictures(pictures: Any, hint: str = "") -> None:
    """Refuse what is no `Pictures`."""
    if not isinstance(pictures, Pictures):
        raise TypeError(
            "Expected `pictures` to be Pictures, such as PictureFolder(root), but got "
            f"{type(pictures).__name__}.{hint}"
        )
