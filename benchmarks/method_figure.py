"""Draw docs/method.svg, the figure of the method.

PYTHONPATH=examples python benchmarks/method_figure.py [OUT]
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from drawn_birds import SyntheticBirds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

OUT = Path(__file__).parents[1] / "docs" / "method.svg"
INK, PALE, GLOBAL, LOCAL = "#222222", "#777777", "#4477aa", "#d0631c"
WIDTH, HEIGHT = 10.6, 4.35  # inches
TOP, LOW = 3.3, 1.05  # middles of the two streams
BIRD, CROP_SIDE = 3, 0.3  # share of the picture
ALPHA = (0.16, 0.22, 0.26, 0.2, 0.16)  # made up, as are the maps


class Sheet:
    """A page measured in inches from its lower left corner."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.page = self.figure.add_axes((0, 0, 1, 1))
        self.page.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.page.axis("off")

    def text(self, x: float, y: float, text: str, *, size: float = 9, color: str = INK) -> None:
        self.page.text(x, y, text, fontsize=size, color=color, ha="center", va="center")

    def arrow(self, start: tuple[float, float], end: tuple[float, float], **look: object) -> None:
        look = {"color": PALE, "linewidth": 1.1, "arrowstyle": "-|>", "mutation_scale": 9} | look
        self.page.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **look))

    def block(
        self, x: float, y: float, width: float, height: float, label: str, color: str
    ) -> None:
        box = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height,
            boxstyle="round,pad=0,rounding_size=0.06", facecolor=color + "1a", edgecolor=color,
        )  # fmt: skip
        self.page.add_patch(box)
        self.text(x, y, label)

    def picture(self, x: float, y: float, side: float, pixels: object, color: str) -> None:
        place = ((x - side / 2) / WIDTH, (y - side / 2) / HEIGHT, side / WIDTH, side / HEIGHT)
        axes = self.figure.add_axes(place)
        axes.imshow(pixels, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=color, linewidth=1.4)

    def map(self, x: float, y: float, side: float, peak: tuple[float, float], color: str) -> None:
        cells = 7
        rows, columns = np.mgrid[:cells, :cells]
        heat = np.exp(-((columns - peak[0]) ** 2 + (rows - peak[1]) ** 2) / 5)
        step = side / cells
        for row, column in np.ndindex(cells, cells):
            corner = x - side / 2 + column * step, y + side / 2 - (row + 1) * step
            self.page.add_patch(
                Rectangle(
                    corner, step, step, facecolor=color, alpha=0.08 + 0.8 * heat[row, column],
                    edgecolor="white", linewidth=0.5,
                )
            )  # fmt: skip


def draw(picture: object, crop: object, box: list[float]) -> Figure:
    sheet = Sheet()
    text, arrow = sheet.text, sheet.arrow

    # The global stream.
    sheet.picture(0.95, TOP, 1.5, picture, GLOBAL)
    text(0.95, TOP + 0.9, "image, 448 x 448", color=PALE)
    x0, y0, x1, y1 = box
    left, bottom = 0.2 + 1.5 * x0, TOP + 0.75 - 1.5 * y1
    overlay = sheet.figure.add_axes((0, 0, 1, 1))
    overlay.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    overlay.axis("off")
    overlay.add_patch(
        FancyArrowPatch(
            (left + 0.75 * (x1 - x0), bottom), (0.95, LOW + 0.62), shrinkA=0, shrinkB=0,
            color=LOCAL, linewidth=1.4, arrowstyle="-|>", mutation_scale=9,
        )
    )  # fmt: skip
    overlay.add_patch(
        Rectangle(
            (left, bottom), 1.5 * (x1 - x0), 1.5 * (y1 - y0), fill=False, edgecolor=LOCAL,
            linewidth=1.8,
        )
    )  # fmt: skip
    sheet.block(2.55, TOP, 0.95, 0.8, "backbone", GLOBAL)
    sheet.map(3.85, TOP, 0.85, (3, 2), GLOBAL)
    text(3.85, TOP + 0.6, "map", color=PALE)
    sheet.block(5.1, TOP, 0.75, 0.5, "mean", GLOBAL)
    sheet.block(8.35, TOP, 0.75, 0.5, "Linear", GLOBAL)
    for start, end in ((1.74, 2.05), (3.06, 3.38), (4.32, 4.7), (5.5, 7.95)):
        arrow((start, TOP), (end, TOP))
    text(9.25, TOP + 0.25, "global logits", color=GLOBAL)

    # Where to look.
    arrow(
        (3.85, TOP - 0.46), (1.75, TOP - 0.72), linestyle=(0, (3, 2)),
        connectionstyle="angle3,angleA=90,angleB=0",
    )  # fmt: skip
    text(3.15, TOP - 0.86, "saliency, windows: boxes", color=PALE)

    # The local stream.
    sheet.picture(0.95, LOW, 1.15, crop, LOCAL)
    text(0.95, LOW - 0.76, "patch, 224 x 224", color=PALE)
    sheet.block(2.55, LOW, 0.95, 0.8, "backbone,\nown weights", LOCAL)
    sheet.map(3.85, LOW, 0.85, (2, 4), LOCAL)
    sheet.block(5.1, LOW, 0.75, 0.5, "mean", LOCAL)
    text(5.72, LOW + 0.17, "x", color=LOCAL)
    for start, end in ((1.57, 2.05), (3.06, 3.38), (4.32, 4.7), (5.5, 5.84)):
        arrow((start, LOW), (end, LOW))
    firsts = [6.12 + 0.36 * step for step in range(len(ALPHA))]
    labels = ["1", "2", "3", "…", "T"]
    for x, weight, label in zip(firsts, ALPHA, labels, strict=True):
        sheet.block(x, LOW, 0.27, 0.5, f"$\\phi_{{{label}}}$" if label != "…" else "…", LOCAL)
        height = 1.6 * weight
        sheet.page.add_patch(
            Rectangle((x - 0.09, LOW + 0.47), 0.18, height, facecolor=LOCAL, alpha=0.55)
        )
        if x != firsts[-1]:
            arrow((x + 0.14, LOW), (x + 0.23, LOW), mutation_scale=5)
    text(np.mean(firsts), LOW - 0.42, "LSTM, the same x at each step", color=PALE)
    text(np.mean(firsts), LOW + 1.06, "temporal attention $\\alpha$", color=PALE)
    sheet.block(8.35, LOW, 0.75, 0.5, "Linear", LOCAL)
    arrow((firsts[-1] + 0.16, LOW), (7.95, LOW))
    text(7.83, LOW + 0.16, "A")
    text(9.25, LOW - 0.25, "local logits", color=LOCAL)

    # Both.
    middle = (TOP + LOW) / 2
    arrow((9.5, TOP), (9.5, middle + 0.2))
    arrow((9.5, LOW), (9.5, middle - 0.2))
    for y in (TOP, LOW):
        sheet.page.plot([8.75, 9.5], [y, y], color=PALE, linewidth=1.1)
    sheet.block(9.5, middle, 0.34, 0.34, "+", INK)
    arrow((9.7, middle), (10.0, middle))
    text(10.27, middle, "logits")
    return sheet.figure


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        birds = SyntheticBirds(folder + "/birds", train_per_class=1, test_per_class=1)
        picture, _ = birds[BIRD]
        x, y = birds.parts[birds.names[BIRD]]["crown"]
    width, height = picture.size
    x, y = x / width, y / height + 0.05  # a little more of the breast than of the sky
    shares = [x - CROP_SIDE / 2, y - CROP_SIDE / 2, x + CROP_SIDE / 2, y + CROP_SIDE / 2]
    box = [share * side for share, side in zip(shares, (width, height) * 2, strict=True)]
    crop = picture.resize((160, 160), box=box)
    matplotlib.rcParams["svg.hashsalt"] = "method"  # the same file from the same drawing
    figure = draw(picture.resize((192, 192)), crop, shares)
    kind = out.suffix[1:]
    figure.savefig(out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
