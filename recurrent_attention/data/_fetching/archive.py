"""Unpacking archives of others: a folder is there whole or not at all, and nothing beside it."""

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file

# CUB-200-2011 and Stanford Dogs unpack to about 1.2 and 0.8 GB in 12,000 and 41,000 files.
MAX_BYTES = 4 * 2**30
MAX_MEMBERS = 200_000
MAX_HEADER = 2**20  # bytes of one long name or one list of attributes; real ones have some hundred
COPIED = 2**18  # bytes at once
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device file",
    tarfile.BLKTYPE: "a device file",
    tarfile.FIFOTYPE: "a pipe",
}


def unpack(
    archives: Sequence[Path],
    folder: Path,
    *,
    strip: str = "",
    progress: bool = True,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
) -> None:
    """Unpack tar archives, plain or gzipped, into a folder that is not there yet.

    Files and folders alone are taken, with the names of the archive and the user's own permissions:
    no link, no device file, no owner, no setuid bit, no time. All is unpacked into a hidden folder
    beside, brought to the disk, and then renamed, so that after a kill there is no half of a
    folder; what such a kill left is removed. Two processes must not do this at once.

    Args:
        archives: unpacked one after the other into the same folder.
        folder: where to unpack.
        strip: a folder of the archives whose contents go right into `folder`.
        progress: show a bar.
        max_bytes: refuse archives that hold more, after unpacking.
        max_members: refuse archives that hold more files and folders.

    Raises:
        FileExistsError: if `folder` is there.
        ValueError: if an archive is damaged, too large, or holds what is not taken.
        OSError: if the disk is full.
    """
    if folder.exists():
        raise FileExistsError(f"Expected no folder at {printable(folder)}, but there is one.")
    staging = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        room = _Room(max_bytes, max_members)
        for archive in archives:
            check_regular_file(archive, "an archive")
            with archive.open("rb") as file:
                _unpack(file, archive, staging, strip, progress, room)
        _to_disk()
        staging.rename(folder)
        _to_disk()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Room:
    """What may still be unpacked."""

    def __init__(self, max_bytes: int, max_members: int) -> None:
        self.bytes, self.members = max_bytes, max_members
        self.max_bytes, self.max_members = max_bytes, max_members

    def take(self, archive: Path, size: int, members: int = 1) -> None:
        self.members -= members
        self.bytes -= size
        if self.members < 0 or self.bytes < 0:
            most = (
                f"{self.max_members} files and folders"
                if self.members < 0
                else f"{self.max_bytes} bytes"
            )
            raise ValueError(
                f"Expected {printable(archive)} to hold at most {most}, but it holds more. Is it "
                "another archive?"
            )


class _SmallReads(io.BufferedReader):
    """A file of which only small pieces are read at once: a header cannot fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _unpack(
    file: IO[bytes], archive: Path, staging: Path, strip: str, progress: bool, room: _Room
) -> None:
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    try:
        raw = gzip.GzipFile(fileobj=file) if gzipped else file
        with (
            _SmallReads(raw) as reader,  # type: ignore[arg-type]
            tqdm(
                total=archive.stat().st_size,
                desc=f"unpack {printable(archive.name)}",
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
            tarfile.open(fileobj=reader, mode="r:") as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember each
                _check(archive, member)
                room.take(archive, member.size if member.isreg() else 0)
                _extract(archive, tar, member, _target(archive, member.name, staging, strip))
                bar.update(file.tell() - bar.n)
            _check_end(reader, tar.offset)
            while rest := reader.read(COPIED):  # gzip's check sum is at the very end
                room.take(archive, len(rest), members=0)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, UnicodeError) as error:
        reason = (str(error) or type(error).__name__).rstrip(".")
        raise ValueError(
            f"Expected {printable(archive)} to be a whole tar archive, but got: "
            f"{printable(reason)}. Remove the file and call again."
        ) from error


def _check(archive: Path, member: tarfile.TarInfo) -> None:
    """Refuse what is no plain file or folder, and names that lead out of the folder."""
    if member.type not in _PLAIN or member.issparse():
        kind = _KINDS.get(member.type, "of a kind that is not taken")
        raise ValueError(
            f"Expected {printable(archive)} to hold files and folders only, but {member.name!r} "
            f"is {kind}."
        )
    parts = member.name.split("/")
    bad = (
        member.size < 0
        or not member.name.strip("./")
        or member.name.startswith("/")
        or ".." in parts
        # A backslash or a drive's colon would lead out on Windows; a control character is no name.
        or any(character in "\\:\x7f" or character < " " for character in member.name)
        or any(len(os.fsencode(part)) > 255 for part in parts)
    )
    if bad and member.name.strip("/") != ".":  # "." is the folder itself
        raise ValueError(
            f"Expected {printable(archive)} to hold names inside the folder it is unpacked to, but "
            f"got {member.name[:200]!r}."
        )
    if hasattr(tarfile, "data_filter"):  # the standard library's own rules, from Python 3.11.4 on
        tarfile.data_filter(member, os.curdir)


def _target(archive: Path, name: str, staging: Path, strip: str) -> Path:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if strip and parts[:1] == [strip]:
        parts = parts[1:]
    return staging.joinpath(*parts)


def _extract(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        out = target.open("xb")
    except (FileExistsError, NotADirectoryError):  # also names that differ where a disk sees none
        raise ValueError(
            f"Expected {printable(archive)} to hold each name once, but {member.name!r} is "
            "there twice."
        ) from None
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"no content of {member.name!r}")
    with out, source:
        left = member.size
        while left:
            block = source.read(min(COPIED, left))
            if not block:
                raise tarfile.ReadError("an end in the middle of a file")
            out.write(block)
            left -= len(block)


def _check_end(reader: IO[bytes], offset: int) -> None:
    """Look for the block of zeros that ends an archive: tarfile ends at a damaged header, too."""
    reader.seek(offset)
    if reader.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header and no end at byte {offset}")


def _to_disk() -> None:
    """Bring what was written to the disk: once for all files, as one by one takes minutes."""
    if hasattr(os, "sync"):
        os.sync()
