"""SIGTERM: a node that is taken away, or a job whose time is up."""

import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn, Self

from tqdm.auto import tqdm

EXIT_CODE = 128 + signal.SIGTERM  # what a shell shows for a process that SIGTERM ended


class Termination:
    """Note a SIGTERM instead of ending at once, meanwhile.

    Signals reach Python's main thread alone; in another thread nothing is noted, and SIGTERM does
    what it did before.

    Attributes:
        asked: whether a SIGTERM came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Callable[..., Any] | int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            # None stands for a handler that was not set from Python, and cannot be set back.
            before = signal.SIG_DFL if self._before is None else self._before
            signal.signal(signal.SIGTERM, before)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.asked = True


def end_process(note: str) -> NoReturn:
    """End as SIGTERM would have ended the process, with a note beside the progress bars."""
    if note:
        tqdm.write(note)
    sys.exit(EXIT_CODE)
