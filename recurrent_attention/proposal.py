"""Where a model looks by itself: boxes from the global stream's own map, without labels."""

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from recurrent_attention._modes import eval_view
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.ops.cell_offset import measure_cell_offset
from recurrent_attention.ops.proposal import WIDE_SIDES, WINDOW_SIDES, propose_boxes, saliency

if TYPE_CHECKING:
    from recurrent_attention.classifier import TwoStreamClassifier

CELLS_TO_MEASURE = 10  # a side: smaller maps hide where their cells look
CELLS_TO_PROPOSE = 14  # a side: boxes of MobileNetV2 at 448 were measured, from a head of 224


class MeasuredOffsets:
    """What was measured of a model's backbones, once: shared by the model and its views."""

    of_global: float | None = None
    of_local: float | None = None


def propose(model: "TwoStreamClassifier", images: Tensor) -> Tensor:
    """Propose where to look, from the global stream's own map: no labels, no gradient.

    Args:
        model: whose global stream to ask; it answers as in eval mode, and its modes are as before.
        images: (b 3 h w) as in `TwoStreamClassifier.forward`. `model.proposal_size` is the side at
            which its map is fine enough.

    Returns:
        (b p 4) xyxy in pixels of `images`, best first, for p = `model.num_patches`.
    """
    with torch.no_grad(), eval_view(model) as model:
        return boxes_of_map(model, model.global_backbone(images), images)


@torch.no_grad()
def boxes_of_map(model: "TwoStreamClassifier", global_map: Tensor, images: Tensor) -> Tensor:
    """Find the boxes that the global stream's answer rests on.

    Args:
        model: whose classifier and number of patches to use.
        global_map: (b c h w) of its global backbone.
        images: (b 3 h w) that it is of.

    Returns:
        (b p 4) xyxy in pixels of `images`, best first.
    """
    cells = global_map if model.global_convs is None else model.global_convs(global_map)
    cell_logits: Tensor = model.global_head(rearrange(cells, "b c h w -> b h w c"))
    return boxes_of_saliency(
        saliency(rearrange(cell_logits, "b h w k -> b k h w")),
        (images.shape[2], images.shape[3]),
        model.num_patches,
        float(model.constant_cell_offset(id(model))),
    )


def boxes_of_saliency(
    salient: Tensor, image_size: tuple[int, int], num_patches: int, cell_offset: float
) -> Tensor:
    """Propose parts, and of many boxes the last three in ten wide, to show the whole of a thing.

    On real birds that took the local stream from 75 % to 78 %, and both from 76 % to 77 % (ten
    boxes, cross-validated; docs/lab/trials.md).

    Args:
        salient: (b h w) as in `propose_boxes`.
        image_size: (height, width) in pixels.
        num_patches: p; the boxes of up to three patches are all small.
        cell_offset: as in `propose_boxes`.

    Returns:
        (b p 4) xyxy in pixels: the small ones best first, then the wide ones best first.
    """
    wide = 3 * num_patches // 10
    boxes = [
        propose_boxes(
            salient, image_size, num_boxes=count, cell_offset=cell_offset, window_sides=sides
        )
        for count, sides in ((num_patches - wide, WINDOW_SIDES), (wide, WIDE_SIDES))
        if count
    ]
    return torch.cat(boxes, dim=1)


def proposal_size(model: "TwoStreamClassifier") -> int:
    """Tell at which side a picture's map is fine enough to propose boxes.

    Args:
        model: of which the backbone and the image size count.

    Returns:
        The side in pixels with `CELLS_TO_PROPOSE` cells, but at least the image size, at most twice
        that, and just that where the backbone takes no other.
    """
    size, backbone = model.image_size, model.global_backbone
    if backbone.fixed_size:
        return size
    return max(size, min(2 * size, CELLS_TO_PROPOSE * backbone.reduction))


def cell_offset(model: "TwoStreamClassifier") -> float:
    """Measure how far from the middle of its tile a cell of the global stream's map looks.

    Args:
        model: whose global backbone to measure.

    Returns:
        The offset in tiles, as in `propose_boxes`.
    """
    measured: MeasuredOffsets = model.measured_offsets
    if measured.of_global is None:
        measured.of_global = _offset_of(model.global_backbone, model.image_size)
    return measured.of_global


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def constant_cell_offset(model: "TwoStreamClassifier", identity: int) -> str:
    """Tell `model.cell_offset` to a graph: `torch.compile` calls this instead of looking into it.

    Args:
        model: whose global backbone to measure.
        identity: id(model). Asking for it keeps the graph, with its constant, to this one model;
            `torch.compile` would use it for every model of the same layers.

    Returns:
        `model.cell_offset` as text: torch 2.6 takes no number for a constant.
    """
    return str(model.cell_offset)


def local_cell_offset(model: "TwoStreamClassifier") -> float:
    """Measure the same of the local stream's map.

    Args:
        model: whose local backbone to measure, if it is of another architecture.

    Returns:
        The offset in tiles of a patch.
    """
    if model.local_backbone.name == model.global_backbone.name:
        same: float = model.cell_offset
        return same
    measured: MeasuredOffsets = model.measured_offsets
    if measured.of_local is None:
        measured.of_local = _offset_of(model.local_backbone, model.patch_size)
    return measured.of_local


def _offset_of(backbone: FeatureBackbone, size: int) -> float:
    large = max(size, CELLS_TO_MEASURE * backbone.reduction)
    side = size if backbone.fixed_size else large
    return measure_cell_offset(backbone, side, in_chans=backbone.in_chans)
