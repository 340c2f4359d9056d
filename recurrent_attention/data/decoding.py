"""Decoding pictures to see what is wrong with them, in this process or in several."""

import hashlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import kind_of
from recurrent_attention._workers import leave_signals
from recurrent_attention.images.levels import RangeWarning
from recurrent_attention.images.reading import open_picture, picture_size, unreadable

Fault = Literal["unreadable", "decompression bomb", "wrong size", "wrong range"]
MIN_SIDE = 8  # pixels: below, a picture shows nothing, and most backbones leave no cell of it
PICTURES_AT_ONCE = 16  # that a worker is handed; handing them over one by one costs more time
PICTURES_WAITING = 4096  # that all workers are handed, before the next ones


class BadPicture(NamedTuple):
    """A picture that cannot be read, and why.

    Attributes:
        path: of the file.
        reason: what is wrong with it.

    Its `str` is a sentence of both.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return unreadable(f"at {printable(self.path)}", self.reason)


class Decoded(NamedTuple):
    """What the decoding of one picture told.

    Attributes:
        fault: what kind of fault it has, or None.
        reason: the fault in words; empty where there is none.
        content: digest of the file's bytes; empty where it cannot be decoded.
        pixels: digest of the upright RGB pixels and their shape; empty where it cannot be decoded.
    """

    fault: Fault | None
    reason: str = ""
    content: bytes = b""
    pixels: bytes = b""

    @property
    def is_readable(self) -> bool:
        """Whether `open_picture` reads it."""
        return self.fault in (None, "wrong size", "wrong range")


def decode(path: Path) -> Decoded:
    """Decode one picture as training does, and look at it.

    Args:
        path: of the file.

    Returns:
        What is wrong with it, if anything, and two digests to know it again.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")  # of Pillow, on damaged EXIF data: the pixels count
            warnings.simplefilter("always", RangeWarning)
            stated = picture_size(path)
            picture = open_picture(path)
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except MemoryError:
        return Decoded("unreadable", "more pixels than there is memory for")
    except (OSError, ValueError) as error:
        is_bomb = isinstance(error.__cause__, Image.DecompressionBombError)
        return Decoded("decompression bomb" if is_bomb else "unreadable", _reason(path, error))
    size = picture.size
    pixels = hashlib.blake2b(repr(size).encode(), digest_size=16)
    pixels.update(picture.tobytes())
    found = Decoded(None, "", content, pixels.digest())
    if stated != size:
        reason = f"its header says {_times(stated)} pixels, but it has {_times(size)}"
        return found._replace(fault="wrong size", reason=reason)
    if min(size) < MIN_SIDE:
        reason = f"{_times(size)} pixels, less than {MIN_SIDE} on a side"
        return found._replace(fault="wrong size", reason=reason)
    if said:
        reason = "16 bits of which so few are used, without a declared range, that it looks black"
        return found._replace(fault="wrong range", reason=reason)
    return found


class _Faults(Dataset[str]):
    """What is wrong with each picture of a data set; empty where nothing is."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> str:
        try:
            self.pictures.pixels(index)
        except Exception as error:  # of whoever wrote the items, or the loader
            return first_line(error)
        return ""


def faults_of_all(pictures: Any, *, num_workers: int, progress: bool) -> list[str]:
    """Open pictures as their data set does, also where they are no files.

    Args:
        pictures: `Pictures`.
        num_workers: processes that open; 0 is this one.
        progress: show a bar.

    Returns:
        For each what is wrong with it; empty where nothing is.

    Raises:
        ValueError: if `num_workers` is negative.
    """
    _check_workers(num_workers)
    loader: DataLoader[str] = DataLoader(
        _Faults(pictures),
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),  # the caller's random state stays
        worker_init_fn=leave_signals,
    )
    return list(tqdm(loader, desc="read pictures", unit="picture", disable=not progress))


def _check_workers(num_workers: int) -> None:
    if num_workers < 0:
        raise ValueError(f"Expected `num_workers` to be at least 0, but got {num_workers}.")


def decode_all(
    paths: Iterable[Path], total: int, *, num_workers: int, progress: bool, description: str
) -> Generator[Decoded]:
    """Decode pictures, in their order.

    Args:
        paths: of the files; they are asked for when it is their turn.
        total: how many they are, for the bar.
        num_workers: processes that decode; 0 is this one.
        progress: show a bar.
        description: of the bar.

    Yields:
        What `decode` says of each.

    Raises:
        ValueError: if `num_workers` is negative.
        RuntimeError: if a worker is ended from outside, as by a system without memory.
    """
    _check_workers(num_workers)
    with tqdm(total=total, desc=description, unit="picture", disable=not progress) as bar:
        for found in map(decode, paths) if num_workers == 0 else _in_processes(paths, num_workers):
            bar.update()
            yield found


def _in_processes(paths: Iterable[Path], num_workers: int) -> Iterator[Decoded]:
    pool = ProcessPoolExecutor(num_workers, initializer=leave_signals)
    try:
        left = iter(paths)
        while some := list(islice(left, PICTURES_WAITING)):
            waiting = iter(some)
            for found in pool.map(decode, some, chunksize=PICTURES_AT_ONCE):
                next(waiting)
                yield found
    except BrokenProcessPool as error:
        raise RuntimeError(
            "Expected each process to decode its pictures, but one was ended, perhaps for want of "
            f"memory, at {printable(next(waiting))} or soon after it. Take fewer `num_workers`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # also where the caller stops early


def _reason(path: Path, error: Exception) -> str:
    kind = kind_of(path)
    if kind != "a file":
        return (
            "there is no file" if kind == "nothing" else kind if "link" in kind else f"it is {kind}"
        )
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror  # without the path, which is shown beside it
    return printable(" ".join(str(cause).split())).rstrip(".") or type(cause).__name__


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
