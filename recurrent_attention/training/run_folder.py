"""The folder that a training run leaves behind; one process at a time works in it."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file

from recurrent_attention._errors import printable
from recurrent_attention._files import kind_of, make_folder, remove_parts, whole_file
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.hub import card as model_card
from recurrent_attention.hub.config import CONFIG_NAME
from recurrent_attention.hub.weights import WEIGHTS_NAME
from recurrent_attention.training.checkpoints import Checkpoints
from recurrent_attention.training.processes import from_main, join_processes

CHECKPOINTS, LOCK, OWNER = "checkpoints", "lock", "owner.json"
# A killed process's workers, which share its lock, see within five seconds that it is gone.
PATIENCE = 8
_held: WeakValueDictionary[Path, BaseFileLock] = WeakValueDictionary()  # by this process


class RunFolder:
    """Keep a run's config.json, metrics.jsonl, checkpoints and best model, and what is drawn of it.

    Of several processes the main one writes, and the others leave the folder alone; `path` is the
    main process's in all of them.

    Args:
        path: a folder that does not exist yet, or is empty. It stays where it is if the process
            changes its working directory.
        resume: take a folder that a run left, to go on there; one that is new or empty will do.

    The folder belongs to this process while this object lives: no second run works in it meanwhile.

    Raises:
        FileExistsError: if the folder holds something (without `resume`), or no run (with
            `resume`), or another process works in it, which the message names.
        OSError: if the folder cannot be made.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self._lock: BaseFileLock | None = None  # of the main process, while this object lives
        self.path = from_main(lambda: self._claim(Path(path).absolute(), resume))
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)

    @property
    def model_dir(self) -> Path:
        """The folder of the model, for `TwoStreamClassifier.from_pretrained`."""
        return self.path / "model"

    def check_unused(self) -> None:
        """Refuse a folder with checkpoints, which another training would delete."""
        if self.checkpoints.steps():
            raise FileExistsError(
                f"Expected a run folder without checkpoints, but {printable(self.path)} holds a "
                "run. Take another folder, or go on with that run: fit(..., resume=True)."
            )

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a file of `values`, whole or not at all."""
        self._write(name, json.dumps(values, indent=2, default=str) + "\n")

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl, a line for each epoch."""
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def save_model(self, model: TwoStreamClassifier, *, again: bool = True) -> None:
        """Write the model into `model_dir`, each of its files whole or not at all.

        Args:
            model: what is written.
            again: write it also where a model with just these weights is already.
        """
        if join_processes().is_main_process and (again or not self._holds(model)):
            model.save_pretrained(self.model_dir)

    def _holds(self, model: TwoStreamClassifier) -> bool:
        """Whether `model_dir` has a whole model with the weights of this one."""
        if not (self.model_dir / CONFIG_NAME).is_file():
            return False
        try:
            kept = load_file(self.model_dir / WEIGHTS_NAME)
        except (OSError, SafetensorError):
            return False
        own = model.state_dict()
        return all(name in own and own[name].cpu().equal(kept[name]) for name in kept)

    def write_card(self, model: TwoStreamClassifier, notes: str) -> None:
        """Write the model card anew, with Markdown about data and accuracy."""
        card = model.generate_model_card(repo_id=self.model_dir.name, notes=notes)
        self._write(f"{self.model_dir.name}/{model_card.NAME}", str(card))

    def _claim(self, path: Path, resume: bool) -> Path:
        check_free(path, resume)
        # First, to know the folder again by.
        make_folder(path / CHECKPOINTS)
        self._lock = _lock(path / CHECKPOINTS)
        for folder in (path, path / CHECKPOINTS, path / "model"):
            remove_parts(folder)  # of a killed run
        return path

    def _write(self, name: str, text: str) -> None:
        if join_processes().is_main_process:
            with whole_file(self.path / name) as beside:
                beside.write_text(text, encoding="utf-8")


def check_free(path: Path, resume: bool) -> None:
    """Refuse a folder that holds something else, or a run that is not to be gone on with.

    Raises:
        FileExistsError: if it is so.
        NotADirectoryError: if the place is below a file.
    """
    above = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise NotADirectoryError(
            f"Expected a place for a folder at {printable(path)}, but {printable(above)} is "
            f"{kind_of(above)}. Choose another place."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())) and not _never_began(path):
        if not resume:
            raise FileExistsError(
                f"Expected a new or empty folder for the run, but {printable(path)} holds "
                "something already. Choose another folder, move that one away, or go on with its "
                "run: resume=True (--resume)."
            )
        if not (path / CHECKPOINTS).is_dir():
            raise FileExistsError(
                f"Expected the folder of a run to go on with, but {printable(path)} holds "
                f"something else, and no folder {CHECKPOINTS}. Name the folder of the run."
            )


def _never_began(path: Path) -> bool:
    """Return whether a folder holds nothing but the lock of a run that failed before it began."""
    checkpoints = path / CHECKPOINTS
    if not path.is_dir() or list(path.iterdir()) != [checkpoints] or not checkpoints.is_dir():
        return False
    return {file.name for file in checkpoints.iterdir()} <= {LOCK, OWNER}


def _lock(folder: Path) -> BaseFileLock:
    """Take a folder for this process, for as long as what is returned is kept.

    The system frees it where the process ends, however it does. The lock and its owner's name lie
    in the folder.
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
