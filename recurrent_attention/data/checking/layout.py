"""Which data set a folder holds: its pictures by split, and the files that nobody reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from recurrent_attention._errors import printable
from recurrent_attention.data import cub, dogs
from recurrent_attention.data.checking.report import Kind, Problem
from recurrent_attention.data.cub import CUB200
from recurrent_attention.data.dogs import StanfordDogs
from recurrent_attention.data.folder import (
    Found,
    PictureFolder,
    find_pictures,
    others_of,
    parts_of,
)
from recurrent_attention.data.listing import LITTER
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.images.reading import picture_suffixes

OTHER = "it is no train, val or test folder"


class Layout(NamedTuple):
    """What a folder holds.

    Attributes:
        name: what it is, in words.
        splits: the pictures by the name of their part of the data; all parts have the same classes.
        ignored: files among them that no data set reads.
        faults: what is called like a picture and is no file.
    """

    name: str
    splits: dict[str, Pictures]
    ignored: list[Problem]
    faults: list[Problem] = []  # noqa: RUF012  # a NamedTuple's, and never changed


def find_layout(folder: Path) -> Layout:
    """Recognise what a folder holds, by its files alone.

    Args:
        folder: to look into.

    Returns:
        Its pictures.

    Raises:
        FileNotFoundError: if there is no such folder, or no pictures in it.
        ValueError: if the lists of an official layout are damaged.
    """
    if official := official_layout(folder):
        return official
    if parts := parts_of(folder):
        found = {part: find_pictures(folder / part) for part in parts}
        classes = tuple(sorted({name for part in found.values() for name in part.by_class}))
        splits = {part: _folder(folder / part, found[part], classes) for part in parts}
        if not any(map(len, splits.values())):
            PictureFolder(folder / parts[0])  # says that there are none
        unread = [_others(part) for part in found.values()]
        ignored = [problem for part in unread for problem in part["ignored"]]
        faults = [problem for part in unread for problem in part["unreadable"]]
        beside = [
            *_beside(folder),
            *(Problem("ignored", (f,), OTHER) for f in others_of(folder, parts)),
        ]
        return Layout(words_for(parts), splits, [*beside, *ignored], faults)
    inside = find_pictures(folder)
    if not any(inside.by_class.values()):
        PictureFolder(folder)  # says that there are none
    whole = _folder(folder, inside, tuple(sorted(inside.by_class)))
    others = _others(inside)
    ignored = [*_beside(folder), *others["ignored"]]
    return Layout(words_for([]), {"all": whole}, ignored, others["unreadable"])


def official_layout(folder: Path) -> Layout | None:
    """Recognise CUB-200-2011 and Stanford Dogs by their lists; None is another folder.

    Args:
        folder: to look into.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the lists are damaged.
    """
    if any((folder / part / cub.REQUIRED_FILES[0]).is_file() for part in ("", cub.FOLDER)):
        return _official("CUB-200-2011", lambda split: CUB200(folder, split))
    if any((folder / part / dogs.LISTS["train"]).is_file() for part in ("", dogs.FOLDER)):
        return _official("Stanford Dogs", lambda split: StanfordDogs(folder, split))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of pictures at {printable(folder)}, but there is none."
        )
    return None


def words_for(parts: list[str]) -> str:
    """Return what a folder of class folders is, in words; `parts` are its train, val and test."""
    if not parts:
        return "a folder for each class"
    return f"folders {', '.join(map(printable, parts))}, each with a folder for each class"


def _official(name: str, read: Callable[..., Pictures]) -> Layout:
    whole = read("all")
    splits = {}
    for split in ("train", "test"):
        try:
            splits[split] = read(split)
        except ValueError:  # a part of the data set can be of one split only; `whole` is sound
            continue
    listed = set(whole.names)
    ignored = [
        Problem("ignored", (file,), "the data set's lists do not name it")
        for file in _files(whole.root)
        if file.relative_to(whole.root).as_posix() not in listed
    ]
    return Layout(f"{name} in its official layout", splits, ignored)


def _folder(root: Path, found: Found, class_names: tuple[str, ...]) -> Pictures:
    """List the pictures of class folders, of which some or all may be empty."""
    files = [found.by_class.get(name, []) for name in class_names]
    labels = [label for label, own in enumerate(files) for _ in own]
    return Pictures(root, [name for own in files for name in own], labels, class_names)


def _others(found: Found) -> dict[str, list[Problem]]:
    """Sort what is no picture into faults (called like one, but no file) and what is ignored."""
    problems: dict[str, list[Problem]] = {"unreadable": [], "ignored": []}
    for path, reason in found.others:
        kind: Kind = "unreadable" if path.suffix.lower() in picture_suffixes() else "ignored"
        problems[kind].append(Problem(kind, (path,), reason))
    return problems


def _beside(root: Path) -> list[Problem]:
    """List the files right in a folder whose folders alone are read."""
    problems = []
    for file in sorted(root.iterdir()):
        if not file.is_dir() and file.name[0] != "." and file.name not in LITTER:
            is_picture = file.suffix.lower() in picture_suffixes()
            reason = "it lies in no class's folder" if is_picture else "it is no picture"
            problems.append(Problem("ignored", (file,), reason))
    return problems


def _files(root: Path) -> list[Path]:
    """List what is no folder in a folder, at any depth, sorted; hidden files are left out.

    `os.walk` asks the system about no single file, which it may forbid.
    """
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(root)
        for name in names
        if name[0] != "."
    )
