"""Paths from outside: what may be opened, and what would hang or is something else."""

import os
import stat
from pathlib import Path

from recurrent_attention._errors import printable

_KINDS = (  # opening one of these waits for somebody else, or reads without end
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return what lies at a path, links followed.

    Args:
        path: to look at; nothing is opened.

    Returns:
        "a file", "a folder", "a pipe", "a socket", "a device", "a link to nothing" or "nothing".
        "a file" also where the system forbids to look: opening it says so.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if Path(path).is_symlink() else "nothing"
    except (OSError, ValueError):
        return "a file"
    if stat.S_ISDIR(mode):
        return "a folder"
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a file")


def check_regular_file(
    path: str | os.PathLike[str], what: str, hint: str = "", *, name: str = ""
) -> None:
    """Refuse a path that is no regular file, before it is opened: a pipe would be waited for.

    Args:
        path: of the file; links are followed.
        what: what is expected there, with its article: "a picture", "a checkpoint".
        hint: a last sentence for what to do.
        name: what the caller calls the path, beside it.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is a folder, pipe, socket or device.
    """
    kind = kind_of(path)
    if kind == "a file":
        return
    last = f" {hint}" if hint else ""
    where = printable(Path(path)) + (f" ({name})" if name else "")
    if kind == "nothing":
        raise FileNotFoundError(f"Expected {what} at {where}, but there is no file.{last}")
    if kind == "a link to nothing":
        raise FileNotFoundError(f"Expected {what} at {where}, but it is a link to nothing.{last}")
    raise ValueError(f"Expected {what} at {where}, but it is {kind}.{last}")
