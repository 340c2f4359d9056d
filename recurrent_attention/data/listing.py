"""What a folder holds: its pictures, and what is none, by names and kinds of entries alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from recurrent_attention._files import kind_of
from recurrent_attention.images.reading import picture_suffixes

# What systems and file managers leave beside pictures: thumbnails, and their own notes.
LITTER = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini"})


def pictures_under(folder: str | os.PathLike[str]) -> list[Path]:
    """List the picture files in a folder, at any depth, sorted.

    Args:
        folder: where to look. Hidden files and folders are left out, and so is what is no regular
            file, or has no suffix of a format that `open_picture` reads.

    Returns:
        Paths that begin with `folder`.
    """
    return files_under(folder)[0]


def files_under(
    folder: str | os.PathLike[str], *, within: Path | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List the files in a folder, at any depth, sorted: pictures, and others with the reason.

    Args:
        folder: where to look; `pictures_under` says what is left out without a word.
        within: a folder above it that is looked through as well.

    Returns:
        Paths of pictures, and of what is no picture with what is wrong with it. Links to folders
        are followed, but not one to a folder that it lies in.
    """
    suffixes = picture_suffixes()
    pictures, others = [], []
    waiting: list[tuple[Path, tuple[Path, ...]]]
    begin = [Path(os.path.realpath(one)) for one in (within, folder) if one is not None]
    waiting = [(Path(folder), tuple(begin))]
    while waiting:
        inside, entered = waiting.pop()  # `entered`: where it begins, and where links led
        with os.scandir(inside) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name[0] == "." or entry.name in LITTER:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((path, entered))
                elif (kind := kind_of_entry(entry)) == "a folder":
                    if leads_back(path, entered):
                        others.append((path, "it is a link to a folder that it lies in"))
                    else:
                        waiting.append((path, (*entered, Path(os.path.realpath(path)))))
                elif path.suffix.lower() not in suffixes:
                    others.append((path, "its name ends like no format that is read"))
                elif kind == "a file":
                    pictures.append(path)
                else:
                    others.append((path, kind if "link" in kind else f"it is {kind}"))
    # By parts: paths of Windows compare without case, which would be another order.
    return sorted(pictures, key=lambda p: p.parts), sorted(others, key=lambda o: o[0].parts)


def leads_back(link: Path, entered: Sequence[Path]) -> bool:
    """Return whether a link to a folder leads to one that it lies in.

    Args:
        link: the link.
        entered: real paths of the folders that were entered, from the first to where it lies.
    """
    target = Path(os.path.realpath(link))
    return any(folder.is_relative_to(target) for folder in entered)


def kind_of_entry(entry: "os.DirEntry[str]") -> str:
    """Return what a directory entry is; of most files the folder itself says it."""
    try:
        if entry.is_file(follow_symlinks=False):
            return "a file"
    except OSError:
        return "a file"
    return kind_of(entry.path)
