"""How long `predict` takes where it stops when sure, against all looks at once. See speed.py."""

import random
import statistics
from pathlib import Path

from pages import table
from timing import interleave, median, ratio

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import CUB200

PICTURES = 48
ALL = "all looks"
CONFIDENCES = (0.95, 0.9, 0.8)


def measure(data: Path, run_dir: Path, rounds: int) -> str:
    """Time `predict` on the same real test pictures, one by one and as one list.

    Args:
        data: the pictures, in CUB's layout.
        run_dir: with a trained model of `patch_weighting="anytime"`.
        rounds: that count.

    Returns:
        A table.
    """
    model = TwoStreamClassifier.from_pretrained(run_dir / "model").eval()
    test = CUB200(data, "test")
    chosen = random.Random(0).sample(range(len(test)), PICTURES)
    paths = [test.root / test.names[index] for index in chosen]
    settings: dict[str, float | None] = {ALL: None} | {f"until {c:g}": c for c in CONFIDENCES}
    runs = {
        f"{how}, {name}": lambda one=one, how=how: (
            [model.predict(path, confidence=one) for path in paths]
            if how == "one by one"
            else model.predict(paths, confidence=one)
        )
        for how in ("one by one", "as one list")
        for name, one in settings.items()
    }
    times = interleave(runs, rounds, "looks")
    rows = []
    for name, one in settings.items():
        found = model.predict(paths, confidence=one)
        row = [name, f"{statistics.fmean(prediction.looks for prediction in found):.1f}"]
        for how in ("one by one", "as one list"):
            own, every = f"{how}, {name}", f"{how}, {ALL}"
            seconds, share = median(times, own) / PICTURES, ratio(times, own, every)
            row.append(f"{1000 * seconds:.0f} ({share:.2f})")
        rows.append(row)
    heads = (
        "predict",
        "looks, mean",
        "one by one: ms a picture (share)",
        "as one list: ms (share)",
    )
    return table(heads, rows)
