"""The words of messages: names from outside made safe to print, reasons made one line."""

from collections.abc import Sequence
from typing import Any

_JOINERS = "\u200c\u200d"  # of Persian, Hindi and emoji: they are no control characters


class ArgumentError(ValueError):
    """An argument that does not fit, said in one sentence that names it."""


def printable(name: Any) -> str:
    r"""Return a name from outside as a terminal, a log and a figure can take it.

    File names, class names and keys of files come from strangers. Control characters (terminal
    escapes, newlines, text direction) and bytes that are no UTF-8 become escapes such as `\x1b`;
    letters of all scripts stay.

    Args:
        name: a text or a path.

    Returns:
        One line of text that can be encoded as UTF-8.

    Example:
        >>> print(printable("wren\x1b[2J.jpg"), printable("鷦鷯.jpg"))
        wren\x1b[2J.jpg 鷦鷯.jpg
    """
    text = str(name)
    if text.isprintable():  # nearly always, and 20 times as fast as going over the letters
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in _JOINERS
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def first_line(error: object, most: int = 300) -> str:
    """Return the first line of what another library says, to go into a sentence of ours.

    Args:
        error: an exception, or its text.
        most: letters to keep.

    Returns:
        The line without its full stop; the type's name where there is no text.
    """
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return printable(text)[:most] or type(error).__name__


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first names of several as text for a message: "a, b, c, ..."."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown + (", ..." if len(names) > most else "")
