"""Ctrl-C that is not lost."""

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.05  # long enough for a callback to end


@contextmanager
def kept_interrupts() -> Iterator[None]:
    """Let Ctrl-C come again where Python drops it.

    What is raised in a finaliser or in the callback of a weak reference, KeyboardInterrupt too, is
    printed and goes nowhere, and the work goes on. torch and matplotlib have many of these.

    Yields:
        Nothing; before and afterwards Python does as it always does.
    """
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            before(dropped)
            return
        again = threading.Timer(SECONDS, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
