"""Draw docs/looks.jpg: drawn birds that were clear after one look, and some that took all ten.

python examples/cub_reproduce.py --output-stride 8 --epochs 20 --patch-weighting anytime \
    --run-dir runs/looks
PYTHONPATH=examples python benchmarks/looks_figure.py runs/looks .cache/synthetic-birds-0
"""

import sys
from pathlib import Path

from drawn_birds import SyntheticBirds
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pages import ROOT
from torch import Tensor

from recurrent_attention import Prediction, TwoStreamClassifier
from recurrent_attention.data import Pictures, find_patch_files, read_patch_file

CONFIDENCE, COLUMNS = 0.9, 5
EDGE = "#ffcc33"
NUMBERED = 3  # the first boxes


def opened(run: Path, data: Path) -> tuple[TwoStreamClassifier, Pictures, dict[str, Tensor]]:
    """Return the model of a run, the test birds and their boxes."""
    model = TwoStreamClassifier.from_pretrained(run / "model").eval()
    test = SyntheticBirds(data, "test")
    boxes = read_patch_file(find_patch_files(test.root.parent / "patches")[1], test)
    return model, test, boxes


def looked_at(run: Path, data: Path) -> tuple[Pictures, list[Prediction]]:
    """Let the model of a run look at all test birds until it is sure."""
    model, test, boxes = opened(run, data)
    paths = [test.root / name for name in test.names]
    shown = [boxes[name][: model.num_patches] for name in test.names]
    return test, model.predict(paths, boxes=shown, confidence=CONFIDENCE)


def chosen(test: Pictures, found: list[Prediction], looks: int) -> list[int]:
    """Take the first birds of so many looks, each of another class as long as there is one."""
    those = [index for index, prediction in enumerate(found) if prediction.looks == looks]
    seen: set[int] = set()
    first = []
    for index in those:
        if test.labels[index] not in seen:
            seen.add(test.labels[index])
            first.append(index)
    return (first + [index for index in those if index not in first])[:COLUMNS]


def in_words(name: str) -> str:
    return name.partition(".")[2].replace("_Finch", "").replace("_", " ")


def draw(test: Pictures, found: list[Prediction], file: Path) -> None:
    """Draw two rows: birds of one look, and birds of all looks."""
    most = max(prediction.looks for prediction in found)
    rows = [chosen(test, found, looks) for looks in (1, most)]
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, COLUMNS, squeeze=False)
    for row, indices in zip(axes, rows, strict=True):
        for place in row:
            place.axis("off")
            place.set_anchor("N")
        for place, index in zip(row, indices, strict=False):
            prediction = found[index]
            place.imshow(test[index][0])
            for number, box in enumerate(prediction.boxes or (), 1):
                x0, y0, x1, y1 = box
                place.add_patch(
                    Rectangle(
                        (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=EDGE,
                        linewidth=1.5 if number == 1 else 0.6,
                    )
                )  # fmt: skip
                if number > NUMBERED:
                    continue
                text = place.text(
                    x0 + 2, y0 + 2, str(number), color=EDGE, fontsize=7, va="top", ha="left"
                )
                text.set_path_effects([patheffects.withStroke(linewidth=1.5, foreground="black")])
            truth = in_words(test.class_names[test.labels[index]])
            steps = [
                f"{n}: {in_words(name)} {100 * share:.0f} %"
                for n, (name, share) in enumerate(prediction.after)
                if n in (0, 1, 2, most)
            ]
            place.set_title("\n".join([f"a {truth} finch", *steps]), fontsize=7, loc="left")
    figure.savefig(file, dpi=120, pil_kwargs={"quality": 88})


def main() -> None:
    run, data = Path(sys.argv[1]), Path(sys.argv[2])
    test, found = looked_at(run, data)
    counts = [sum(p.looks == n for p in found) for n in range(max(p.looks for p in found) + 1)]
    print("birds by looks:", dict(enumerate(counts)))
    draw(test, found, ROOT / "docs" / "looks.jpg")


if __name__ == "__main__":
    main()
