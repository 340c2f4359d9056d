"""How the cost of a pass grows with each size of the problem: a figure. See speed.py."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from pages import table
from timing import Run, interleave, median

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss
from recurrent_attention._files import whole_file

BACKBONE = "mobilenetv2_100"
USUAL = {"steps": 10, "patches": 1, "classes": 200, "size": 224, "batch": 4}
PANELS: dict[str, tuple[str, tuple[int, ...]]] = {
    "steps": ("looks T at each patch", (1, 5, 10, 20, 40)),
    "patches": ("patches p of a picture", (1, 2, 4, 8)),
    "classes": ("classes k", (10, 200, 1000, 10000)),
    "size": ("side of the image, pixels", (112, 224, 336, 448)),
    "batch": ("pictures B in a batch", (1, 2, 4, 8, 16)),
}
HUES = {"training step": "#b5532c", "inference": "#2c6fb5"}


def cases(steps: int, patches: int, classes: int, size: int, batch: int) -> dict[str, Run]:
    torch.manual_seed(0)
    model = TwoStreamClassifier(BACKBONE, classes, image_size=size, num_steps=steps)
    images = torch.randn(batch, 3, size, size)
    parts = torch.randn(batch, patches, 3, 224, 224)
    targets = torch.zeros(batch, dtype=torch.long)

    def train() -> None:
        TwoStreamLoss()(model.train()(images, parts), targets).backward()

    def infer() -> None:
        with torch.no_grad():
            model.eval()(images, parts)

    return {"training step": train, "inference": infer}


def measure(rounds: int, path: Path) -> list[str]:
    """Time every size by itself, the others as in `USUAL`, draw it into `path`, and list it."""
    found: list[dict[str, Any]] = []
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.4), layout="constrained")
    for axis, (what, (label, sizes)) in zip(axes, PANELS.items(), strict=True):
        for size in sizes:
            times = interleave(cases(**(USUAL | {what: size})), rounds, f"growth, {what} {size}")
            found.append({what: size, **{name: median(times, name) for name in times}})
        for name, hue in HUES.items():
            own = [1000 * row[name] for row in found if what in row]
            axis.plot(sizes, own, "o-", color=hue, label=name, markersize=4)
        axis.axvline(USUAL[what], color="0.85", zorder=0)
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        if what == "classes":
            axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("milliseconds a batch")
    axes[0].legend(frameon=False)
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
    plt.close(figure)
    rows = [
        (label, size, *(f"{1000 * row[name]:.0f}" for name in HUES))
        for what, (label, _) in PANELS.items()
        for row in found
        if (size := row.get(what)) is not None
    ]
    return [table(("what", "its value", *(f"{name} (ms)" for name in HUES)), rows)]
