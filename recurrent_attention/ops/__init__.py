"""Where to look, as functions of tensors: saliency, boxes, patches, what a cell looks at."""

from recurrent_attention.ops.cell_offset import measure_cell_offset, resample_cells
from recurrent_attention.ops.crops import crop_patches
from recurrent_attention.ops.proposal import propose_boxes, saliency

__all__ = [
    "crop_patches",
    "measure_cell_offset",
    "propose_boxes",
    "resample_cells",
    "saliency",
]
