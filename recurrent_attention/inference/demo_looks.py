"""What the demo shows of a picture: its explanation as numbers in order, drawn look by look."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from recurrent_attention.images.reading import open_picture
from recurrent_attention.images.views import mode_of
from recurrent_attention.inference.explanation import Explanation, explain
from recurrent_attention.inference.looking import temperature_after
from recurrent_attention.inference.sheet import (
    Sheet,
    number_box,
    outline,
    overlay,
)
from recurrent_attention.inference.strip import (
    colors_shown,
    for_whole_views,
    order_shown,
    pixels_of_view,
)
from recurrent_attention.inference.target_class import shown_name
from recurrent_attention.network import TwoStreamNetwork

# Inches. At `SCREEN_DPI` these are more pixels than the page shows at 1280: sharp on any screen.
PICTURE, PATCH, GAP, HEADING, BELOW = 6.4, 3.0, 0.12, 0.36, 0.1
SCALE, RIGHT = 0.12, 0.62  # width of the colour scale, and of all that is right of the map
NUMBER = 9.0  # points


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """One picture's explanation, on the CPU.

    Looks come in g groups of r: each group is a patch, and its looks are the steps. Where the model
    has learned how much each patch counts, it looks once at each, and all patches are one group.
    Patches are numbered in the order in which figures show them (`order_shown`).

    Attributes:
        found: the explanation, of one picture.
        names: k names of classes, as people read them.
        target: the class explained, an index in [0, k).
        streams: (3 k) probabilities of both streams together and of the global stream, as `predict`
            returns them, and of the local stream, which has no temperature.
        weights: (g r) of each look; sums to 1 over r.
        answers: (g r k) probabilities that each look would answer by itself.
        maps: (g r h w) at least 0; the logit of the target if the whole patch looked like a cell.
        patches: p arrays (h w 3) in [0, 1].
        boxes: p boxes xyxy in pixels of the picture.
        colors: of the p patches.
        picture: upright, RGB.
    """

    found: Explanation
    names: tuple[str, ...]
    target: int
    streams: Tensor
    weights: Tensor
    answers: Tensor
    maps: Tensor
    patches: list[Any]
    boxes: list[list[float]]
    colors: list[str]
    picture: Image.Image

    @property
    def by_patch(self) -> bool:
        """Whether each look is a patch, rather than a step at one."""
        return self.found.patch_weights is not None

    def patch_of(self, group: int, look: int) -> int:
        """Return which patch a look is at, from 0."""
        return look if self.by_patch else group


def explain_file(model: TwoStreamNetwork, path: str) -> Explanation:
    """Explain what a model answers to a picture file.

    Args:
        model: that takes 1, 3 or 4 channels.
        path: of the file, whose folder stays unnamed in messages.

    Returns:
        The explanation of the class that it answers.

    Raises:
        ValueError: if the file is no picture or cannot be read.
    """
    with Path(path).open("rb") as file:
        mode = mode_of(model.global_backbone.in_chans)
        picture = open_picture(file, name=Path(path).name, mode=mode)
    return explain(model, picture)


def explain_again(model: TwoStreamNetwork, found: Explanation, target: int) -> Explanation:
    """Explain another class in the same views of the same picture.

    Args:
        model: as before.
        found: what `explain_file` returned.
        target: an index in [0, k).

    Returns:
        The explanation of that class.
    """
    again = explain(model, found.images, patches=found.patches, boxes=found.boxes, target=target)
    return replace(again, pictures=found.pictures)


def looks_of(found: Explanation) -> Looks:
    """Put an explanation of one picture into the order in which it is shown.

    Args:
        found: of one picture that was read from a file.

    Returns:
        `Looks`.
    """

    def own(tensor: Tensor) -> Tensor:
        return tensor[0].detach().cpu().double()

    (picture,) = found.pictures
    if picture is None or found.boxes is None:
        raise ValueError("Expected an explanation of a picture with boxes, but it has none.")
    weights, order = own(found.step_weights), order_shown(found, 0).tolist()
    step_logits, maps, boxes = own(found.step_logits), own(found.step_maps), own(found.boxes)
    if found.patch_weights is not None:
        weights = rearrange(own(found.patch_weights)[order], "p -> 1 p")
        step_logits = rearrange(step_logits[order], "p 1 k -> 1 p k")
        maps = rearrange(maps[order], "p 1 h w -> 1 p h w")
    height, width = found.images.shape[2:]
    across, down = picture.width / width, picture.height / height
    count = found.logits.shape[1]
    return Looks(
        found=found,
        names=tuple(shown_name(index, found.class_names) for index in range(count)),
        target=int(found.target[0]),
        streams=rearrange(
            [
                own(found.logits) / temperature_after(found.temperatures, len(boxes)),
                own(found.global_logits) / temperature_after(found.temperatures, 0),
                own(found.local_logits),
            ],
            "s k -> s k",
        ).softmax(1),
        weights=weights,
        answers=step_logits.softmax(2),
        maps=for_whole_views(maps.float()),
        patches=[
            pixels_of_view(found.patches[0, patch].detach().float().cpu(), found.mean, found.std)
            for patch in order
        ],
        boxes=[
            [x0 * across, y0 * down, x1 * across, y1 * down]
            for x0, y0, x1, y1 in boxes[order].tolist()
        ],
        colors=colors_shown(found, 0),
        picture=picture.convert("RGB"),
    )


def draw_boxes(looks: Looks) -> Figure:
    """Draw the picture with its boxes, numbered from 1.

    Args:
        looks: of the picture.

    Returns:
        A figure without margins.
    """
    width, height = looks.picture.size
    inches = PICTURE / max(width, height)
    # A picture a hundred times wider than high is shown stretched rather than as a line.
    sheet = Sheet(*(max(side * inches, PICTURE / 5) for side in (width, height)))
    axes = sheet.axes(0, 0, sheet.width, sheet.height)
    axes.imshow(np.asarray(looks.picture), aspect="auto", extent=(0, width, height, 0))
    outline(axes, looks.boxes, looks.colors, numbered=False)
    # From the last to the first, so that where boxes share a corner the better number is on top.
    for number, box in reversed(list(enumerate(looks.boxes))):
        number_box(axes, number, box, looks.colors[number], NUMBER)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return sheet.figure


def draw_look(looks: Looks, group: int, look: int) -> Figure:
    """Draw a patch, and beside it what in it speaks for the target in one look.

    All looks at a picture share one colour scale, so that they can be compared.

    Args:
        looks: of the picture.
        group: in [0, g).
        look: in [0, r).

    Returns:
        A figure.
    """
    patch = looks.patch_of(group, look)
    pixels, color = looks.patches[patch], looks.colors[patch]
    height = PATCH * pixels.shape[0] / pixels.shape[1]
    sheet = Sheet(2 * PATCH + 3 * GAP + RIGHT, HEADING + height + BELOW)
    size: dict[str, Any] = {"size": 10.5}
    left = sheet.axes(GAP, HEADING, PATCH, height, color)
    left.imshow(pixels, aspect="auto")
    sheet.text(GAP + PATCH / 2, 0.1, f"patch {patch + 1}", **size, color=color, weight="bold")
    x = 2 * GAP + PATCH
    right = sheet.axes(x, HEADING, PATCH, height)
    peak = float(looks.maps.max())
    offset = looks.found.cell_offsets()[1]
    shown = overlay(right, pixels, looks.maps[group, look], peak, cell_offset=offset)
    heading = "what speaks for it" if looks.by_patch else f"look {look + 1}"
    sheet.text(x + PATCH / 2, 0.1, heading, **size)
    sheet.scale(shown, x + PATCH + GAP, HEADING, SCALE, height, peak)
    return sheet.figure
