"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART_SUFFIX = ".part"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; what was written is put there if nothing failed.

    What was written reaches the disk before it gets its name, so that neither a kill nor a loss of
    power leaves half of it under that name, or nothing where a file was before.

    Args:
        path: of the file, which is replaced if it exists.

    Yields:
        A path in the same folder, hidden and of another suffix.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":  # only there a folder can be opened
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Delete what a killed process was writing in a folder; no other may be writing there."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
