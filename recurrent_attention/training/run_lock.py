"""Who works in a run's folder: one process at a time, and a dead one frees it."""

import json
import os
import socket
import time
from pathlib import Path
from weakref import WeakValueDictionary

from filelock import BaseFileLock, FileLock, Timeout

from recurrent_attention._errors import printable
from recurrent_attention._files import whole_file

LOCK, OWNER = "lock", "owner.json"
# A killed process's workers, which share its lock, see within five seconds that it is gone.
PATIENCE = 8
_held: WeakValueDictionary[Path, BaseFileLock] = WeakValueDictionary()  # by this process


def claim_folder(folder: Path) -> BaseFileLock:
    """Take a folder for this process; the system frees it where the process ends, however it does.

    Args:
        folder: which is there; the lock and its owner's name lie in it.

    Returns:
        What holds the folder for as long as it is kept.

    Raises:
        FileExistsError: if another process has it.
    """
    path = folder.resolve()
    held = _held.get(path)
    if held is not None and held.is_locked:
        return held
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise FileExistsError(
            f"Expected the run's folder {printable(folder.parent)} to be free, but "
            f"{_owner(folder)} works in it. Wait until that ends, or end it; the folder of a "
            "process that died is taken over."
        ) from None
    _held[path] = lock
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
    with whole_file(folder / OWNER) as beside:
        beside.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    return lock


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        text = f"process {owner['process']} on {owner['host']}, since {owner['since']},"
    except (OSError, ValueError, TypeError, KeyError):
        text = "another process"
    return printable(text)
