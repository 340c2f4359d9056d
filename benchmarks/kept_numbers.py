"""Single numbers of the kept answers in docs/lab/answers, as `claims.py` compares them."""

import statistics
from pathlib import Path

from kept_answers import rows_than, tables_in

from recurrent_attention.training.ablation_table import Row, Stopped

KEPT = Path(__file__).parents[1] / "docs" / "lab" / "answers"


def kept_rows(backbone: str, training: str = "fine-tuned") -> list[Row]:
    """Return the rows of the tables of fine-tuned or frozen runs, from their kept answers."""
    file = KEPT / f"{training}-{backbone}.json"
    return [row for rows in tables_in(file).values() for row in rows]


def of_kept(backbone: str, name: str) -> float:
    """Return the mean top-1 of a variant in %; "control" is one network trained alone."""
    of_stream = "two-networks" if name == "control" else name
    row = next(row for row in kept_rows(backbone) if row.name == of_stream)
    return statistics.fmean(row.global_top1 if name == "control" else row.fused_top1)


def frozen_gain(name: str) -> float:
    """Return how much a variant gains over the whole picture on frozen EfficientNet-Lite0."""
    alone, its = (
        next(row for row in kept_rows("lite0", "frozen") if row.name == one)
        for one in ("global", name)
    )
    return statistics.fmean(its.fused_top1) - statistics.fmean(alone.fused_top1)


def lead_over(backbone: str, control: str, training: str = "fine-tuned") -> float:
    """Compare ten looks with a control, in points."""
    leads = [row.lead for row in kept_rows(backbone, training) if row.name == control]
    (lead,) = (lead for lead in leads if lead is not None)
    return lead.mean


def compared(other: str, name: str, backbone: str = "mobilenetv2") -> tuple[float, float]:
    """Return the top-1 of a control that has a file of its own, and ten looks' lead over it."""
    file = KEPT / f"fine-tuned-{backbone}-{other}.json"
    rows = rows_than(KEPT / f"fine-tuned-{backbone}.json", file)
    row = next(row for row in rows if row.name == name)
    assert row.lead is not None
    return statistics.fmean(row.fused_top1), row.lead.mean


def stopped_at(confidence: float) -> Stopped:
    """Return what looks that stop come to on MobileNetV2."""
    row = next(row for row in kept_rows("mobilenetv2") if row.name == "anytime")
    return next(one for one in row.stopped if one.confidence == confidence)
