"""The picture of an explanation: one strip that is understood at a glance; needs matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from recurrent_attention.images.reading import open_picture
from recurrent_attention.inference.gradients import StreamMaps
from recurrent_attention.inference.looks_line import (
    AnswersAfter,
    answers_after,
    draw_answers_after,
)
from recurrent_attention.inference.sheet import (
    HEADLINE_PER_INCH,
    HUGE,
    LARGE,
    PALE,
    PATCH_COLORS,
    SMALL_PER_INCH,
    Sheet,
    outline,
    overlay,
    readable,
    wrapped,
)

MAX_PATCHES = len(PATCH_COLORS)  # rows; with more the strip would not fit on a page
# More steps go on in the next line. Six keep the letters of one patch legible on a printed page;
# of several patches each has a line to itself with the paper's ten steps.
STEPS_PER_LINE, STEPS_PER_LINE_OF_SEVERAL = 6, 10

# Inches.
MARGIN, GAP, GUTTER = 0.15, 0.07, 0.32
CELL = 1.0  # width of a patch and of a map
HEADLINE, HEADING, BARS, ANSWER = 0.36, 0.2, 0.5, 0.6
LOOKS = 1.7  # height of the line of answers
SCALE, RIGHT = 0.09, 0.68  # width of the colour scale, and of all that stands right of the maps
MAX_PICTURE = 3.2  # width; wider, it would take the page from the maps
MIN_SLOT = 1.45  # for a tall picture: what is written above and below it is wider


class _Strip:
    """One image's explanation, on the CPU, and where its parts go."""

    def __init__(self, found: StreamMaps, index: int, image: Any) -> None:
        def own(tensor: Tensor) -> Tensor:
            return tensor[index].detach().float().cpu()

        self.found, self.cell_offsets = found, found.cell_offsets()
        self.target = int(found.target[index])
        self.logits, self.global_logits = own(found.logits), own(found.global_logits)
        self.global_map = own(found.global_map)
        self.patch_weights = None if found.patch_weights is None else own(found.patch_weights)
        order = torch.arange(found.step_weights.shape[1])
        self.after: AnswersAfter | None = None
        if found.prefix_logits is not None:
            by_looks = own(found.prefix_logits)
            self.after = answers_after(
                self.global_logits, by_looks, self.target, found.temperatures
            )
        elif self.patch_weights is not None:  # heaviest first
            order = self.patch_weights.argsort(descending=True, stable=True)
            self.patch_weights = self.patch_weights[order]
        self.step_logits, self.maps = own(found.step_logits)[order], own(found.step_maps)[order]
        self.weights = own(found.step_weights)[order]
        self.num_patches, self.steps = self.weights.shape
        self.rows = min(self.num_patches, MAX_PATCHES)
        look = found.mean, found.std
        self.patches = [
            pixels_of_view(one, *look) for one in own(found.patches)[order[: self.rows]]
        ]
        self.scene = pixels_of_view(own(found.images), *look)
        self.boxes: list[list[float]] = []
        image = found.pictures[index] if image is None else image
        if image is not None:
            self.scene = np.asarray(open_picture(image)) / 255
        if found.boxes is not None:
            height, width = found.images.shape[2:]
            scale = torch.tensor([self.scene.shape[1] / width, self.scene.shape[0] / height] * 2)
            self.boxes = (own(found.boxes)[order] * scale).tolist()

        most = STEPS_PER_LINE if self.rows == 1 else STEPS_PER_LINE_OF_SEVERAL
        self.lines_per_patch = -(-self.steps // most)
        self.per_line = -(-self.steps // self.lines_per_patch)
        self.cell_height = CELL * _aspect(self.patches[0])
        self.line_height = HEADING + self.cell_height + BARS + ANSWER
        lines = self.rows * self.lines_per_patch
        if self.patch_weights is not None:  # one look at each patch: they stand in one line
            lines, self.per_line = 1, self.rows
            self.line_height += self.cell_height + GAP
        # On one line the two pictures stand side by side; of several, each gets half the height.
        self.stacked = lines > 1
        self.share = lines * self.line_height / 2 if self.stacked else self.line_height
        self.picture_width = (self.share - HEADING - ANSWER) / _aspect(self.scene)
        self.picture_width = min(self.picture_width, MAX_PICTURE)
        self.slot = max(self.picture_width, MIN_SLOT)
        self.left = MARGIN + self.slot + GUTTER
        if not self.stacked:
            self.left += self.slot + 2 * GAP
        beside = CELL if self.patch_weights is None else MARGIN  # of a line's first map
        self.columns = [
            self.left + beside + 2 * GAP + step * (CELL + GAP) for step in range(self.per_line)
        ]
        self.right = self.columns[-1] + CELL
        self.lines_end = HEADLINE + lines * self.line_height
        below = 0 if self.after is None else LOOKS
        self.sheet = Sheet(self.right + RIGHT, self.lines_end + below + MARGIN)

    def draw(self, note: str) -> Figure:
        headline = f"What speaks for {self.name(self.target)}"
        width = self.sheet.width - 2 * MARGIN
        if note:
            side = self.sheet.width - MARGIN
            self.sheet.text(side, 0.14, note, ha="right", color=PALE)
            width -= len(note) / SMALL_PER_INCH + GUTTER
        headline = wrapped(headline, width, lines=1, per_inch=HEADLINE_PER_INCH)
        self.sheet.text(MARGIN, 0.1, headline, HUGE, ha="left", weight="bold")
        self.draw_pictures()
        if self.patch_weights is not None:
            self.draw_weighted_patches(self.patch_weights)
        else:
            for patch in range(self.rows):
                self.draw_patch(patch)
        if self.after is not None:
            names = [self.name(index) for index in self.after.best]
            draw_answers_after(
                self.sheet, self.after, names, left=MARGIN, top=self.lines_end + 0.1,
                width=self.right - MARGIN, height=LOOKS - 0.1, target=self.name(self.target),
            )  # fmt: skip
        if self.rows < self.num_patches:
            below = self.lines_end
            weighted = self.patch_weights is not None and self.after is None
            which = "heaviest" if weighted else "first"
            note = f"the {which} {self.rows} of {self.num_patches} patches"
            self.sheet.text(self.right, below, note, ha="right", va="center", color=PALE)
        self.sheet.warn_of_missing_letters()
        return self.sheet.figure

    def draw_pictures(self) -> None:
        """Show the picture with its boxes, and the global map over it, each with an answer."""
        height = self.picture_width * _aspect(self.scene)
        x, y = MARGIN + self.slot / 2, HEADLINE
        for heading, stream, logits in (
            ("picture", "both streams", self.logits),
            ("global map, own scale", "global stream", self.global_logits),
        ):
            self.sheet.text(x, y + 0.03, heading, LARGE, color=PALE)
            axes = self.sheet.axes(
                x - self.picture_width / 2, y + HEADING, self.picture_width, height
            )
            if logits is self.logits:
                rows, columns = self.scene.shape[:2]
                axes.imshow(self.scene, aspect="auto", extent=(0, columns, rows, 0))
                outline(axes, self.boxes, numbered=self.num_patches > 1)
                axes.set(xlim=(0, columns), ylim=(rows, 0))
            else:
                overlay(
                    axes, self.scene, self.global_map, float(self.global_map.max()),
                    cell_offset=self.cell_offsets[0],
                )  # fmt: skip
            self.answer(x, y + HEADING + height, logits, f"{stream}:", self.slot, LARGE)
            x, y = (x, y + self.share) if self.stacked else (x + self.slot + 2 * GAP, y)

    def draw_patch(self, patch: int) -> None:
        """Show a patch and the maps of its steps, with their weights and answers."""
        sheet, color = self.sheet, PATCH_COLORS[patch]
        weights, step_logits = self.weights[patch], self.step_logits[patch]
        peak = float(self.maps[: self.rows].max())
        for line in range(self.lines_per_patch):
            y = HEADLINE + (patch * self.lines_per_patch + line) * self.line_height
            top, below = y + HEADING, y + HEADING + self.cell_height
            if line == 0:
                title = f"patch {patch + 1}" if self.num_patches > 1 else "patch"
                sheet.text(self.left + CELL / 2, y + 0.03, title, LARGE, color=color, weight="bold")
                axes = sheet.axes(self.left, top, CELL, self.cell_height, color)
                axes.imshow(self.patches[patch], aspect="auto")
                together = einsum(weights, step_logits, "t, t k -> k")
                self.answer(self.left + CELL / 2, below + BARS, together, "all steps:")
            label: dict[str, Any] = {"ha": "right", "va": "bottom", "color": PALE}
            sheet.text(self.left + CELL, below + BARS - 0.03, "temporal\nweight", **label)
            first = line * self.per_line
            steps = range(first, min(first + self.per_line, self.steps))
            for step, column in zip(steps, self.columns, strict=False):
                sheet.text(column + CELL / 2, y + 0.03, f"step {step + 1}", LARGE, color=PALE)
                axes = sheet.axes(column, top, CELL, self.cell_height)
                shown = overlay(
                    axes, self.patches[patch], self.maps[patch, step], peak,
                    cell_offset=self.cell_offsets[1],
                )  # fmt: skip
                self.answer(column + CELL / 2, below + BARS, step_logits[step])
            sheet.bars(
                weights[list(steps)].tolist(), self.columns, below + 0.04, BARS - 0.04,
                column=CELL, color=color, even=1 / self.steps,
                highest=float(self.weights[: self.rows].max()),
            )  # fmt: skip
            if patch == line == 0:
                sheet.scale(shown, self.right + 0.1, top, SCALE, self.cell_height, peak)

    def draw_weighted_patches(self, weights: Tensor) -> None:
        """Show patches side by side, each with its map, its weight and its answer."""
        sheet, top = self.sheet, HEADLINE + HEADING
        middle, peak = top + self.cell_height + GAP, float(self.maps[: self.rows].max())
        below = middle + self.cell_height
        for patch, (column, color) in enumerate(zip(self.columns, PATCH_COLORS, strict=False)):
            heading = {"color": color, "weight": "bold"}
            sheet.text(column + CELL / 2, HEADLINE + 0.03, f"patch {patch + 1}", LARGE, **heading)
            axes = sheet.axes(column, top, CELL, self.cell_height, color)
            axes.imshow(self.patches[patch], aspect="auto")
            axes = sheet.axes(column, middle, CELL, self.cell_height)
            shown = overlay(
                axes, self.patches[patch], self.maps[patch, 0], peak,
                cell_offset=self.cell_offsets[1],
            )  # fmt: skip
            self.answer(column + CELL / 2, below + BARS, self.step_logits[patch, 0])
        sheet.bars(
            weights[: self.rows].tolist(), self.columns, below + 0.04, BARS - 0.04, column=CELL,
            color=PALE, even=1 / self.num_patches, highest=float(weights[: self.rows].max()),
        )  # fmt: skip
        label: dict[str, Any] = {"ha": "right", "va": "bottom", "color": PALE}
        sheet.text(self.columns[0] - 0.08, below + BARS - 0.03, "patch\nweight", **label)
        sheet.scale(shown, self.right + 0.1, middle, SCALE, self.cell_height, peak)

    def answer(
        self, x: float, y: float, logits: Tensor, who: str = "", width: float = CELL, *size: float
    ) -> None:
        """Write what logits (k) answer; dark where it is the class explained, else pale."""
        probabilities = logits.softmax(0)
        best = int(probabilities.argmax())
        lines = [who, wrapped(self.name(best), width), f"{100 * float(probabilities[best]):.0f} %"]
        style: dict[str, Any] = {} if best == self.target else {"color": PALE}
        self.sheet.text(x, y + 0.05, "\n".join(filter(None, lines)), *size, **style)

    def name(self, index: int) -> str:
        names = self.found.class_names
        return f"class {index}" if names is None else readable(names[index])


def draw_explanation(
    explanation: StreamMaps, index: int, image: Any = None, note: str = ""
) -> Figure:
    """Draw one image's explanation; see `Explanation.figure`.

    Args:
        explanation: of a batch.
        index: which image of it, in [0, b).
        image: a `PIL.Image` of the same scene to show instead, or None.
        note: to write in the upper right corner.

    Returns:
        A figure with an Agg canvas.

    Raises:
        TypeError: if `image` is no `PIL.Image`.
    """
    if image is not None and not isinstance(image, Image.Image):
        raise TypeError(f"Expected `image` to be a PIL.Image, but got {type(image).__name__}.")
    return _Strip(explanation, index, image).draw(note)


def pixels_of_view(normalised: Tensor, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Undo the normalisation of a view, to show it.

    One channel is shown as gray, four as colours over white, others as their mean, stretched from
    black to white.

    Args:
        normalised: (c h w), on the CPU.
        mean: per channel, with which it was normalised.
        std: per channel.

    Returns:
        An array (h w 3) in [0, 1].
    """
    if len(normalised) == len(mean) and len(normalised) in (1, 3, 4):
        means, stds = (rearrange(torch.tensor(values), "c -> c 1 1") for values in (mean, std))
        pixels = (normalised * stds + means).clamp(0, 1)
        if len(pixels) == 4:
            pixels = pixels[:3] * pixels[3:] + 1 - pixels[3:]
    else:
        pixels = normalised.mean(0, keepdim=True)
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
    pixels = pixels.expand(3, -1, -1).clamp(0, 1)
    return rearrange(pixels, "c h w -> h w c").numpy()


def _aspect(pixels: Any) -> float:
    """Give height over width, within what can be shown side by side."""
    return float(np.clip(pixels.shape[0] / pixels.shape[1], 0.5, 2))
