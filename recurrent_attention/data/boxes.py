"""Boxes by picture: in one table, in files, and looking a picture up."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recurrent_attention._devices import pictures_on_cpu
from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_regular_file, whole_file
from recurrent_attention.data.conversions import boxes_from
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.ops.boxes import check_boxes

NAMES_AT_ONCE = 4096  # whose boxes are tensors of their own, until they are put into one table


class Boxes(Mapping[str, Tensor]):
    """Boxes by picture, kept in one table: worker processes get two tensors, not one a picture.

    Args:
        boxes: relative file name to (n 4) xyxy in pixels, as a tensor, an array or lists.
        names: of the pictures whose boxes to keep.

    Raises:
        ValueError: if a picture has no boxes, or they have another shape.
        TypeError: if they are no numbers.
    """

    @pictures_on_cpu()
    def __init__(self, boxes: Mapping[str, Any], names: Sequence[str]) -> None:
        self._place = {name: number for number, name in enumerate(names)}
        self._table: Tensor
        self._ends: Tensor
        if isinstance(boxes, Boxes):  # no tensor a picture
            self._table, self._ends = boxes.parts_for(names)
            return
        rows, counts = [torch.empty(0, 4)], [0]
        for some in range(0, len(names), NAMES_AT_ONCE):
            own = names[some : some + NAMES_AT_ONCE]
            found = [boxes_from(boxes_of(name, boxes), name) for name in own]
            rows.append(torch.cat(found))
            counts += map(len, found)
        self._table = torch.cat(rows)
        self._ends = torch.tensor(counts).cumsum(0)

    @classmethod
    def of_table(cls, table: Tensor, names: Sequence[str]) -> Self:
        """Take n pictures' boxes as they are: (n p 4), p for each."""
        ends = table.shape[1] * torch.arange(len(table) + 1, device=table.device)
        return cls.of_parts(table.flatten(0, 1), ends, names)

    @classmethod
    def of_parts(cls, table: Tensor, ends: Tensor, names: Sequence[str]) -> Self:
        """Take n pictures' boxes (m 4), one after the other, and where each's end (n + 1)."""
        boxes = cls({}, ())
        boxes._place = {name: number for number, name in enumerate(names)}
        boxes._table, boxes._ends = table, ends
        return boxes

    @pictures_on_cpu()
    def parts_for(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the boxes of some pictures one after the other, and where each picture's end.

        Args:
            names: of the pictures.

        Returns:
            (m 4) and (n + 1), which begins with 0.

        Raises:
            ValueError: if a picture has no boxes.
        """
        places = torch.tensor([self._place.get(name, -1) for name in names], dtype=torch.long)
        if len(places) and int(places.min()) < 0:
            boxes_of(names[int(places.argmin())], self)  # says which
        if torch.equal(places, torch.arange(len(self))):
            return self._table, self._ends
        counts = self._ends.diff()[places]
        ends = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        within = torch.arange(int(ends[-1])) - ends[:-1].repeat_interleave(counts)
        return self._table[self._ends[places].repeat_interleave(counts) + within], ends

    def counts(self) -> Tensor:
        """Return how many boxes each picture has (n)."""
        return self._ends.diff()

    def __getitem__(self, name: str) -> Tensor:
        place = self._place[name]
        return self._table[self._ends[place] : self._ends[place + 1]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def write_boxes(path: str | Path, boxes: Mapping[str, Any]) -> None:
    """Write boxes into a file, JSON or safetensors by its name, whole or not at all.

    The JSON file holds `{"boxes": {"wren/1.jpg": [[x0, y0, x1, y1], ...], ...}}`, in pixels of the
    pictures, best first. Numbers are written with the fewest digits that give the same float32. A
    file called `*.safetensors` holds the same as tensors, and opens in seconds for a million
    pictures: `boxes` (m 4), `ends` (n), how many rows are those of the first picture, of the first
    two and so on, and `names`, UTF-8 with a zero byte after each name.

    Args:
        path: of the file, which is replaced if it exists.
        boxes: relative file name to (n 4): tensors, arrays or lists.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        names = tuple(boxes)
        table, ends = (boxes if isinstance(boxes, Boxes) else Boxes(boxes, names)).parts_for(names)
        tensors = {"boxes": table.contiguous(), "ends": ends[1:].contiguous()}
        tensors["names"] = torch.from_numpy(np.frombuffer(_joined(boxes), np.uint8).copy())
        with whole_file(path) as beside:
            save_file(tensors, beside)
        return
    rows = {
        name: [_shortest(box) for box in boxes_from(some, name).numpy()]
        for name, some in boxes.items()
    }
    with whole_file(path) as beside:
        beside.write_text(json.dumps({"boxes": rows}, indent=0) + "\n", encoding="utf-8")


@pictures_on_cpu()
def read_boxes(path: str | Path, pictures: Pictures) -> Mapping[str, Tensor]:
    """Read the boxes of some pictures from a file of `write_boxes`.

    Args:
        path: of the file; it may hold boxes of further pictures.
        pictures: whose boxes to read.

    Returns:
        Relative file name to boxes (n 4), best first, xyxy in pixels of the picture.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no such file, a picture has no boxes, or a box is empty or outside its
            picture. A JSON file is checked for each picture; boxes of a safetensors file are
            compared with their picture when it is read.
    """
    path = Path(path)
    check_regular_file(path, "a file of boxes")
    if path.suffix == ".safetensors":
        found_there = _read_tensors(path, pictures)
        same = tuple(found_there) == pictures.names
        return found_there if same else Boxes(found_there, pictures.names)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["boxes"]
        every = {str(name): torch.tensor(row, dtype=torch.float32) for name, row in rows.items()}
    except (
        ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, OverflowError
    ) as error:  # fmt: skip
        raise ValueError(
            f'Expected {printable(path)} to hold {{"boxes": {{"NAME": [[x0, y0, x1, y1], ...]}}}} '
            f"as `write_boxes` writes it, but got: {error!r}."
        ) from error
    found = {}
    for index, name in enumerate(pictures.names):
        found[name] = boxes_of(name, every)
        check_boxes(found[name], pictures.size(index), name)
    return found


def _joined(names: Iterable[str]) -> bytes:
    """Put names into bytes; one that is no UTF-8 keeps its own."""
    return "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")


def _read_tensors(path: Path, pictures: Pictures) -> Boxes:
    """Read a file of tensors; where it has just these pictures, their names are not read again."""
    try:
        tensors = load_file(path)
        table, ends, text = (tensors[name] for name in ("boxes", "ends", "names"))
        written = text.numpy().tobytes()
        if written == _joined(pictures.names):
            names: Sequence[str] = pictures.names
        else:
            names = written.decode("utf-8", "surrogateescape").split("\0")[:-1]
        ends = torch.cat([torch.zeros(1, dtype=torch.long), ends])
        if not (
            (table.dtype, ends.dtype) == (torch.float32, torch.int64)
            and table.shape == (int(ends[-1]), 4)
            and len(ends) == len(set(names)) + 1
            and bool((ends.diff() > 0).all())
        ):
            raise ValueError(f"{len(names)} names and boxes {tuple(table.shape)}")
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"Expected {printable(path)} to hold `boxes`, `ends` and `names` as `write_boxes` "
            f"writes them, but got: {first_line(error)}."
        ) from error
    bad = ~(table.isfinite().all(1) & (table[:, :2] < table[:, 2:]).all(1))
    if bad.any():
        row = int(bad.nonzero()[0])
        name = names[int(torch.searchsorted(ends, row, right=True)) - 1]
        raise ValueError(
            f"Expected boxes (x0, y0, x1, y1) with x0 < x1 and y0 < y1, but got "
            f"{table[row].tolist()} for {printable(name)} in {printable(path)}."
        )
    return Boxes.of_parts(table, ends, names)


def boxes_of(name: str, boxes: Mapping[str, Any]) -> Any:
    """Look up the boxes of one picture.

    Args:
        name: relative file name.
        boxes: by relative file name.

    Returns:
        (n 4) xyxy.

    Raises:
        ValueError: if the picture has none.
    """
    if name not in boxes:
        raise ValueError(
            f"Expected boxes for {printable(name)}, but the {len(boxes)} given are of other "
            "pictures. Key them by the file name relative to the data set's root."
        )
    return boxes[name]


def _shortest(box: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> list[float]:
    return [float(str(value)) for value in box]
