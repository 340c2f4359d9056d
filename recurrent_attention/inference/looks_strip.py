"""The strip of a model that weighs its patches: which box, how much it counted, what it speaks for.

A column is a look: the patch, its map, its weight, and what it would answer alone. Where the model
answers after each look, a line under the columns shows these answers, each under its look.
"""

from typing import Any

from matplotlib.figure import Figure

from recurrent_attention.inference.gradients import StreamMaps
from recurrent_attention.inference.looks_line import (
    AnswersAfter,
    answers_after,
    draw_answers_after,
)
from recurrent_attention.inference.sheet import INK, LARGE, PALE, Sheet, wrapped
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

MAX_PATCHES = 10  # columns; with more the strip would not fit on a page
ALONE, BOTH = 0.5, 0.62  # inches for the answer of a look, and for that of both streams
LINE = 1.75  # height of the line of answers
LINE_HEADING = 4.4  # inches, at least


class LooksStrip(Strip):
    """The picture beside a column for the whole of it and for each patch.

    Args:
        found: explanation of a batch, with weights of patches.
        index: of the picture, in [0, b).
        image: a `PIL.Image` to show instead, or None.
    """

    def __init__(self, found: StreamMaps, index: int, image: Any) -> None:
        assert found.patch_weights is not None
        super().__init__(found, index, image, MAX_PATCHES)
        self.after: AnswersAfter | None = None
        if found.prefix_logits is not None:
            by_looks = found.prefix_logits[index].detach().float().cpu()
            self.after = answers_after(
                self.global_logits, by_looks, self.target, found.temperatures
            )
        columns_end = HEADLINE + HEADING + 2 * self.cell_height + GAP + BARS + ALONE
        self.end = columns_end + (0.1 if self.after is None else LINE)
        height = self.end - HEADLINE - HEADING - BOTH
        self.picture_width = min(height / aspect_of(self.scene), MAX_PICTURE)
        self.slot = max(self.picture_width, MIN_SLOT)
        self.left = MARGIN + self.slot + GUTTER
        self.columns = [self.left + place * (CELL + GAP) for place in range(self.shown + 1)]
        self.right = self.columns[-1] + CELL
        width = self.right
        if self.after is not None:
            width = max(width, self.left + LINE_HEADING)
        self.sheet = Sheet(width + RIGHT, self.end + 2 * MARGIN)
        self.line_top = columns_end + 0.1

    def draw(self, note: str) -> Figure:
        """Draw all of it, with a note in the upper right corner."""
        self.draw_headline(note)
        self.draw_whole_picture()
        self.draw_patches()
        if self.after is not None:
            names = [self.name(index) for index in self.after.best]
            draw_answers_after(
                self.sheet, self.after, names, left=self.left - GAP / 2, top=self.line_top,
                width=len(self.columns) * (CELL + GAP), room=self.sheet.width - self.left - MARGIN,
                height=LINE - 0.1, target=self.name(self.target),
            )  # fmt: skip
        if self.shown < self.num_patches:
            which = "heaviest" if self.after is None else "first"
            assert self.patch_weights is not None
            left = 100 * float(self.patch_weights[self.shown :].sum())
            note = (
                f"the {which} {self.shown} of {self.num_patches} patches; the others have "
                f"{left:.0f} % of the weight"
            )
            self.sheet.text(self.right, self.end + MARGIN, note, ha="right", color=PALE)
        return self.finish()

    def draw_whole_picture(self) -> None:
        """Show the picture with its boxes, and in the first column what the global stream saw."""
        x, top = MARGIN + self.slot / 2, HEADLINE + HEADING
        self.sheet.text(x, HEADLINE + 0.03, "picture", LARGE, color=PALE)
        self.draw_picture(x - self.picture_width / 2, top, self.picture_width)
        below = top + self.picture_width * aspect_of(self.scene)
        self.answer(x, below, self.logits, "both streams:", self.slot, LARGE, self.num_patches)

        x, aspect = self.columns[0] + CELL / 2, aspect_of(self.scene)
        width = min(CELL, self.cell_height / aspect)
        height = width * aspect
        self.sheet.text(x, HEADLINE + 0.03, "whole", LARGE, color=PALE)
        axes = self.sheet.axes(x - width / 2, top + self.cell_height - height, width, height)
        axes.imshow(self.scene, aspect="auto")
        self.draw_global_map(x - width / 2, top + self.cell_height + GAP, width, height)

    def draw_patches(self) -> None:
        """Show patches side by side, each with its map, its weight and its answer."""
        sheet, top = self.sheet, HEADLINE + HEADING
        middle = top + self.cell_height + GAP
        below = middle + self.cell_height
        under = below + BARS + 0.05
        columns = self.columns[1:]
        for patch, (column, color) in enumerate(zip(columns, self.colors, strict=True)):
            heading: dict[str, Any] = {"color": color, "weight": "bold"}
            sheet.text(column + CELL / 2, HEADLINE + 0.03, f"patch {patch + 1}", LARGE, **heading)
            self.draw_patch(patch, column, top)
            shown = self.draw_map(patch, 0, column, middle)
            self.speaks_for(column, under, int(self.step_logits[patch, 0].argmax()))
        assert self.patch_weights is not None
        weights = self.patch_weights[: self.shown]
        sheet.bars(
            weights.tolist(), columns, below + 0.04, BARS - 0.04,
            column=CELL, colors=self.colors, even=1 / self.num_patches,
            highest=float(weights.max()),
        )  # fmt: skip
        label: dict[str, Any] = {"ha": "right", "va": "bottom", "color": PALE}
        sheet.text(columns[0] - 0.08, below + BARS - 0.03, "weight", **label)
        self.speaks_for(self.columns[0], under, int(self.global_logits.argmax()))
        sheet.scale(shown, self.right + 0.1, middle, SCALE, self.cell_height, self.peak)

    def speaks_for(self, column: float, y: float, best: int) -> None:
        """Write the class that a column speaks for; dark where it is the class explained."""
        color = INK if best == self.target else PALE
        self.sheet.text(column + CELL / 2, y, wrapped(self.name(best), CELL), color=color)
