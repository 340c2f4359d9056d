"""Which data set a folder holds: its pictures by split, and the files that nobody reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from recurrent_attention.data import cub, dogs
from recurrent_attention.data.check.report import Problem
from recurrent_attention.data.cub import CUB200
from recurrent_attention.data.dogs import StanfordDogs
from recurrent_attention.data.folder import PictureFolder
from recurrent_attention.data.pictures import PICTURE_SUFFIXES, Pictures

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


class Layout(NamedTuple):
    """What a folder holds.

    Attributes:
        name: what it is, in words.
        splits: the pictures by the name of their part of the data; all parts have the same classes.
        ignored: files among them that no data set reads.
    """

    name: str
    splits: dict[str, Pictures]
    ignored: list[Problem]


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
    if any((folder / part / cub.REQUIRED_FILES[0]).is_file() for part in ("", cub.FOLDER)):
        return _official("CUB-200-2011", lambda split: CUB200(folder, split))
    if any((folder / part / dogs.LISTS["train"]).is_file() for part in ("", dogs.FOLDER)):
        return _official("Stanford Dogs", lambda split: StanfordDogs(folder, split))
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of pictures at {folder}, but there is none.")
    parts = [name for name in _folders(folder) if name.lower() in SPLITS]
    if parts and parts == _folders(folder) and any(_folders(folder / part) for part in parts):
        parts.sort(key=lambda name: SPLITS.index(name.lower()))
        classes = tuple(sorted({name for part in parts for name in _folders(folder / part)}))
        splits = {part: _folder(folder / part, classes) for part in parts}
        if not any(map(len, splits.values())):
            PictureFolder(folder / parts[0])  # says that there are none
        ignored = _beside(folder)
        ignored += [found for part in splits.values() for found in _unread_of_folder(part)]
        return Layout(
            f"folders {', '.join(parts)}, each with a folder for each class", splits, ignored
        )
    PictureFolder(folder)
    whole = _folder(folder, tuple(_folders(folder)))
    return Layout("a folder for each class", {"all": whole}, _unread_of_folder(whole))


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


def _folder(root: Path, class_names: tuple[str, ...]) -> Pictures:
    """Read a folder for each class, of which some or all may be empty."""
    try:
        return PictureFolder(root, class_names=class_names)
    except FileNotFoundError:
        return Pictures(root, [], [], class_names)


def _unread_of_folder(pictures: Pictures) -> list[Problem]:
    read = set(pictures.names)
    unread = _beside(pictures.root)
    for class_name in pictures.class_names:
        unread += [
            Problem("ignored", (file,), "its name ends like no format that is read")
            for file in _files(pictures.root / class_name)
            if file.relative_to(pictures.root).as_posix() not in read
        ]
    return unread


def _beside(root: Path) -> list[Problem]:
    """List the files right in a folder whose folders alone are read."""
    found = []
    for file in sorted(root.iterdir()):
        if not file.is_dir() and file.name[0] != ".":
            is_picture = file.suffix.lower() in PICTURE_SUFFIXES
            reason = "it lies in no class's folder" if is_picture else "it is no picture"
            found.append(Problem("ignored", (file,), reason))
    return found


def _folders(root: Path) -> list[str]:
    """List the folders in a folder, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")


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
