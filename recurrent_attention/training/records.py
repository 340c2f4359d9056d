"""What an epoch leaves: its line in metrics.jsonl, and on the screen."""

import math
from typing import Any

from recurrent_attention.training.evaluation import Evaluation


def validation_record(found: Evaluation, epoch: int) -> dict[str, float]:
    """Return what an epoch's line of metrics says of the validation data; refuse NaN."""
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
    """Return an epoch as a line of text."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        f"loss {record['train_loss']:.3f}",
    ]
    for kind in ("train", "val"):
        if f"{kind}_fused" in record:
            values = [f"{100 * record[f'{kind}_{s}']:.1f}" for s in ("global", "local", "fused")]
            parts.append(f"{kind} global {values[0]} local {values[1]} fused {values[2]}")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])
