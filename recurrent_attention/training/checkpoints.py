"""The checkpoints of a run: what it takes to go on as if nothing had happened."""

from pathlib import Path
from typing import Any

import torch

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_regular_file, whole_file

FORMAT = 1


class Checkpoints:
    """A folder of checkpoints, `step-000123.pt` by the updates done: the best one and the last.

    A file is written beside its place, synced and renamed, so that each that can be seen is whole.
    They hold tensors, numbers and text only, and are read with `weights_only=True`.

    Args:
        folder: made when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Tell where the checkpoint after `step` updates lies."""
        return self.folder / f"step-{step:06d}.pt"

    def steps(self) -> list[int]:
        """List the updates after which there is a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._files())

    def save(self, state: dict[str, Any], *, step: int, best_step: int) -> None:
        """Write a checkpoint, and delete all others but the best.

        Args:
            state: what to keep.
            step: updates done.
            best_step: of the checkpoint to keep; may be `step`.

        Raises:
            FloatingPointError: if a weight is not finite; the checkpoints before stay.
            OSError: if it cannot be written, for example on a full disk; likewise.
        """
        for name, tensor in state["model"].items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(
                    f"Expected finite weights, but {name} holds NaN or infinity after update "
                    f"{step}. {self.last_one()} Lower the learning rate, or train in fp32."
                )
        path = self.path(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = f"{self.last_one()} Make room, and go on with resume."
        with whole_file(path, kept=kept) as beside, beside.open("wb") as file:
            # Through Python's file, whose errors say what happened; torch's own do not.
            torch.save({"format": FORMAT, **state}, file)
        for other in self._files():
            if other not in (path, self.path(best_step)):
                other.unlink(missing_ok=True)

    def load(self, step: int) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            step: one of `steps()`.

        Returns:
            What was saved, on the CPU.

        Raises:
            ValueError: if the file is damaged, or of another format.
        """
        path = self.path(step)
        try:
            check_regular_file(path, "a checkpoint")
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise ValueError(f"format {state.get('format')!r}")
        except Exception as error:  # torch names no set of errors for a damaged file
            reason = first_line(error)
            raise ValueError(
                f"Expected a checkpoint of this package at {printable(path)}, but got: {reason}. "
                f"Delete it to "
                "go on from the one before, if there is one, or else from the beginning."
            ) from error
        return state

    def last_one(self) -> str:
        """Say in a sentence which checkpoint is the last."""
        steps = self.steps()
        if not steps:
            return "There is no checkpoint yet."
        return f"The checkpoint before, {printable(self.path(steps[-1]))}, is whole."

    def _files(self) -> list[Path]:
        return [p for p in self.folder.glob("step-*.pt") if p.stem[5:].isdecimal()]
