"""SIGTERM and Ctrl-C: a node that is taken away, a job whose time is up, somebody who stops it."""

import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn, Self

from tqdm.auto import tqdm

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Termination:
    """Note a SIGTERM or Ctrl-C instead of ending at once, meanwhile; a second Ctrl-C ends at once.

    Signals reach Python's main thread alone; in another thread nothing is noted, and they do what
    they did before.

    Attributes:
        asked: the number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            # None stands for a handler that was not set from Python, and cannot be set back.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = max(self.asked, number)  # SIGTERM counts, if both come


def end_process(number: int, note: str) -> NoReturn:
    """End with the exit code that the signal would have ended the process with.

    Args:
        number: of the signal.
        note: a line for the standard error stream, beside the progress bars; "" for none.
    """
    if note:
        tqdm.write(f"{NAMES[signal.Signals(number)]}: {note}", file=sys.stderr)
    sys.exit(128 + number)
