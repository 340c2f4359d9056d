"""Worker processes: what asks a job to end is left to the process that started them."""

import os
import signal
import threading

_ENDING = (signal.SIGTERM, signal.SIGINT)


def leave_signals(*_: object) -> None:
    """Let this worker process ignore requests to end, unless its parent makes them.

    slurm, systemd, docker and a terminal's Ctrl-C signal all processes of a job. A worker that
    ended at once would take its parent's data away, which then could not save what it has. For
    `DataLoader(worker_init_fn=...)` and `ProcessPoolExecutor(initializer=...)`.

    Args:
        *_: the worker's number, which torch passes.
    """
    if not hasattr(signal, "sigwaitinfo"):  # Windows, macOS: nothing tells who signals
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # threads that begin later inherit it

    def wait() -> None:
        while True:
            if signal.sigwaitinfo(_ENDING).si_pid == parent:
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="signals").start()
