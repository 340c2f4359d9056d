"""The folder that a training run leaves behind."""

import json
from pathlib import Path
from typing import Any

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.training.checkpoints import Checkpoints
from recurrent_attention.training.processes import from_main, join_processes
from recurrent_attention.whole_file import remove_parts, whole_file

CHECKPOINTS = "checkpoints"


class RunFolder:
    """config.json, metrics.jsonl, checkpoints, the best model, and whatever is drawn of a run.

    Of several processes the main one writes, and the others leave the folder alone; `path` is the
    main process's in all of them.

    Args:
        path: a folder that does not exist yet, or is empty.
        resume: take a folder that a run left, to go on there; one that is new or empty will do.

    Raises:
        FileExistsError: if something is in it without `resume`: it is never overwritten. With
            `resume`, if it is not a run's.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = from_main(lambda: _claim(Path(path), resume))
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)

    @property
    def model_dir(self) -> Path:
        """Where the model lies, for `TwoStreamClassifier.from_pretrained`."""
        return self.path / "model"

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a file of `values`, whole or not at all."""
        self._write(name, json.dumps(values, indent=2, default=str) + "\n")

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl, a line for each epoch."""
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def save_model(self, model: TwoStreamClassifier) -> None:
        """Write the model into `model_dir`, each of its files whole or not at all."""
        if join_processes().is_main_process:
            model.save_pretrained(self.model_dir)

    def _write(self, name: str, text: str) -> None:
        if join_processes().is_main_process:
            with whole_file(self.path / name) as beside:
                beside.write_text(text, encoding="utf-8")


def _claim(path: Path, resume: bool) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not resume:
            raise FileExistsError(
                f"Expected a new or empty folder for the run, but {path} holds something already. "
                "Choose another folder, or move that one away."
            )
        if not (path / CHECKPOINTS).is_dir():
            raise FileExistsError(
                f"Expected the folder of a run to go on with, but {path} holds something else, and "
                f"no folder {CHECKPOINTS}. Name the folder of the run."
            )
    (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)  # first, to know the folder again by
    for folder in (path, path / CHECKPOINTS, path / "model"):
        remove_parts(folder)  # of a killed run
    return path
