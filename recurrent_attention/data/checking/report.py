"""What a check found, for programs and for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from recurrent_attention._errors import printable

Kind = Literal[
    "unreadable",
    "decompression bomb",
    "wrong size",
    "wrong range",
    "empty class",
    "missing class",
    "duplicate across splits",
    "duplicate",
    "ignored",
]
HEADINGS: dict[Kind, tuple[str, str]] = {  # of one, and of several
    "unreadable": ("picture cannot be read", "pictures cannot be read"),
    "decompression bomb": (
        "picture is larger than allowed, or a decompression bomb",
        "pictures are larger than allowed, or decompression bombs",
    ),
    "wrong size": ("picture has a wrong size", "pictures have a wrong size"),
    "wrong range": ("picture has a wrong range", "pictures have a wrong range"),
    "empty class": ("class has no pictures", "classes have no pictures"),
    "missing class": (
        "class is missing from a part of the data",
        "classes are missing from a part of the data",
    ),
    "duplicate across splits": (
        "picture is in more than one part of the data",
        "pictures are in more than one part of the data",
    ),
    "duplicate": ("picture is there more than once", "pictures are there more than once"),
    "ignored": ("file is ignored", "files are ignored"),
}


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        kind: what kind of thing.
        paths: of the files or folders that it is about.
        reason: the thing in words.
    """

    kind: Kind
    paths: tuple[Path, ...]
    reason: str

    def __str__(self) -> str:
        return f"{', '.join(map(printable, self.paths))}: {printable(self.reason)}"


class CheckReport(NamedTuple):
    """The result of `check_pictures`: what is in a data set, and what is wrong with it.

    Attributes:
        layout: how the pictures were found, in words.
        splits: how many pictures each part of the data has, by its name.
        class_names: k names.
        problems: what is wrong: unreadable pictures, decompression bombs, wrong sizes, empty and
            missing classes, duplicates; by kind, and in the order of the pictures.
        ignored: files among the pictures that no data set of this package reads. They are no fault.

    Example:
        >>> path = Path("birds/wren/1.jpg")
        >>> problem = Problem("unreadable", (path,), "an empty file")
        >>> report = CheckReport("a folder for each class", {"all": 3}, ("wren",), (problem,), ())
        >>> report.ok
        False
        >>> print(report)
        a folder for each class: 3 pictures of 1 class
        1 picture cannot be read
            birds/wren/1.jpg: an empty file
    """

    layout: str
    splits: dict[str, int]
    class_names: tuple[str, ...]
    problems: tuple[Problem, ...]
    ignored: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def of_kind(self, kind: Kind) -> tuple[Problem, ...]:
        """Return the problems of one kind.

        Args:
            kind: "unreadable", "decompression bomb", "wrong size", "wrong range", "empty class",
                "missing class", "duplicate across splits", "duplicate" or "ignored".
        """
        return tuple(problem for problem in self.problems + self.ignored if problem.kind == kind)

    def describe(self, *, most: int | None = 5) -> str:
        """Return a text: the number of problems of each kind, and the first ones of each.

        Args:
            most: how many of each kind to list; None for all.

        Returns:
            Several lines of text.
        """
        total = sum(self.splits.values())
        lines = [f"{self.layout}: {_count(total, 'picture')} of {_classes(self.class_names)}"]
        if len(self.splits) > 1:
            lines[0] += (
                " ("
                + ", ".join(f"{n:,} {printable(name)}" for name, n in self.splits.items())
                + ")"
            )
        cut = False
        for kind, headings in HEADINGS.items():
            found = self.of_kind(kind)
            if not found:
                continue
            lines.append(f"{len(found):,} {headings[len(found) > 1]}")
            lines += [f"    {problem}" for problem in found[:most]]
            if most is not None and len(found) > most:
                lines.append(f"    ... and {len(found) - most:,} more")
                cut = True
        if self.ok:
            lines.append("nothing is wrong")
        if cut:
            lines.append("all of them: --all, or `report.problems` and `report.ignored` in Python")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _classes(names: Sequence[str]) -> str:
    return f"{len(names):,} class" + ("" if len(names) == 1 else "es")
