"""A folder per class: the layout that most people's own pictures have."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from recurrent_attention._errors import listed, printable
from recurrent_attention.data.listing import LITTER, files_under, leads_back
from recurrent_attention.data.pictures import Loader, Pictures
from recurrent_attention.images.reading import Mode, picture_suffixes

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


class Found(NamedTuple):
    """What lies in a folder of class folders.

    Attributes:
        by_class: pictures of each folder, also of empty ones, sorted by name: names relative to
            the folder of all classes.
        others: files in these folders that are no pictures, with the reason.
        beside: pictures that lie in no class's folder.
    """

    by_class: dict[str, list[str]]
    others: list[tuple[Path, str]]
    beside: list[Path]


class PictureFolder(Pictures):
    """Read `root/class name/any/where/picture.jpg`: each folder under `root` is a class.

    Classes and files are sorted by name. Every format is listed that `open_picture` reads. Hidden
    files and folders, and thumbnails of file managers, are left out; what else is left out (files
    that are no pictures, classes without pictures) is said in one warning.

    Args:
        root: the folder that holds one folder for each class.
        class_names: the classes and their order, to give a second folder (test pictures) the labels
            of a first one; default: the folders with pictures, sorted.
        mode: as in `Pictures`.
        loader: as in `Pictures`.

    Raises:
        FileNotFoundError: if `root` is missing, or holds no folder with pictures.
        ValueError: if a folder is not in `class_names`, or `root` holds the parts of a data set
            (train, val, test) instead of classes.

    Example:
        >>> import tempfile; from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("wren", "finch"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(root / name / "1.png")
        >>> PictureFolder(root).class_names, PictureFolder(root).names
        (('finch', 'wren'), ('finch/1.png', 'wren/1.png'))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        mode: Mode = "RGB",
        loader: Loader | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"Expected a folder with one folder for each class at {printable(root)}, but there "
                "is none."
            )
        if parts := parts_of(root):
            raise ValueError(
                f"Expected {printable(root)} to hold one folder for each class, but it holds the "
                f"parts {', '.join(parts)} of a data set. Read each of them by itself, such as "
                f"{printable(root / parts[0])}."
            )
        found = find_pictures(root)
        by_class = {name: files for name, files in found.by_class.items() if files}
        if not by_class:
            inside = listed(sorted(entry.name for entry in root.iterdir()), 5) or "nothing"
            raise FileNotFoundError(
                f"Expected {printable(root)} to hold one folder of pictures for each class, but "
                f"found {inside}. Put pictures at CLASS/NAME.jpg below it."
            )
        empty = sorted(set(found.by_class) - set(by_class)) if class_names is None else []
        class_names = tuple(sorted(by_class) if class_names is None else class_names)
        unknown = sorted(set(by_class) - set(class_names))
        if unknown:
            raise ValueError(
                f"Expected the folders of {printable(root)} to be among the {len(class_names)} "
                f"known classes, but got {unknown[0]!r}. Rename or remove that folder."
            )
        names: list[str] = []
        labels: list[int] = []
        for label, class_name in enumerate(class_names):
            files = by_class.get(class_name, [])
            names += files
            labels += [label] * len(files)
        super().__init__(root, names, labels, class_names, mode=mode, loader=loader)
        left_out = _left_out(root, found, empty)
        if left_out:
            warnings.warn(f"Left out of {printable(root)}: {left_out}.", stacklevel=2)


def find_pictures(root: Path) -> Found:
    """Look through a folder of class folders; nothing is opened."""
    by_class, others, beside = {}, [], []
    here = [Path(os.path.realpath(root))]
    for entry in sorted(root.iterdir()):
        if entry.name[0] == "." or entry.name in LITTER:
            continue
        if entry.is_symlink() and entry.is_dir() and leads_back(entry, here):
            others.append((entry, "it is a link to a folder that it lies in"))
        elif entry.is_dir():
            files, unread = files_under(entry, within=root)
            by_class[entry.name] = [file.relative_to(root).as_posix() for file in files]
            others += unread
        elif entry.suffix.lower() in picture_suffixes():
            beside.append(entry)
    return Found(by_class, others, beside)


def parts_of(root: Path) -> list[str]:
    """Return the folders of `root` that are parts of a data set (train, val, test), in that order.

    Returns:
        Their names; none where `root` holds classes, of which one may be called "test".
    """
    folders = [
        e for e in root.iterdir() if e.is_dir() and e.name[0] != "." and e.name not in LITTER
    ]
    parts = [folder for folder in folders if folder.name.lower() in SPLITS and _has_classes(folder)]
    trains = any(part.name.lower().startswith("train") for part in parts)
    if len(parts) != len(folders) and not (trains and len(parts) > 1):
        return []
    return sorted((p.name for p in parts), key=lambda name: SPLITS.index(name.lower()))


def others_of(root: Path, parts: Sequence[str]) -> list[Path]:
    """Return the folders beside those that `parts_of` found, which nobody reads, sorted."""
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and entry.name[0] != "." and entry.name not in {*LITTER, *parts}
    )


def _has_classes(folder: Path) -> bool:
    """Return whether a folder holds folders and no picture of its own."""
    visible = [entry for entry in folder.iterdir() if entry.name[0] != "."]
    folders = [entry for entry in visible if entry.is_dir()]
    return bool(folders) and not any(
        entry.suffix.lower() in picture_suffixes() for entry in visible if entry not in folders
    )


def _left_out(root: Path, found: Found, empty: list[str]) -> str:
    parts = []
    for what, of_several, names in (
        ("class without pictures", "classes without pictures", empty),
        ("file that is no picture", "files that are no pictures", [o for o, _ in found.others]),
        ("picture in no class's folder", "pictures in no class's folder", found.beside),
    ):
        if names:
            shown = [name if isinstance(name, str) else name.relative_to(root) for name in names]
            parts.append(
                f"{len(names)} {what if len(names) == 1 else of_several} ({listed(shown)})"
            )
    return ", ".join(parts)
