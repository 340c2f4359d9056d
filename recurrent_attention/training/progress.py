"""Where a training run is, which run it is, and what it says of itself."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recurrent_attention._errors import printable
from recurrent_attention.training.evaluation import Evaluation


@dataclass
class Progress:
    """Where a run is, in numbers and lists that JSON can hold.

    Attributes:
        epoch: the one that is trained, from 1.
        batches: of it that are done.
        step: updates done since the beginning.
        seconds: that this epoch's training took so far.
        record: what this epoch's training found, once that is done and validation is not.
        history: the epochs before.
        best_score: highest so far.
        best_epoch: whose weights have it.
        best_step: of its checkpoint.
    """

    epoch: int = 1
    batches: int = 0
    step: int = 0
    seconds: float = 0.0
    record: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best_score: float = -math.inf
    best_epoch: int = 0
    best_step: int = -1

    def place(self) -> str:
        """Say which batch is under way."""
        return f"epoch {self.epoch}, batch {self.batches + 1} (update {self.step + 1})"


def check_identity(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Refuse to go on with something else.

    Args:
        saved: of the checkpoint.
        now: of this run; the same nested dictionaries.
        path: of the checkpoint, for the message.

    Raises:
        ValueError: naming the first entry that differs.
    """
    for part in now:
        before, after = saved.get(part), now[part]
        if isinstance(before, dict) and isinstance(after, dict):
            changed = [key for key in after if before.get(key) != after[key]]
            if changed == ["epochs"] and after["epochs"] > before["epochs"]:
                if after["schedule"] == "steps":  # which does not depend on their number
                    continue
                raise ValueError(
                    f"Expected to resume with the {before['epochs']} epochs of {printable(path)}, "
                    f"but got {after['epochs']}, and the cosine of the learning rate ends at the "
                    "last one. Begin another run from the saved model, or take schedule='steps'."
                )
            if not changed:
                continue
            part, before, after = f"{part} {changed[0]}", before.get(changed[0]), after[changed[0]]
        if before != after:
            raise ValueError(
                f"Expected to resume with the {part} of {printable(path)}, {before!r}, but got "
                f"{after!r}. Start the run as it was started, or begin another in a new folder."
            )


def validation_record(found: Evaluation, epoch: int) -> dict[str, float]:
    """Give what an epoch's line of metrics says of the validation data.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"Expected a finite loss on the validation data, but got {found.loss} after epoch "
            f"{epoch}. Lower the learning rate, or train in fp32."
        )
    return {
        "val_loss": found.loss,
        "val_global": found.global_top1,
        "val_local": found.local_top1,
        "val_fused": found.fused_top1,
        "val_images_per_second": found.images_per_second,
    }


def line_of(record: dict[str, Any], epochs: int) -> str:
    """Put an epoch into a line of text."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        f"loss {record['train_loss']:.3f}",
    ]
    for kind in ("train", "val"):
        if f"{kind}_fused" in record:
            values = [f"{100 * record[f'{kind}_{s}']:.1f}" for s in ("global", "local", "fused")]
            parts.append(f"{kind} global {values[0]} local {values[1]} fused {values[2]}")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])
