"""Draw docs/looks.gif: one drawn bird, look by look, and what the model answers after each.

PYTHONPATH=examples python benchmarks/looks_animation.py runs/looks .cache/synthetic-birds-0

The run and the birds are those of looks_figure.py. The bird is the first that is taken for another
by the whole picture alone, and for itself, surely, after three to six looks.
"""

import sys
from pathlib import Path

import torch
from looks_figure import CONFIDENCE, EDGE, in_words, opened
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pages import ROOT
from PIL import Image
from torch import Tensor

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._files import whole_file
from recurrent_attention.data import TwoStreamDataset
from recurrent_attention.inference.looking import probabilities_after
from recurrent_attention.inference.strip import pixels_of_view

CLASSES, LOOKS = 4, range(3, 7)
MILLISECONDS, LAST = 900, 2600
RIGHT, WRONG = "#228833", "#bbbbbb"


def odds_of(model: TwoStreamClassifier, data: TwoStreamDataset, index: int) -> Tensor:
    """Return the probabilities (n + 1 k) after 0, 1, ... n looks."""
    sample = data[index]
    with torch.no_grad():
        output = model(sample.image[None], sample.patches[None])
    assert output.prefix_logits is not None
    logits = torch.cat([output.global_logits, output.prefix_logits[0]])
    return probabilities_after(logits.double(), model.temperatures)


def stops_after(odds: Tensor) -> int:
    """Return after how many looks the model is sure."""
    sure = (odds.max(1).values >= CONFIDENCE).nonzero()[:, 0]
    return int(sure[0]) if len(sure) else len(odds) - 1


def choose(model: TwoStreamClassifier, data: TwoStreamDataset) -> tuple[int, Tensor]:
    for index, label in enumerate(data.pictures.labels):
        odds = odds_of(model, data, index)
        last = stops_after(odds)
        made_clear = odds[last].max() >= CONFIDENCE and odds[0].argmax() != label
        if last in LOOKS and made_clear and odds[last].argmax() == label:
            return index, odds
    raise ValueError("Expected a bird that the looks make clear, but there is none.")


def frame(data: TwoStreamDataset, index: int, odds: Tensor, looks: int) -> Image.Image:
    """Draw the picture with the boxes so far, what the model sees, and what it answers."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, seen, right = figure.subplots(1, 3, width_ratios=(1.2, 1.1, 1))
    sample = data[index]
    view = sample.image if looks == 0 else sample.patches[looks - 1]
    seen.imshow(pixels_of_view(view, data.mean, data.std))
    seen.set(xticks=[], yticks=[])
    seen.spines[:].set(color=EDGE, linewidth=2.5)
    seen.set_title("it sees", fontsize=10, loc="left")
    left.imshow(data.pictures[index][0])
    left.axis("off")
    boxes = data.boxes[data.pictures.names[index]][:looks].tolist()
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        newest = number == looks
        left.add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=EDGE,
                linewidth=2.5 if newest else 0.8,
            )
        )  # fmt: skip
    last = stops_after(odds)
    shown = odds[: last + 1].max(0).values.topk(CLASSES).indices.tolist()
    names, label = data.pictures.class_names, data.pictures.labels[index]
    shares = odds[looks, shown].tolist()
    colors = [RIGHT if one == label else WRONG for one in shown]
    right.barh(range(CLASSES), shares, color=colors)
    right.set_yticks(range(CLASSES), [in_words(names[one]) for one in shown])
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("probability")
    right.axvline(CONFIDENCE, color="black", linewidth=0.8, linestyle=":")
    right.set_xticks([0, 0.5, CONFIDENCE], ["0", "0.5", f"{CONFIDENCE:g}"])
    right.spines[["top", "right"]].set_visible(False)
    said = "the whole picture" if looks == 0 else f"{looks} look{'s' if looks > 1 else ''}"
    sure = ": sure, it stops" if looks == last else ""
    right.set_title(f"after {said}{sure}", fontsize=10, loc="left")
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def main() -> None:
    model, test, boxes = opened(Path(sys.argv[1]), Path(sys.argv[2]))
    data = TwoStreamDataset.for_model(model, test, boxes)
    index, odds = choose(model, data)
    looks = range(stops_after(odds) + 1)
    frames = [frame(data, index, odds, number) for number in looks]
    times = [MILLISECONDS] * (len(frames) - 1) + [LAST]
    with whole_file(ROOT / "docs" / "looks.gif") as beside:
        frames[0].save(
            beside, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0
        )
    print(f"{test.names[index]}: sure after {looks[-1]} looks")


if __name__ == "__main__":
    main()
