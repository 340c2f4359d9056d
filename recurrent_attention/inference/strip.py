"""What the strips of an explanation share: one picture, its numbers, and where they go."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from recurrent_attention.images.reading import open_picture
from recurrent_attention.inference.gradients import StreamMaps
from recurrent_attention.inference.looking import probabilities_after
from recurrent_attention.inference.sheet import (
    COLORS_BESIDE_CLASSES,
    HEADLINE_PER_INCH,
    HUGE,
    PALE,
    PATCH_COLORS,
    SMALL_PER_INCH,
    Sheet,
    outline,
    overlay,
    wrapped,
)
from recurrent_attention.inference.target_class import shown_name

# Inches.
MARGIN, GAP, GUTTER = 0.15, 0.07, 0.32
CELL = 1.0  # width of a patch and of a map
HEADLINE, HEADING, BARS = 0.36, 0.2, 0.5
SCALE, RIGHT = 0.09, 0.68  # width of the colour scale, and of all that is right of the maps
MAX_PICTURE = 3.2  # width; wider, it would take the page from the maps
MIN_SLOT = 1.45  # for a tall picture: what is written above and below it is wider


def order_shown(found: StreamMaps, index: int) -> Tensor:
    """Return the order (p) in which patches of a picture are shown and numbered.

    It is that of the looks where the model answers after each, heaviest first where patches have
    weights otherwise, and that of the boxes where they have none.
    """
    if found.patch_weights is None or found.prefix_logits is not None:
        return torch.arange(found.step_weights.shape[1])
    weights = found.patch_weights[index].detach().cpu()
    return weights.argsort(descending=True, stable=True)


def colors_shown(found: StreamMaps, index: int) -> list[str]:
    """Return the colour of each patch in that order: the heaviest four have one, others are pale.

    Patches that have no weights get theirs in order. If two classes are compared, no patch has a
    colour like those of the classes.
    """
    palette = PATCH_COLORS if found.against is None else COLORS_BESIDE_CLASSES
    order = order_shown(found, index)
    places = list(range(len(order)))
    if found.patch_weights is not None:
        weights = found.patch_weights[index].detach().cpu()[order]
        places = weights.argsort(descending=True, stable=True).tolist()
    colors = [PALE] * len(order)
    for place, color in zip(sorted(places[: len(palette)]), palette, strict=False):
        colors[place] = color
    return colors


def for_whole_views(maps: Tensor) -> Tensor:
    """Return what the logit would be if the whole view looked like a cell: (... h w) as given.

    Maps of any size can be compared then.
    """
    height, width = maps.shape[-2:]
    return maps * (height * width)


class Strip:
    """One picture of an explanation, on the CPU.

    Args:
        found: explanation of a batch.
        index: of the picture, in [0, b).
        image: a `PIL.Image` to show instead of the one that was explained, or None.
        most: patches that are drawn at most.

    Attributes:
        shown: number of patches that are drawn: the first of the order.
        colors: of these patches.
        sheet: to draw on; whoever inherits makes it.
    """

    sheet: Sheet

    def __init__(self, found: StreamMaps, index: int, image: Any, most: int) -> None:
        def own(tensor: Tensor) -> Tensor:
            return tensor[index].detach().float().cpu()

        order = order_shown(found, index)
        self.found, self.cell_offsets = found, found.cell_offsets()
        self.target = int(found.target[index])
        self.logits, self.global_logits = own(found.logits), own(found.global_logits)
        self.global_map = for_whole_views(own(found.global_map))
        self.maps = for_whole_views(own(found.step_maps)[order])
        self.step_logits = own(found.step_logits)[order]
        self.weights = own(found.step_weights)[order]
        self.num_patches, self.steps = self.weights.shape
        self.shown = min(self.num_patches, most)
        self.patch_weights = (
            None if found.patch_weights is None else own(found.patch_weights)[order]
        )
        self.colors = colors_shown(found, index)[: self.shown]
        self.against = None if found.against is None else int(found.against[index])
        drawn = (self.maps[: self.shown], self.global_map)  # all at least 0, unless `against`
        self.peak = max(float(maps.abs().max()) for maps in drawn)
        look = found.mean, found.std
        self.patches = [
            pixels_of_view(one, *look) for one in own(found.patches)[order[: self.shown]]
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
        self.cell_height = CELL * aspect_of(self.patches[0])

    def draw_headline(self, note: str) -> None:
        """Write which class is explained, and a note in the right corner."""
        width = self.sheet.width - 2 * MARGIN
        if note:
            side = self.sheet.width - MARGIN
            self.sheet.text(side, 0.14, note, ha="right", color=PALE)
            width -= len(note) / SMALL_PER_INCH + GUTTER
        begin, end = "What speaks for ", ""
        names = [self.name(self.target)]
        if self.against is not None:
            names = [names[0], self.name(self.against)]
            end = " (blue)"
        between = " (orange), not for "
        fixed = len(begin + end) + len(between) * (len(names) - 1)
        room = (width - fixed / HEADLINE_PER_INCH) / len(names)
        names = [wrapped(name, room, lines=1, per_inch=HEADLINE_PER_INCH) for name in names]
        headline = begin + between.join(names) + end
        self.sheet.text(MARGIN, 0.1, headline, HUGE, ha="left", weight="bold")

    def draw_picture(self, x: float, y: float, width: float) -> None:
        """Show the picture with its boxes; those of the patches that are drawn are numbered."""
        axes = self.sheet.axes(x, y, width, width * aspect_of(self.scene))
        rows, columns = self.scene.shape[:2]
        axes.imshow(self.scene, aspect="auto", extent=(0, columns, rows, 0))
        outline(axes, self.boxes, self.colors, numbered=self.num_patches > 1)
        axes.set(xlim=(0, columns), ylim=(rows, 0))

    def draw_global_map(self, x: float, y: float, width: float, height: float) -> None:
        """Show what speaks for the class in the whole picture, on the scale of all maps."""
        overlay(
            self.sheet.axes(x, y, width, height), self.scene, self.global_map, self.peak,
            cell_offset=self.cell_offsets[0], signed=self.against is not None,
        )  # fmt: skip

    def draw_patch(self, patch: int, x: float, y: float) -> None:
        """Show the pixels of a patch in a frame of its colour."""
        axes = self.sheet.axes(x, y, CELL, self.cell_height, self.colors[patch])
        axes.imshow(self.patches[patch], aspect="auto")

    def draw_map(self, patch: int, step: int, x: float, y: float) -> Any:
        """Show what speaks for the class in a look at a patch, on the scale of all maps."""
        return overlay(
            self.sheet.axes(x, y, CELL, self.cell_height), self.patches[patch],
            self.maps[patch, step], self.peak, cell_offset=self.cell_offsets[1],
            signed=self.against is not None,
        )  # fmt: skip

    def finish(self) -> Figure:
        """Return the figure, and warn of letters that no font has."""
        self.sheet.warn_of_missing_letters()
        return self.sheet.figure

    def answer(
        self,
        x: float,
        y: float,
        logits: Tensor,
        who: str = "",
        width: float = CELL,
        size: float | None = None,
        looks: int | None = None,
    ) -> None:
        """Write what logits answer; dark where it is the class explained, else pale.

        Args:
            x: middle, in inches.
            y: top.
            logits: (k).
            who: answers.
            width: for names.
            size: in points; None is that of small letters.
            looks: after so many looks of the model, for the probability that `predict` returns;
                None: of a part of the model, for which there is no temperature.
        """
        temperatures = None if looks is None else self.found.temperatures
        rows = rearrange(logits, "k -> 1 k")
        (probabilities,) = probabilities_after(rows, temperatures, first=looks or 0)
        best = int(probabilities.argmax())
        lines = [who, wrapped(self.name(best), width), f"{100 * float(probabilities[best]):.0f} %"]
        style: dict[str, Any] = {} if best == self.target else {"color": PALE}
        sizes = () if size is None else (size,)
        self.sheet.text(x, y + 0.05, "\n".join(filter(None, lines)), *sizes, **style)

    def name(self, index: int) -> str:
        """Return the name of a class as people read it."""
        return shown_name(index, self.found.class_names)


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


def aspect_of(pixels: Any) -> float:
    """Give height over width, within what can be shown side by side."""
    return float(np.clip(pixels.shape[0] / pixels.shape[1], 0.5, 2))
