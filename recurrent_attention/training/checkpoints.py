"""The checkpoints of a run, as files: the best one and the last."""

from pathlib import Path
from typing import Any

import torch

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_regular_file, make_folder, whole_file

FORMAT = 1


class Checkpoints:
    """A folder of checkpoints, `step-000123.pt` by the updates done: the best one and the last.

    The folder is made with the first of them. A file is written beside its place, synced and
    renamed, so that each that can be seen is whole. They hold tensors, numbers and text only, and
    are read with `weights_only=True`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint after `step` updates."""
        return self.folder / f"step-{step:06d}.pt"

    def steps(self) -> list[int]:
        """List the updates after which there is a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._files())

    def save(self, state: dict[str, Any], *, step: int, best_step: int) -> None:
        """Write a checkpoint, and delete all others but the best, which may be this one.

        The checkpoints before stay if a weight is not finite, which is a FloatingPointError, or if
        the file cannot be written, for example on a full disk, which is an OSError.
        """
        for name, tensor in state["model"].items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(
                    f"Expected finite weights, but {name} holds NaN or infinity after update "
                    f"{step}. {self.last_one()} Lower the learning rate, or train in fp32."
                )
        path = self.path(step)
        make_folder(self.folder)
        kept = f"{self.last_one()} Make room, and go on with resume."
        with whole_file(path, kept=kept) as beside, beside.open("wb") as file:
            # Through Python's file, whose errors say what happened; torch's own do not.
            torch.save({"format": FORMAT, **state}, file)
        for other in self._files():
            if other not in (path, self.path(best_step)):
                other.unlink(missing_ok=True)

    def load(self, step: int) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; one that is damaged or of another format is refused."""
        path = self.path(step)
        try:
            check_regular_file(path, "a checkpoint")
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise ValueError(f"format {state.get('format')!r}")
        except (OSError, MemoryError) as error:
            raise OSError(
                f"Expected to read the checkpoint {printable(path)}, but got: {first_line(error)}. "
                "It may be whole: remove the cause, and go on with resume."
            ) from error
        except Exception as error:  # torch names no set of errors for a damaged file
            reason = first_line(error)
            raise ValueError(
                f"Expected a checkpoint of this package at {printable(path)}, but got: {reason}. "
                "Delete it to go on from the one before, if there is one, or else from the "
                "beginning."
            ) from error
        return state

    def last_one(self) -> str:
        """Return a sentence that names the last checkpoint."""
        steps = self.steps()
        if not steps:
            return "There is no checkpoint yet."
        return f"The checkpoint before, {printable(self.path(steps[-1]))}, is whole."

    def _files(self) -> list[Path]:
        return [p for p in self.folder.glob("step-*.pt") if p.stem[5:].isdecimal()]


def check_identity(
    saved: dict[str, Any], now: dict[str, Any], path: Path, *, more_epochs: bool = True
) -> None:
    """Refuse to go on from what `path` says with something else; name what differs.

    Args:
        saved: of the checkpoint, or of another file: dictionaries by name.
        now: of this run, likewise.
        path: of the file.
        more_epochs: allow more epochs than before, where the learning rate does not depend on them.

    Raises:
        ValueError: if something differs, also if only one of both has it.
    """
    absent = object()
    for part in now:
        before, after = saved.get(part), now[part]
        if isinstance(before, dict) and isinstance(after, dict):
            keys = {**after, **before}
            changed = [key for key in keys if before.get(key, absent) != after.get(key, absent)]
            if more_epochs and changed == ["epochs"] and after["epochs"] > before["epochs"]:
                if after["schedule"] == "steps":  # which does not depend on their number
                    continue
                raise ValueError(
                    f"Expected to resume with the {before['epochs']} epochs of {printable(path)}, "
                    f"but got {after['epochs']}, and the cosine of the learning rate ends at the "
                    "last one. Begin another run from the saved model, or take schedule='steps'."
                )
            if not changed:
                continue
            name = changed[0]
            part, before, after = f"{part} {name}", before.get(name), after.get(name)
        if before != after:
            raise ValueError(
                f"Expected to resume with the {part} of {printable(path)}, {before!r}, but got "
                f"{after!r}. Start the run as it was started, or begin another in a new folder."
            )
