"""Lists of names and numbers out of MATLAB files: no more of the format than data sets need.

A reader of its own, as `scipy.io.loadmat` (1.17.1) ends the interpreter with a segmentation fault
on a file of 10 KB, with cells nested 5,000 deep. Here a cell holds text and nothing else.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recurrent_attention._errors import printable

MAX_BYTES = 16 * 2**20  # of the file, and of what is unpacked from it; real lists: below 1 MB
HEADER = 128
VERSION = 0x0100  # MATLAB 5 to 7.2; 0x0200 is 7.3, which is HDF5
MATRIX, COMPRESSED = 14, 15
CELL, CHARACTERS = 1, 4
COMPLEX = 0x800  # a flag beside the class: no list has complex numbers
NUMBERS = range(6, 16)  # double, single, and integers of 8 to 64 bits
DTYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


class _Element(NamedTuple):
    kind: int
    data: bytes


def read_lists(path: Path, names: Sequence[str]) -> dict[str, list[str] | list[float]]:
    """Read cells of texts and arrays of numbers from a MATLAB file (.mat, versions 5 to 7.2).

    Args:
        path: of the file.
        names: of the variables to read; others are skipped.

    Returns:
        For each name the texts or the numbers, in the order of the file (columns first).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, is damaged, is larger than 16 MiB, or lacks a variable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a MATLAB file at {printable(path)}, but there is none.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        found = dict(_variables(path.read_bytes(), names))
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"no variable {printable(missing[0])}")
    except (ValueError, zlib.error) as error:  # a text that cannot be decoded is a ValueError
        raise ValueError(
            f"Expected {printable(path)} to be a MATLAB file with {' and '.join(names)}, but got: "
            f"{error}."
        ) from None
    return found


def _variables(data: bytes, names: Sequence[str]) -> Iterator[tuple[str, list[str] | list[float]]]:
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("another kind of file")
    (version,) = struct.unpack_from(f"{order}H", data, HEADER - 4)
    if version != VERSION:
        raise ValueError(f"version {version:#06x} of the format instead of {VERSION:#06x}")
    room = MAX_BYTES
    for element in _elements(data[HEADER:], order):
        if element.kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(element.data, room)
            room -= len(unpacked)
            if not unpacker.eof or room <= 0:
                raise ValueError(f"a variable that is cut off, or more than {MAX_BYTES} bytes")
            element = next(_elements(unpacked, order), element)
        if element.kind != MATRIX:
            raise ValueError(f"an element of kind {element.kind}")
        if (variable := _variable(element.data, order, names)) is not None:
            yield variable


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """Yield the elements that follow each other in `data`."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError(f"{len(data) - at} bytes too many")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size and kind share four bytes, the data are the next
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        else:
            at = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError("an end in the middle of a variable")
        yield _Element(kind, data[start : start + size])


def _variable(
    data: bytes, order: str, names: Sequence[str]
) -> tuple[str, list[str] | list[float]] | None:
    if not data:
        return None
    matlab_class, count, name, parts = _matrix(data, order)
    if name not in names:
        return None
    if matlab_class == CELL:
        return name, _texts(parts, count, order)
    if matlab_class in NUMBERS:
        values = next(parts, _Element(0, b""))
        if values.kind not in DTYPES:
            raise ValueError(f"numbers of kind {values.kind} in {name}")
        dtype = np.dtype(order + DTYPES[values.kind])
        if count * dtype.itemsize != len(values.data):
            raise ValueError(f"{len(values.data)} bytes for the {count} numbers of {name}")
        return name, np.frombuffer(values.data, dtype).astype(float).tolist()
    raise ValueError(f"class {matlab_class} for {name}")


def _texts(parts: Iterator[_Element], count: int, order: str) -> list[str]:
    texts = []
    for part in parts:
        matlab_class, length, _, characters = _matrix(part.data, order)
        if part.kind != MATRIX or matlab_class != CHARACTERS:
            raise ValueError("a cell that holds no text")
        text = next(characters, _Element(1, b""))
        if text.kind not in ENCODINGS:
            raise ValueError(f"text of kind {text.kind}")
        encoding = ENCODINGS[text.kind]
        if encoding == "utf-16":
            encoding += "-le" if order == "<" else "-be"
        texts.append(text.data.decode(encoding))
        if len(texts[-1]) != length:
            raise ValueError(f"a text of {len(texts[-1])} instead of {length} characters")
    if len(texts) != count:
        raise ValueError(f"{len(texts)} instead of {count} texts")
    return texts


def _matrix(data: bytes, order: str) -> tuple[int, int, str, Iterator[_Element]]:
    """Take a matrix apart: its class, how many entries it has, its name, and what follows."""
    parts = _elements(data, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0].data) != 8 or len(head[1].data) % 4:
        raise ValueError("a variable without a head")
    (flags,) = struct.unpack_from(f"{order}I", head[0].data)
    shape = struct.unpack(f"{order}{len(head[1].data) // 4}i", head[1].data)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"a variable of shape {shape[:8]}")
    return flags & (COMPLEX | 0xFF), math.prod(shape), head[2].data.decode("latin-1"), parts
