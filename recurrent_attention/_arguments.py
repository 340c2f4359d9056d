"""Checks of arguments: what becomes a number, a side or names, and one sentence otherwise.

Each raises TypeError for another type and `ArgumentError`, a ValueError, for a wrong value.
"""

import math
import numbers
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from recurrent_attention._errors import ArgumentError

# Terminal escapes and other control characters, and halves of characters: bytes that are no UTF-8.
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number of at least `least`; numbers of NumPy and torch will do."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"Expected `{name}` to be a whole number, but got {value!r:.200}.")
    try:
        number = operator.index(value)
    except TypeError:  # an array of several
        raise TypeError(
            f"Expected `{name}` to be a whole number, but got {value!r:.200}."
        ) from None
    if number < least:
        raise ArgumentError(f"Expected `{name}` to be at least {least}, but got {number}.")
    return number


def side(value: Any, name: str) -> int:
    """Return the side of square pictures in pixels, also of two that are the same."""
    if isinstance(value, tuple | list) and len(value) == 2:
        first, second = (whole_number(one, name) for one in value)
        if first != second:
            raise ArgumentError(
                f"Expected `{name}` to be the side of a square, but got {value}. Pictures are "
                "resized to squares; `forward` takes tensors of other shapes."
            )
        return first
    return whole_number(value, name)


def real_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number within a range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"Expected `{name}` to be a number, but got {value!r:.200}.")
    number = float(value)
    if not low <= number <= high or not math.isfinite(number):
        limits = f"in [{low:g}, {high:g}]" if math.isfinite(high - low) else "finite"
        raise ArgumentError(f"Expected `{name}` to be {limits}, but got {number}.")
    return number


def one_of(value: Any, name: str, known: Sequence[str]) -> str:
    """Return a word that is among those known."""
    if value not in known:
        raise ArgumentError(
            f"Expected `{name}` to be one of {', '.join(known)}, but got {value!r}."
        )
    return str(value)


def names_of_classes(value: Any, num_classes: int) -> tuple[str, ...] | None:
    """Return a text for each class; None stays None."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"Expected `class_names` to be a list of texts, but got {value!r:.200}.")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"Expected `class_names` to hold a text for each class, but got {name!r:.200}. "
                "Numbers: list(map(str, numbers))."
            )
        if UNPRINTABLE.search(name):
            raise ArgumentError(
                "Expected `class_names` to hold texts without control characters and in UTF-8, "
                f"but got {name!r:.200}. Rename that class, or its folder."
            )
    if len(names) != num_classes:
        raise ArgumentError(
            f"Expected `class_names` to hold {num_classes} names, but got {len(names)}. Pass "
            f"num_classes={len(names)}."
        )
    return tuple(map(str, names))
