"""How much memory a pickle would take, reckoned from its opcodes before it is read."""

import io
import math
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from recurrent_attention._errors import printable

# Calls that copy what they are given: a pickle can hand them one large thing again and again.
_COPIES = frozenset({"set", "OrderedDict", "Counter", "encode", "Size", "bytearray", "complex"})
_SPARE = 2**24  # items that copies may make, beside those that the pickle has bytes for
_LEGACY_PICKLES = 5  # magic number, protocol, system, what was saved, keys; then raw storages
_PUSHES = ("INT", "LONG", "FLOAT", "UNICODE", "STRING", "BYTES", "NONE", "NEWTRUE", "NEWFALSE")


class _Thing:
    """What an opcode leaves on the stack: how large it is, and what is needed to reckon with it."""

    def __init__(self, size: int = 0, value: Any = None, items: "list[_Thing] | None" = None):
        self.size = size
        self.value = value
        self.items = items or []


_MARK = _Thing()


def check_pickles(path: Path) -> None:
    """Refuse a file of `torch.save` whose pickle would take far more memory than it has bytes.

    torch reads pickles without running code, but what it does call can still multiply: a set, or
    bytes, made of one large thing a million times, or an array of any length out of a number. Files
    that torch writes hold their records uncompressed, and their tensors' bytes as they are.

    Args:
        path: of the file, in torch's format of today (a zip archive) or in its old one.

    Raises:
        ValueError: if it is no such file, or would take that memory.
    """
    size = path.stat().st_size
    if not size:
        return  # and there is nothing to look at; the reader will say so
    try:
        with path.open("rb") as file:
            for pickle in _pickles(file, size):
                _check(pickle, size)
    except _TooMuchError:
        raise ValueError(
            f"Expected {printable(path)} to be as torch.save writes it, but it unpacks to more "
            "than it holds. Save the state dict by itself."
        ) from None
    except _ArchiveError as error:
        raise ValueError(
            f"Expected {printable(path)} to be a checkpoint of torch.save, but got: a damaged "
            "archive."
        ) from error
    except Exception as error:  # pickletools raises what a damaged pickle leads to
        raise ValueError(
            f"Expected {printable(path)} to be a checkpoint of torch.save, but got: data that are "
            "no weights."
        ) from error


class _TooMuchError(Exception):
    """The pickle would take more memory than it may."""


class _ArchiveError(Exception):
    """The zip archive cannot be read."""


def _pickles(file: IO[bytes], size: int) -> Iterator[IO[bytes]]:
    """Yield the pickles of a file, each to be read to its end before the next."""
    is_zip = file.read(4) == b"PK\x03\x04"  # as torch tells them apart
    file.seek(0)
    if not is_zip:
        for _ in range(_LEGACY_PICKLES):
            yield file
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            inflates = sum(entry.file_size for entry in entries) > size
            if inflates or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _TooMuchError
            names = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
            pickles = [archive.read(name) for name in names]
    except _TooMuchError:
        raise
    except Exception as error:  # of a dozen kinds, and torch may read what zipfile cannot
        raise _ArchiveError from error
    yield from map(io.BytesIO, pickles)


def _check(file: IO[bytes], size: int) -> None:
    """Go over the opcodes of one pickle; what they say wrongly, torch's own reader refuses."""
    stack: list[_Thing] = []
    memo: dict[Any, _Thing] = {}
    storages: dict[Any, int] = {}
    copied = stored = 0

    def pop_to_mark() -> list[_Thing]:
        place = len(stack) - 1
        while stack[place] is not _MARK:  # the last one; without any, the index runs out
            place -= 1
        items = stack[place + 1 :]
        del stack[place:]
        return items

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            stack.append(_MARK)
        elif name == "GLOBAL":
            stack.append(_Thing(value=str(argument).rpartition(" ")[2]))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = [stack.pop() for _ in range(count)][::-1]
            stack.append(_Thing(count, items=items))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = pop_to_mark()
            stack.append(_Thing(len(items), items=items))
        elif name.startswith("EMPTY_"):
            stack.append(_Thing())
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items = pop_to_mark()
            stack[-1].size += len(items)
        elif name in ("APPEND", "SETITEM"):
            del stack[-(1 if name == "APPEND" else 2) :]
            stack[-1].size += 1
        elif name in ("REDUCE", "NEWOBJ"):
            made, cost = _called(stack.pop(-2), stack.pop())
            stack.append(made)
            copied += cost
        elif name == "BUILD":
            stack.pop()
        elif name == "BINPERSID":
            items = stack.pop().items
            if len(items) > 4 and isinstance(items[4].value, int):
                key, count = items[2].value, max(0, items[4].value)
                stored += count - storages.get(key, 0)
                storages[key] = count
            stack.append(_Thing())
        elif isinstance(argument, str | bytes):
            stack.append(_Thing(len(argument), argument if len(argument) < 100 else None))
        elif any(kind in name for kind in _PUSHES):
            stack.append(_Thing(value=argument))
        if copied > _SPARE + size or stored > size:
            raise _TooMuchError


def _product(sizes: list[_Thing]) -> int:
    numbers = [thing.value for thing in sizes if isinstance(thing.value, int)]
    return math.prod(max(0, number) for number in numbers) if numbers else 0


def _called(function: _Thing, arguments: _Thing) -> tuple[_Thing, int]:
    """Return what a call makes, and how many items it takes that the pickle has no bytes for."""
    name = function.value if isinstance(function.value, str) else ""
    items = arguments.items
    if name.endswith("Tensor"):
        return _Thing(), _product(items)
    if name == "_rebuild_qtensor":  # its storage is put into a tensor that is made first
        return _Thing(), _product(items[2].items)
    if name not in _COPIES or not items:
        return _Thing(), 0
    first = items[0]
    cost = max(first.size, abs(first.value) if isinstance(first.value, int) else 0)
    return _Thing(2 * cost if name == "encode" else cost), cost
