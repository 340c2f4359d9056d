"""Files: what may be opened, what would hang, and files that are there whole or not at all."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from recurrent_attention._errors import first_line, printable

PART_SUFFIX = ".part"
KEPT = "What was there before is as it was. Make room or choose another place, and try again."
_OF_RUST = re.compile(r'(?:message: "|IoError\(|: )?([A-Z][\w ]+) \(os error \d+\)')

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
    path = path if isinstance(path, Path) else Path(path)  # parsing one again takes 5 us
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "nothing"
    except (OSError, ValueError):
        return "a file"
    if stat.S_ISREG(mode):
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


def check_new_file(path: Path) -> None:
    """Refuse a path at which no file can be put, before it takes long to make one.

    Args:
        path: of the file to be written.

    Raises:
        IsADirectoryError: if it is a folder.
        ValueError: if it is a pipe, socket or device, which a file would take the place of.
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if what should be the folder is none.
        OSError: if nothing can be written there.
    """
    kind = kind_of(path)
    if kind == "a file" and _is_of_the_system(path):  # /dev/stdout, redirected to a file
        kind = "a device"
    if kind == "a folder":
        raise IsADirectoryError(f"Expected `path` to be a file, but {printable(path)} is a folder.")
    if kind not in ("a file", "a link to nothing", "nothing"):
        raise ValueError(f"Expected `path` to be a file, but {printable(path)} is {kind}.")
    if not path.parent.is_dir():
        where, kind = printable(path.parent), kind_of(path.parent)
        if kind == "nothing":
            raise FileNotFoundError(
                f"Expected `path` to be in an existing folder, but there is no {where}. Create it "
                "first."
            )
        raise NotADirectoryError(
            f"Expected `path` to be in an existing folder, but {where} is {kind}."
        )
    path = _target_of(path)
    beside = _beside(path)
    try:
        with suppress(FileNotFoundError):
            path.lstat()
        beside.touch(exist_ok=False)
        beside.unlink()
    except OSError as error:
        raise OSError(
            f"Expected to write {printable(path)}, but got: {error.strerror}. {KEPT}"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Args:
        path: of the folder.

    Raises:
        OSError: if something else is there, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise FileExistsError(
            f"Expected a folder at {printable(path)}, but it is {kind_of(path)}. Choose another "
            "place."
        ) from error
    except OSError as error:
        raise OSError(
            f"Expected to make the folder {printable(path)}, but got: {error.strerror}. Choose "
            "another place."
        ) from error


@contextmanager
def whole_file(path: Path, *, kept: str = KEPT) -> Iterator[Path]:
    """Give a path beside `path` to write to; what was written is put there if nothing failed.

    What was written reaches the disk before it gets its name, so that neither a kill nor a loss of
    power leaves half of it under that name, or nothing where a file was before. No two writers
    share a part: each has a random name, also in threads, and in containers that share a disk.

    Args:
        path: of the file, which is replaced if it exists, and keeps its permissions; of a link,
            what it leads to.
        kept: what the message says, if it cannot be written, of what is there still.

    Yields:
        A path in the same folder, hidden and of another suffix.

    Raises:
        OSError: if it cannot be written, for example on a full disk, in a sentence with the path.
    """
    path = _target_of(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise OSError(f"Expected to write {printable(path)}, but got: it is read-only. {kept}")
    beside = _beside(path)
    try:
        yield beside
        if path.exists():
            shutil.copymode(path, beside)
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _reason(error, beside)
        if reason is None:  # of something else
            raise
        sentence = f"Expected to write {printable(path)}, but got: {reason}. {kept}"
        raise OSError(sentence) from error
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


def _target_of(path: Path) -> Path:
    """Return where a link leads, to a file or to nothing; another path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_of_the_system(path: Path) -> bool:
    """Return whether a path is one of those by which a system names its devices and open files."""
    folder = Path(os.path.realpath(path.parent))
    return os.name == "posix" and (folder == Path("/dev") or folder.is_relative_to("/proc"))


def _beside(path: Path) -> Path:
    """Return a path in the same folder that nobody else has, hidden and of another suffix."""
    return path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")


def _reason(error: BaseException, beside: Path) -> str | None:
    """Return why `beside` could not be written; None if that is not what failed.

    torch and safetensors hide what the system said behind errors of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            ours = cause.filename is None or Path(os.fsdecode(cause.filename)) == beside
            return cause.strerror if ours else None
        if isinstance(cause, SafetensorError):
            found = _OF_RUST.search(str(cause))
            return found[1] if found else first_line(cause)
        cause = cause.__cause__ or cause.__context__
    return None
