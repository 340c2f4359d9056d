"""The folder that a training run leaves behind."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.whole_file import whole_file


class RunFolder:
    """config.json, metrics.jsonl, the model, and whatever is drawn of a run.

    Args:
        path: a folder that does not exist yet, or is empty.

    Raises:
        FileExistsError: if something is in it: it is never overwritten.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                f"Expected a new or empty folder for the run, but {self.path} holds something "
                "already. Choose another folder, or move that one away."
            )
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def model_dir(self) -> Path:
        """Where the model lies, for `TwoStreamClassifier.from_pretrained`."""
        return self.path / "model"

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a file of `values`, whole or not at all."""
        with whole_file(self.path / name) as beside:
            beside.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save_model(self, model: TwoStreamClassifier) -> None:
        """Write the model beside its place, then put it there."""
        beside, old = self.path / ".model.part", self.path / ".model.old"
        shutil.rmtree(beside, ignore_errors=True)
        model.save_pretrained(beside)
        if self.model_dir.exists():
            self.model_dir.rename(old)
        beside.rename(self.model_dir)
        shutil.rmtree(old, ignore_errors=True)
