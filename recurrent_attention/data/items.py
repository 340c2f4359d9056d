"""Pictures that are no files: of a `datasets.Dataset`, of torchvision, of any list of pairs."""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from recurrent_attention._errors import listed, printable
from recurrent_attention.data.pictures import Opened, Pictures
from recurrent_attention.data.sources import find_source, part_of
from recurrent_attention.images.reading import Mode, open_picture, picture_size


class PictureItems(Pictures):
    """Take the pictures of another library's data set, or of any list of pairs, as `Pictures`.

    A picture may be a PIL image, a path, the bytes of a file, or an array (h w) or (h w c) of
    uint8. It is opened upright, in this data set's mode, as a file would be. Each item has to give
    the same picture every time: augmentations belong after it.

    Names are made up: "item-000012" is item 12, also in a subset and after a split.

    Args:
        items: a Hugging Face `datasets.Dataset`; a data set of torchvision, such as `ImageFolder`;
            a torch `Subset` of one of these; or whatever has `__len__` and
            `__getitem__ -> (image, label)`. Transforms of a `datasets.Dataset` or `ImageFolder` are
            left out.
        image: the column, key or place of the picture in an item. Default: the one column with the
            feature `Image`, or else 0.
        label: likewise of the label. Default: the one column with the feature `ClassLabel`, or
            else 1.
        labels: one for each item. Default: the data set's own (the column, `targets`, `samples`);
            where it has none, the items are gone over once.
        class_names: k names, which labels in words are looked up in. Default: the data set's own
            (`ClassLabel.names`, `classes`); or else labels in words, sorted, or numbers as text.
        mode: as in `Pictures`.
        prefix: of the names, for two data sets whose boxes go in one file.

    Raises:
        ValueError: if columns or labels do not fit.
        TypeError: if `items` is no data set, or an item no pair.

    Example:
        >>> wren, finch = Image.new("RGB", (8, 6)), np.zeros((6, 8, 3), np.uint8)
        >>> pictures = PictureItems([(wren, "wren"), (finch, "finch")])
        >>> pictures.names, pictures.labels, pictures.class_names, pictures.size(0)
        (('item-000000', 'item-000001'), (1, 0), ('finch', 'wren'), (8, 6))
    """

    def __init__(
        self,
        items: Any,
        *,
        image: int | str | None = None,
        label: int | str | None = None,
        labels: Iterable[Any] | None = None,
        class_names: Iterable[str] | None = None,
        mode: Mode = "RGB",
        prefix: str = "item",
    ) -> None:
        source = find_source(items, image, label, need_labels=labels is None)
        names = [f"{prefix}-{number:06d}" for number in range(len(source.items))]
        rows = source.labels if labels is None else labels
        if rows is None:
            found = zip(names, map(source.items.__getitem__, range(len(names))), strict=True)
            rows = [part_of(item, source.label, name) for name, item in found]
        rows = rows.tolist() if hasattr(rows, "tolist") else list(rows)
        if len(rows) != len(names):
            raise ValueError(
                f"Expected `labels` to hold one for each of the {len(names)} items, but got "
                f"{len(rows)}."
            )
        known = source.class_names if class_names is None else class_names
        numbers, classes = _classes(rows, None if known is None else list(known))
        super().__init__(Path(), names, numbers, classes, mode=mode)
        self._items, self._image, self._open = source.items, source.image, source.loader

    def path(self, index: int) -> Path:
        """Return the path of picture number `index`, if it is a file.

        Raises:
            ValueError: if it is none.
        """
        found = self._picture(index)
        if isinstance(found, str | os.PathLike):
            return Path(found)
        raise ValueError(
            f"Expected a picture in a file, but {printable(self.names[index])} is "
            f"{_kind(found)}. Take `open` or `pixels`, which need no file."
        )

    def open(self, index: int, *, reduction: int = 1) -> Opened:
        """Open picture number `index`, upright, in this data set's mode.

        Args:
            index: of the picture.
            reduction: as in `open_picture`, for files and their bytes.

        Returns:
            The picture, or an array (h w c) where it has other channels than 1, 3 or 4.

        Raises:
            FileNotFoundError: if it is a path to nothing.
            ValueError: if it cannot be read.
            TypeError: if it is something else than a picture.
        """
        found, name = self._picture(index), printable(self.names[index])
        if self._open is not None and isinstance(found, str | os.PathLike):
            found = self._open(found)
        if isinstance(found, np.ndarray):
            return self._of_array(found, name)
        if isinstance(found, bytes):
            found = io.BytesIO(found)
        if isinstance(found, str | os.PathLike | io.BytesIO | Image.Image):
            return open_picture(found, name=name, reduction=reduction, mode=self.mode)
        hint = " Leave its transform out, or give (h, w, c) as an array."
        raise TypeError(
            f"Expected {name} to be a PIL image, a path, the bytes of a file or an array of uint8, "
            f"but got {_kind(found)}.{hint if isinstance(found, torch.Tensor) else ''}"
        )

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of picture number `index` in pixels; of a file its header's."""
        name = self.names[index]
        if name not in self._sizes and self._open is None:
            found = self._picture(index)
            found = io.BytesIO(found) if isinstance(found, bytes) else found
            if isinstance(found, str | os.PathLike | io.BytesIO):
                self._sizes[name] = picture_size(found, name=printable(name))
        return super().size(index)

    def content(self, index: int) -> str:
        """Return a digest of picture number `index`: of its file, or of its pixels without one."""
        found = None if self._open is not None else self._picture(index)
        if isinstance(found, str | os.PathLike):
            found = Path(found).read_bytes()
        if isinstance(found, bytes):
            return hashlib.sha256(found).hexdigest()
        return super().content(index)

    def _called(self, index: int) -> Path:
        """Return the name of picture number `index`, in place of a path."""
        return Path(self.names[index])

    def _picture(self, index: int) -> Any:
        """Return the picture of an item as it is there; of a file in a table its bytes or path."""
        name = self.names[index]
        item = self._items[int(name.rpartition("-")[2])]
        found = part_of(item, self._image, printable(name))
        if isinstance(found, Mapping) and set(found) == {"bytes", "path"}:  # of `datasets.Image`
            return found["path"] if found["bytes"] is None else found["bytes"]
        return found

    def _of_array(self, array: np.ndarray[Any, Any], name: str) -> Opened:
        known = array.shape[2:] in ((), (1,), (3,), (4,))
        first = array.ndim == 3 and not known and array.shape[0] in (1, 3, 4)  # (c, h, w)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0 or first:
            raise ValueError(
                f"Expected {name} to be an array (h, w) or (h, w, c) of uint8, but got "
                f"{array.dtype} in shape {array.shape}."
                + (" Give array.transpose(1, 2, 0)." if first else "")
            )
        if not known:
            return array
        flat = array[..., 0] if array.shape[2:] == (1,) else array
        return open_picture(Image.fromarray(np.ascontiguousarray(flat)), mode=self.mode)


def _classes(rows: Sequence[Any], known: list[str] | None) -> tuple[list[Any], list[str]]:
    """Return class indices and class names; what is neither is left for `Pictures` to refuse."""
    if rows and all(isinstance(row, str) for row in rows):
        names = sorted(set(rows)) if known is None else known
        absent = sorted(set(rows) - set(names))
        if absent:
            raise ValueError(
                f"Expected labels among the {len(names)} class names ({listed(names)}), but got "
                f"{printable(absent[0])!r}."
            )
        place = {name: index for index, name in enumerate(names)}
        return [place[row] for row in rows], names
    if known is not None:
        return list(rows), known
    numbers = [int(row) for row in rows if hasattr(row, "__index__")]
    return list(rows), [str(number) for number in range(max(numbers, default=-1) + 1)]


def _kind(found: Any) -> str:
    if found is None:
        return "None"
    if isinstance(found, bytes):
        return "the bytes of one"
    return "a PIL image" if isinstance(found, Image.Image) else f"a {type(found).__name__}"
