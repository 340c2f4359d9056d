"""A figure laid out in inches, and what is put on it: pictures, maps, bars, names."""

import io
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from recurrent_attention._files import check_new_file, whole_file
from recurrent_attention.ops.cell_offset import resample_cells

INK, PALE = "#222222", "#858585"
PATCH_COLORS = ("#4477aa", "#ee7733", "#228833", "#aa3377")  # tell apart, also colour-blind
FOR, AGAINST = "#e8590c", "#1c63c4"  # what speaks for a class, and for another: orange and blue
# Of patches beside these two.
COLORS_BESIDE_CLASSES = ("#228833", "#aa3377", "#222222", "#ccbb44")
SCREEN_DPI = 150  # pixels per inch
HUGE, LARGE, SMALL = 11.0, 8.0, 7.2  # points
SMALL_PER_INCH, HEADLINE_PER_INCH = 17, 9.5  # characters


class Sheet:
    """A figure that is laid out in inches from its top left corner.

    Args:
        width: in inches.
        height: in inches.

    Attributes:
        figure: with an Agg canvas, known to no window and no global state.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.missing: set[str] = set()  # letters that no font here has
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(
        self, x: float, y: float, width: float, height: float, frame: str | None = None
    ) -> Any:
        """Add axes without ticks, framed in a colour or not at all."""
        place = (x / self.width, 1 - (y + height) / self.height)
        axes = self.figure.add_axes((*place, width / self.width, height / self.height))
        axes.set(xticks=[], yticks=[])
        axes.patch.set_visible(False)
        axes.spines[:].set(visible=frame is not None, color=frame, linewidth=1.4)
        return axes

    def text(self, x: float, y: float, text: str, size: float = SMALL, **style: Any) -> None:
        """Write text, hanging from a point."""
        look: dict[str, Any] = {"va": "top", "ha": "center", "color": INK, "linespacing": 1.15}
        font, missing = font_for(text)
        self.missing |= missing
        text = "".join("\u25a1" if letter in missing else letter for letter in text)
        text = text.replace("$", r"\$")  # names are no formulas
        look |= {"fontsize": size} | ({} if font is None else {"font": font})
        self.figure.text(x / self.width, 1 - y / self.height, text, **(look | style))

    def warn_of_missing_letters(self) -> None:
        """Warn once of letters that no font on this system has; they are drawn as boxes."""
        if self.missing:
            first = min(self.missing)
            wide = unicodedata.east_asian_width(first) in "WF"
            package = "fonts-noto-cjk" if wide else "fonts-noto-core"
            warnings.warn(
                f"The figure shows {len(self.missing)} letters as boxes, such as {first!r}: no "
                f"installed font has them. Install one, such as the package {package} of Debian "
                "and Ubuntu, or a Noto font of that script.",
                stacklevel=2,
            )

    def bars(
        self, weights: list[float], lefts: list[float], y: float, height: float, **look: Any
    ) -> Any:
        """Draw weights in [0, 1] as bars, each in a column of its own.

        Args:
            weights: one for each column.
            lefts: where the columns begin, in inches.
            y: top, in inches.
            height: in inches.
            **look: `column` (width of one, in inches), `colors` (one, or one for each bar),
                `highest` (weight of any bar on the sheet), `even` (the weight that all would have
                if they were equal).
        """
        width = lefts[len(weights) - 1] + look["column"] - lefts[0]
        axes = self.axes(lefts[0], y, width, height)
        axes.spines["bottom"].set(visible=True, color="#bbbbbb", linewidth=0.8)
        places = [left - lefts[0] + look["column"] / 2 for left in lefts[: len(weights)]]
        axes.bar(places, weights, width=look["column"] / 2, color=look["colors"], alpha=0.85)
        axes.axhline(look["even"], color=PALE, linewidth=0.6, linestyle=(0, (3, 3)), zorder=0)
        ceiling = 1.45 * look["highest"]  # leaves room for the numbers
        for place, weight in zip(places, weights, strict=True):
            axes.annotate(
                f"{100 * weight:.0f} %", (place, weight), (0, 1.5), textcoords="offset points",
                ha="center", va="bottom", fontsize=SMALL, color=INK,
                bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none"},
            )  # fmt: skip
        axes.set(xlim=(0, width), ylim=(0, ceiling))
        even = y + height * (1 - look["even"] / ceiling)
        label = f"1/{round(1 / look['even'])}"
        self.text(lefts[0] + width + 0.05, even, label, ha="left", va="center", color=PALE)

    def scale(
        self, shown: Any, x: float, y: float, width: float, height: float, peak: float
    ) -> None:
        """Draw the colour scale of what `overlay` returned, up to `peak`, if signed from -peak."""
        axes = self.axes(x, y, width, height)
        bar = self.figure.colorbar(shown, cax=axes)
        bar.outline.set_visible(False)
        axes.patch.set(visible=True, facecolor="#cccccc")
        ticks = [0.0] if peak <= 0 else [0.0, peak] if shown.norm.vmin == 0 else [-peak, 0.0, peak]
        bar.set_ticks(ticks)
        marks = [f"{tick:.0f}" if abs(tick) >= 10 else f"{tick:.2g}" for tick in ticks]
        axes.set_yticklabels(marks, fontsize=SMALL, color=INK)
        axes.tick_params(length=2, pad=1.5, color=PALE)
        middle = y + height / (2 * max(len(ticks) - 1, 1))  # between the two uppermost numbers
        self.text(x + width + 0.14, middle, "logits", va="center", color=PALE, rotation=90)


def overlay(
    axes: Any,
    pixels: Any,
    cells: Tensor,
    peak: float,
    *,
    cell_offset: float = 0.0,
    signed: bool = False,
) -> Any:
    """Lay a map over a picture that has lost its colours.

    Args:
        axes: to draw on.
        pixels: (h w 3) in [0, 1].
        cells: (h w) the map, of any size.
        peak: value of the strongest colour, at least 0.
        cell_offset: how far off the middle of its tile a cell looks, in tiles.
        signed: cells below 0 are shown too, in another colour.

    Returns:
        What matplotlib makes a colour scale of.
    """
    height, width = pixels.shape[:2]
    grey = np.asarray(pixels) @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    everywhere = {"extent": (0, width, height, 0), "aspect": "auto"}
    axes.imshow(0.25 + 0.75 * grey, cmap="gray", vmin=0, vmax=1, **everywhere)
    (smooth,) = resample_cells(cells[None], (height, width), cell_offset)
    peak = peak if peak > 0 else 1.0  # where nothing speaks for the class, all maps are 0
    strength = np.linspace(-1 if signed else 0, 1, 256)
    if signed:
        colors = np.array([to_rgba(FOR if value > 0 else AGAINST) for value in strength])
    else:
        colors = colormaps["plasma"](np.linspace(0.15, 0.95, 256))
    colors[:, 3] = abs(strength) ** (0.7 if signed else 0.5) * 0.9  # clear where nothing is
    return axes.imshow(
        smooth.numpy(),
        cmap=ListedColormap(colors),
        vmin=-peak if signed else 0,
        vmax=peak,
        **everywhere,
    )


def outline(axes: Any, boxes: list[list[float]], colors: Sequence[str], numbered: bool) -> None:
    """Draw boxes xyxy, the first in colours; those that have none are white and thin.

    Args:
        axes: to draw on.
        boxes: n.
        colors: at most n.
        numbered: write the numbers of those that have a colour, from 1.
    """
    for number in reversed(range(len(boxes))):
        x0, y0, x1, y1 = boxes[number]
        shown = number < len(colors)
        color = colors[number] if shown else "white"
        lines = (1.6, 0.8) if color == PALE else (3.0, 1.6)  # those without a colour stand back
        for edge, line in zip(("white", color), lines, strict=True) if shown else ((color, 0.6),):
            axes.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=line)
            )
        if shown and numbered:
            number_box(axes, number, (x0, y0, x1, y1), color, SMALL)


def number_box(axes: Any, number: int, box: Sequence[float], color: str, fontsize: float) -> None:
    """Write a box's number, from 1, into a corner; each into another one: boxes often overlap."""
    (x0, y0, x1, y1), right, low = box, number % 4 in (1, 2), number % 4 >= 2
    axes.text(
        x1 if right else x0, y1 if low else y0, f"{number + 1}", fontsize=fontsize, color="white",
        weight="bold", clip_on=True, ha="right" if right else "left", va="bottom" if low else "top",
        bbox={"boxstyle": "square,pad=0.2", "fc": color, "ec": "none"},
    )  # fmt: skip


def font_for(text: str) -> tuple[Path | None, frozenset[str]]:
    """Return the font of this system that has the most of a text's letters.

    Args:
        text: to be drawn.

    Returns:
        The file of the font, None for matplotlib's own; and the letters that it lacks.
    """
    own = Path(font_manager.findfont(font_manager.FontProperties()))
    lacking = _lacking(own, text)
    best: Path | None = None
    if lacking:
        for file in _system_fonts():
            found = _lacking(file, text)
            if len(found) < len(lacking):
                best, lacking = file, found
            if not lacking:
                break
    return best, lacking


@cache
def _system_fonts() -> tuple[Path, ...]:
    """List the fonts of this system; regular ones first, and all of a family beside each other."""
    files = map(Path, font_manager.findSystemFonts())
    return tuple(sorted(files, key=lambda file: ("Regular" not in file.stem, file.name)))


@cache
def _letters_of(font: Path) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(font).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font that FreeType cannot read
        return frozenset()


def _lacking(font: Path, text: str) -> frozenset[str]:
    known = _letters_of(font)
    return frozenset(letter for letter in text if not letter.isspace() and ord(letter) not in known)


def wrapped(text: str, width: float, *, lines: int = 2, per_inch: float = SMALL_PER_INCH) -> str:
    """Break a text into at most `lines` of `width` inches; what does not fit is left out."""
    twice = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    characters = max(int(per_inch * width * len(text) / max(len(text) + twice, 1)), 4)
    broken = textwrap.wrap(text, characters, max_lines=lines, placeholder=" …")
    if broken == ["…"]:  # of a word that is longer than the only line, its beginning
        return text[: characters - 1] + "…"
    return "\n".join(broken)


def pixels_of_figure(figure: Figure, dpi: float = SCREEN_DPI) -> Image.Image:
    """Return what a figure with an Agg canvas looks like.

    Args:
        figure: to be drawn.
        dpi: pixels per inch.

    Returns:
        An RGB picture.
    """
    figure.set_dpi(dpi)
    canvas: Any = figure.canvas
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Write a figure to a file, whole or not at all.

    Args:
        figure: to be written.
        path: of the file; its suffix names the format.
        dpi: pixels per inch.

    Raises:
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if `path` is a folder.
        ValueError: if the suffix names no format.
    """
    known = figure.canvas.get_supported_filetypes()
    kind = path.suffix[1:].lower()
    check_new_file(path)
    if kind not in known:
        raise ValueError(
            f"Expected `path` to end in one of .{', .'.join(sorted(known))}, but got {path.name!r}."
        )
    drawn = io.BytesIO()  # some of matplotlib's writers lose what the system said of a full disk
    figure.savefig(drawn, dpi=dpi, format=kind)
    with whole_file(path) as beside:
        beside.write_bytes(drawn.getvalue())
