"""What people pass as names, labels and boxes, turned into what the data sets keep, or refused."""

import operator
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from recurrent_attention._errors import printable

_OUT = re.compile(r"^$|^/|(^|/)\.\.(/|$)|\\|^[A-Za-z]:|\0")  # on Windows, too


def names_of(names: Any, root: Path) -> tuple[str, ...]:
    """Turn relative file names or paths into texts; refuse one listed twice, or out of `root`."""
    found = tuple(map(_name_of, names))
    if len(set(found)) != len(found):
        twice = next(name for name, count in Counter(found).items() if count > 1)
        raise ValueError(
            f"Expected each picture to be listed once, but {printable(twice)} is listed twice."
        )
    for name in found:  # they may come from the text files of others
        if _OUT.search(name):
            raise ValueError(
                f"Expected names of pictures below {printable(root)}, but got {name[:200]!r}."
            )
    return found


def _name_of(name: Any) -> str:
    """Turn a relative file name or path into text with forward slashes."""
    if isinstance(name, str):
        return name
    if isinstance(name, PurePath):
        return name.as_posix()
    if isinstance(name, os.PathLike):
        return str(os.fspath(name))
    raise TypeError(f"Expected `names` to hold relative file names, but got {name!r:.200}.")


def class_names_of(names: Any) -> tuple[str, ...]:
    """Turn what names the classes into texts; numbers are refused."""
    found = tuple(names)
    wrong = [name for name in found if not isinstance(name, str)]
    if wrong:
        raise TypeError(
            f"Expected `class_names` to hold a text for each class, but got {wrong[0]!r:.200}. "
            "Numbers: list(map(str, numbers))."
        )
    return tuple(map(str, found))


def labels_of(labels: Any, names: Sequence[str], num_classes: int) -> tuple[int, ...]:
    """Turn whatever holds the labels into class indices in [0, k)."""
    rows = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if not isinstance(rows, list) or len(rows) != len(names):
        raise ValueError(
            f"Expected `names` and `labels` to be equally many, but got {len(names)} and "
            f"{len(rows) if isinstance(rows, list) else 1}."
        )
    found = []
    for name, row in zip(names, rows, strict=True):
        if isinstance(row, bool) or not hasattr(row, "__index__"):
            raise TypeError(
                f"Expected `labels` to hold class indices, but got {row!r:.200} for "
                f"{printable(name)}."
            )
        found.append(operator.index(row))
    for name, label in zip(names, found, strict=True):
        if not 0 <= label < num_classes:
            hint = ""
            if min(found) == 1 and max(found) == num_classes:
                hint = " They count from 1: subtract 1 from each."
            raise ValueError(
                f"Expected `labels` to be class indices in [0, {num_classes}), one for each of the "
                f"{num_classes} class names, but got {label} for {printable(name)}.{hint}"
            )
    return tuple(found)


def boxes_from(boxes: Any, name: str) -> Tensor:
    """Turn the boxes of one picture (lists, an array, a tensor) into (n 4) float32.

    Args:
        boxes: n rows (x0, y0, x1, y1) in pixels.
        name: of the picture, for the message.

    Raises:
        ValueError: if there is no box, or the shape is another.
        TypeError: if they are no numbers.
    """
    try:
        table = torch.as_tensor(boxes, device="cpu").detach().float()
    except (TypeError, ValueError, RuntimeError):  # words, ragged lists
        raise TypeError(
            f"Expected the boxes of {printable(name)} to be rows of numbers (x0, y0, x1, y1), but "
            f"got {boxes!r:.200}."
        ) from None
    if table.ndim != 2 or table.shape[1] != 4 or len(table) == 0:
        raise ValueError(
            f"Expected the boxes of {printable(name)} to have shape (n, 4) with at least one box, "
            f"but got {tuple(table.shape)}."
        )
    return table
