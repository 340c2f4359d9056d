"""Finding what is wrong with the pictures of a data set."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recurrent_attention.data.checking.layout import Layout, find_layout
from recurrent_attention.data.checking.report import HEADINGS, CheckReport, Problem
from recurrent_attention.data.decoding import Decoded, decode_all
from recurrent_attention.data.pictures import Pictures

DIGEST = "V16"  # bytes of a digest


class _Entry(NamedTuple):
    """One picture of one part of the data."""

    split: str
    path: Path
    class_name: str
    content: bytes


class _Seen:
    """What is known of every picture of every part: arrays, with an object for each fault alone.

    Attributes:
        splits: the parts by name; their pictures, one after the other, are numbered from 0.
        readable: (n) whether `open_picture` reads it.
        pixels: (n) digests of the pixels.
        content: (n) digests of the files.
        faults: what is wrong, by path.
    """

    def __init__(self, splits: dict[str, Pictures]) -> None:
        self.splits = splits
        self.readable = np.zeros(sum(map(len, splits.values())), bool)
        self.pixels = np.zeros(len(self.readable), DIGEST)
        self.content = np.zeros(len(self.readable), DIGEST)
        self.faults: dict[Path, Decoded] = {}

    def decode(self, **words: Any) -> None:
        """Decode every file once, also one that two parts list."""
        first: dict[Path, int] = {}  # empty for one part, which lists no file twice
        if len(self.splits) > 1:
            for number, path in enumerate(self._paths()):
                first.setdefault(path, number)
        numbers = first.values() if first else range(len(self.readable))

        def paths() -> Iterable[Path]:
            return first if first else self._paths()

        decoded = decode_all(paths(), len(numbers), **words)
        with closing(decoded):  # its bar ends before anybody says why
            for number, path, found in zip(numbers, paths(), decoded, strict=True):
                self.readable[number] = found.is_readable
                if found.is_readable:
                    self.pixels[number], self.content[number] = found.pixels, found.content
                if found.fault is not None:
                    self.faults[path] = found
        if first:
            same = [first[path] for path in self._paths()]
            for known in (self.readable, self.pixels, self.content):
                known[:] = known[same]

    def entry(self, number: int) -> _Entry:
        """Return the picture with this number."""
        content = self.content[number].tobytes()
        for split, pictures in self.splits.items():
            if number < len(pictures):
                name = pictures.class_names[pictures.labels[number]]
                return _Entry(split, pictures.path(number), name, content)
            number -= len(pictures)
        raise IndexError

    def _paths(self) -> Iterator[Path]:
        for pictures in self.splits.values():
            yield from map(pictures.path, range(len(pictures)))


def check_pictures(
    data: str | os.PathLike[str] | Pictures | Sequence[Pictures],
    *,
    num_workers: int = 0,
    progress: bool = True,
) -> CheckReport:
    """Decode every picture of a data set, and list what is wrong with it.

    It finds pictures that cannot be read, decompression bombs (more than twice
    `PIL.Image.MAX_IMAGE_PIXELS`, which are refused), sizes that differ from the file's header or
    are below 8 pixels, classes without pictures or missing from a part of the data, and pictures
    that are there more than once, within a part or across parts: the same file, or the same pixels
    in another file. Pictures that merely look alike are not found. Nothing is changed.

    Args:
        data: a folder: one with a folder for each class, one with `train` and `test` (and `val`)
            folders of these, or CUB-200-2011 or Stanford Dogs in its official layout, which is
            recognised. Or `Pictures`, or several: the parts of the data, which have the same
            classes.
        num_workers: processes that decode; 0 is this one.
        progress: show a bar.

    Returns:
        A report: `report.ok` for programs, `print(report)` for people.

    Raises:
        FileNotFoundError: if there is no such folder, or no pictures in it.
        ValueError: if the lists of an official layout are damaged, the parts have different
            classes, the pictures are opened by a `loader`, or `num_workers` is negative.
        TypeError: if `data` is neither a folder nor Pictures.
        RuntimeError: if a worker is ended from outside, as by a system without memory.

    Example:
        >>> import tempfile; from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("train/wren/1.png", "test/wren/1.png", "test/wren/2.png"):
        ...     (root / name).parent.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (9, 9), "red" if name[-5] == "1" else "blue").save(root / name)
        >>> report = check_pictures(root, progress=False)
        >>> report.ok, [problem.kind for problem in report.problems]
        (False, ['duplicate across splits'])
    """
    layout = _layout(data)
    for pictures in layout.splits.values():
        if not pictures.is_plain and type(pictures).path is Pictures.path:  # else that says it
            raise ValueError(
                "Expected `data` of files that `open_picture` reads, but these pictures have a "
                "`loader`, or an `open` of their own. Their method `readable` finds those that "
                "cannot be read."
            )
    names = {pictures.class_names for pictures in layout.splits.values()}
    if len(names) != 1:
        raise ValueError(
            "Expected the parts of the data to have the same classes in the same order, but got "
            f"{len(names)} different `class_names`."
        )
    (class_names,) = names
    seen = _Seen(layout.splits)
    seen.decode(num_workers=num_workers, progress=progress, description="check")
    faults = seen.faults.items()
    problems = [
        *layout.faults,
        *(Problem(found.fault, (path,), found.reason) for path, found in faults if found.fault),
        *_classes(layout, class_names, seen),
        *_duplicates(seen),
    ]
    problems.sort(key=lambda problem: list(HEADINGS).index(problem.kind))
    return CheckReport(
        layout.name,
        {split: len(pictures) for split, pictures in layout.splits.items()},
        class_names,
        tuple(problems),
        tuple(layout.ignored),
    )


def _layout(data: str | os.PathLike[str] | Pictures | Sequence[Pictures]) -> Layout:
    if isinstance(data, str | os.PathLike):
        return find_layout(Path(data))
    parts = [data] if isinstance(data, Pictures) else data
    if not isinstance(parts, list | tuple) or not parts:
        raise TypeError(f"Expected `data` to be a folder or a list of Pictures, but got {data!r}.")
    for part in parts:
        if not isinstance(part, Pictures):
            raise TypeError(f"Expected `data` to be a list of Pictures, but it holds {part!r}.")
    return Layout("pictures", {f"part {i}": part for i, part in enumerate(parts, 1)}, [])


def _classes(layout: Layout, class_names: Sequence[str], seen: _Seen) -> Iterator[Problem]:
    """Yield classes of which there is nothing to learn, or nothing in some part of the data."""
    readable: Counter[tuple[str, str]] = Counter()
    listed: Counter[str] = Counter()
    flags = iter(seen.readable.tolist())
    for split, pictures in layout.splits.items():
        for label, is_readable in zip(pictures.labels, flags, strict=False):
            listed[class_names[label]] += 1
            readable[split, class_names[label]] += is_readable
    for name in class_names:
        without = [split for split in layout.splits if not readable[split, name]]
        paths = tuple(layout.splits[split].root / name for split in without)
        if len(without) == len(layout.splits):
            reason = "it has no picture"
            if listed[name]:
                reason = "none of its pictures can be read"
            yield Problem("empty class", tuple(dict.fromkeys(paths)), reason)
        elif without:
            reason = f"{name} has no picture that can be read in {' and '.join(without)}"
            yield Problem("missing class", tuple(dict.fromkeys(paths)), reason)


def _duplicates(seen: _Seen) -> Iterator[Problem]:
    """Yield groups of pictures whose pixels are the same; the same bytes give the same pixels."""
    numbers = np.flatnonzero(seen.readable)
    _, groups, counts = np.unique(seen.pixels[numbers], return_inverse=True, return_counts=True)
    alike: dict[int, list[int]] = {}
    for place in np.flatnonzero(counts[groups] > 1).tolist():
        alike.setdefault(int(groups[place]), []).append(int(numbers[place]))
    for group in ([seen.entry(number) for number in some] for some in alike.values()):
        splits = list(dict.fromkeys(entry.split for entry in group))
        paths = tuple(dict.fromkeys(entry.path for entry in group))
        if len(paths) == 1:
            reason = "listed more than once"
        elif len({entry.content for entry in group}) == 1:
            reason = "the same file"
        else:
            reason = "the same pixels"
        if len(splits) > 1:
            reason += f", in {' and '.join(splits)}"
        classes = list(dict.fromkeys(entry.class_name for entry in group))
        if len(classes) > 1:
            reason += f", under different classes: {', '.join(classes)}"
        yield Problem("duplicate across splits" if len(splits) > 1 else "duplicate", paths, reason)
