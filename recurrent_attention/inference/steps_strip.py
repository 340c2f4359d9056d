"""The strip of a model that looks at a patch several times: a map and a weight for each step."""

from typing import Any

from einops import einsum
from matplotlib.figure import Figure

from recurrent_attention.inference.gradients import StreamMaps
from recurrent_attention.inference.sheet import LARGE, PALE, PATCH_COLORS, Sheet
from recurrent_attention.inference.strip import (
    BARS,
    CELL,
    GAP,
    GUTTER,
    HEADING,
    HEADLINE,
    MARGIN,
    MAX_PICTURE,
    MIN_SLOT,
    RIGHT,
    SCALE,
    Strip,
    aspect_of,
)

MAX_PATCHES = len(PATCH_COLORS)  # rows; with more the strip would not fit on a page
# More steps go on in the next line. Six keep the letters of one patch legible on a printed page;
# of several patches each has a line to itself with the paper's ten steps.
STEPS_PER_LINE, STEPS_PER_LINE_OF_SEVERAL = 6, 10
ANSWER = 0.6  # inches


class StepsStrip(Strip):
    """The picture, the global map, and the steps of each patch in a row.

    Args:
        found: explanation of a batch, without weights of patches.
        index: of the picture, in [0, b).
        image: a `PIL.Image` to show instead, or None.
    """

    def __init__(self, found: StreamMaps, index: int, image: Any) -> None:
        super().__init__(found, index, image, MAX_PATCHES)
        most = STEPS_PER_LINE if self.shown == 1 else STEPS_PER_LINE_OF_SEVERAL
        self.lines_per_patch = -(-self.steps // most)
        self.per_line = -(-self.steps // self.lines_per_patch)
        self.line_height = HEADING + self.cell_height + BARS + ANSWER
        lines = self.shown * self.lines_per_patch
        # On one line the two pictures are side by side; of several, each gets half the height.
        self.stacked = lines > 1
        self.share = lines * self.line_height / 2 if self.stacked else self.line_height
        self.picture_width = (self.share - HEADING - ANSWER) / aspect_of(self.scene)
        self.picture_width = min(self.picture_width, MAX_PICTURE)
        self.slot = max(self.picture_width, MIN_SLOT)
        self.left = MARGIN + self.slot + GUTTER
        if not self.stacked:
            self.left += self.slot + 2 * GAP
        self.columns = [
            self.left + CELL + 2 * GAP + step * (CELL + GAP) for step in range(self.per_line)
        ]
        self.right = self.columns[-1] + CELL
        self.end = HEADLINE + lines * self.line_height
        self.sheet = Sheet(self.right + RIGHT, self.end + MARGIN)

    def draw(self, note: str) -> Figure:
        """Draw all of it, with a note in the upper right corner."""
        self.draw_headline(note)
        self.draw_pictures()
        for patch in range(self.shown):
            self.draw_steps(patch)
        if self.shown < self.num_patches:
            note = f"the first {self.shown} of {self.num_patches} patches"
            self.sheet.text(self.right, self.end, note, ha="right", va="center", color=PALE)
        return self.finish()

    def draw_pictures(self) -> None:
        """Show the picture with its boxes, and the global map over it, each with an answer."""
        height = self.picture_width * aspect_of(self.scene)
        x, y = MARGIN + self.slot / 2, HEADLINE
        left = x - self.picture_width / 2
        self.sheet.text(x, y + 0.03, "picture", LARGE, color=PALE)
        self.draw_picture(left, y + HEADING, self.picture_width)
        under = y + HEADING + height
        self.answer(x, under, self.logits, "both streams:", self.slot, LARGE, self.num_patches)
        if self.stacked:
            y += self.share
        else:
            x, left = (place + self.slot + 2 * GAP for place in (x, left))
        self.sheet.text(x, y + 0.03, "global map", LARGE, color=PALE)
        self.draw_global_map(left, y + HEADING, self.picture_width, height)
        under = y + HEADING + height
        self.answer(x, under, self.global_logits, "global stream:", self.slot, LARGE, 0)

    def draw_steps(self, patch: int) -> None:
        """Show a patch and the maps of its steps, with their weights and answers."""
        sheet, color = self.sheet, self.colors[patch]
        weights, step_logits = self.weights[patch], self.step_logits[patch]
        for line in range(self.lines_per_patch):
            y = HEADLINE + (patch * self.lines_per_patch + line) * self.line_height
            top, below = y + HEADING, y + HEADING + self.cell_height
            if line == 0:
                title = f"patch {patch + 1}" if self.num_patches > 1 else "patch"
                sheet.text(self.left + CELL / 2, y + 0.03, title, LARGE, color=color, weight="bold")
                self.draw_patch(patch, self.left, top)
                together = einsum(weights, step_logits, "t, t k -> k")
                self.answer(self.left + CELL / 2, below + BARS, together, "all steps:")
            label: dict[str, Any] = {"ha": "right", "va": "bottom", "color": PALE}
            sheet.text(self.left + CELL, below + BARS - 0.03, "temporal\nweight", **label)
            first = line * self.per_line
            steps = range(first, min(first + self.per_line, self.steps))
            for step, column in zip(steps, self.columns, strict=False):
                sheet.text(column + CELL / 2, y + 0.03, f"step {step + 1}", LARGE, color=PALE)
                shown = self.draw_map(patch, step, column, top)
                self.answer(column + CELL / 2, below + BARS, step_logits[step])
            sheet.bars(
                weights[list(steps)].tolist(), self.columns, below + 0.04, BARS - 0.04,
                column=CELL, colors=[color], even=1 / self.steps,
                highest=float(self.weights[: self.shown].max()),
            )  # fmt: skip
            if patch == line == 0:
                sheet.scale(shown, self.right + 0.1, top, SCALE, self.cell_height, self.peak)
