"""Where in the image the cells of a map look (padding can move them), and maps laid over it."""

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention._modes import view_of
from recurrent_attention.backbone import FeatureBackbone

CELLS_TO_MEASURE = 10  # a side: smaller maps hide where their cells look
PROBE_IMAGES = 2  # with both axes four measurements: their mean errs by less than 0.1 cells


def measure_cell_offset(backbone: nn.Module, image_size: int, *, in_chans: int = 3) -> float:
    """Measure how far a cell looks right and down from the middle of its image tile.

    An image is divided into as many tiles as its map has cells, and a cell is usually taken to see
    what is around the middle of its tile. A convolution of kernel 3, stride 2 and padding 1 has the
    centre of output i at input 2i, not 2i + 1/2, and after five of them, as in ResNets, MobileNets
    or RegNets, every cell looks half a tile up and left: boxes and maps drawn without this are off
    by 16 pixels. TensorFlow's padding moves by half a tile the other way; non-overlapping patches
    (ViT, Swin, ConvNeXt) and 2x2 pooling (VGG) do not move at all.

    The middle cells of the map are followed back to the pixels by the gradient of a random mix of
    their channels, on images of noise. The centre of mass of the squared gradient, relative to the
    middle of the image, is the offset, which is rounded to what padding makes of it. It belongs to
    the architecture; the weights matter little.

    Args:
        backbone: images (b c h w) to a map (b c h w), as `FeatureBackbone`. Its modes, gradients
            and buffers stay as they are.
        image_size: side of the square images to try, in pixels. A map of 10 or more cells a side is
            safe; below 7 the image's edges cut off what the cells see, and the offset of some
            backbones hides. A backbone of any size need not be tried at its own.
        in_chans: channels of the images.

    Returns:
        -0.5, 0.0 or 0.5, as a share of a tile: `cell_offset` of `propose_boxes`.

    Raises:
        ValueError: if the map does not depend on the image, or is not finite, or if the backbone
            has no weights: on the meta device, or while `torch.export` traces it.

    Example:
        >>> convolutions = nn.Sequential(
        ...     *[nn.Conv2d(3, 3, kernel_size=3, stride=2, padding=1) for _ in range(5)]
        ... )
        >>> measure_cell_offset(convolutions, 224)
        -0.5
        >>> measure_cell_offset(nn.Conv2d(3, 8, kernel_size=16, stride=16), 224)
        0.0
    """
    parameter = next(backbone.parameters(), torch.empty(0))
    if parameter.untyped_storage().device.type == "meta":  # so it is where torch.export traces, too
        raise ValueError(
            "Expected `backbone` to have weights, but got stand-ins: it is on the meta device, or "
            "being exported. Before an export without patches read model.cell_offset once."
        )
    generator = torch.Generator().manual_seed(0)
    # A view, since some timm models keep what they computed, with its graph.
    backbone = view_of(backbone).eval()
    with torch.inference_mode(False), torch.enable_grad():
        shape = PROBE_IMAGES, in_chans, image_size, image_size
        images = torch.randn(shape, generator=generator).to(parameter).requires_grad_()
        # Autograd refuses weights made under inference mode; copies made here will do.
        tensors = (*backbone.named_parameters(), *backbone.named_buffers())
        copies = {name: tensor.clone() for name, tensor in tensors if tensor.is_inference()}
        feature_map = torch.func.functional_call(backbone, copies, (images,))
        height, width = feature_map.shape[2:]
        middle = feature_map[
            :, :, (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1
        ]
        mix = torch.randn((PROBE_IMAGES, middle.shape[1], 1, 1), generator=generator)
        (gradient,) = torch.autograd.grad((middle * mix.to(middle)).sum(), images)
    energy = gradient.cpu().double().square().sum((0, 1))  # not every device has float64
    if not bool(energy.sum() > 0):  # a NaN compares false
        raise ValueError(
            "Expected the map of `backbone` to depend on the image and to be finite, but its "
            f"gradient has energy {float(energy.sum())}."
        )
    down, right = _centre(energy.sum(1)) * height, _centre(energy.sum(0)) * width
    halves: int = round(down + right)  # of a tile: the mean of the two, doubled
    return max(-1, min(halves, 1)) / 2


class MeasuredOffsets:
    """The offsets of backbones, measured once each: a network and its views share them.

    Attributes:
        known: offsets in tiles, by name of the backbone.
    """

    def __init__(self) -> None:
        self.known: dict[str, float] = {}

    def of(self, backbone: FeatureBackbone, size: int) -> float:
        """Return the offset of a backbone, measured on images that are large enough to show it.

        Args:
            backbone: to be measured. If it takes no other size, it is measured at its own.
            size: side of the images that it is for, in pixels.

        Returns:
            The offset in tiles.
        """
        if backbone.name not in self.known:
            large = max(size, CELLS_TO_MEASURE * backbone.reduction)
            side = size if backbone.fixed_size else large
            found = measure_cell_offset(backbone, side, in_chans=backbone.in_chans)
            self.known[backbone.name] = found
        return self.known[backbone.name]


def resample_cells(maps: Tensor, size: tuple[int, int], cell_offset: float = 0.0) -> Tensor:
    """Resample maps onto a grid over their image, each cell's value at the place where it looks.

    Linear interpolation between these places, averaged over a step of the grid where there are more
    cells than steps; beyond the outermost cells their value goes on.

    Args:
        maps: (b h w) floating point.
        size: steps of the grid (down, across), for example the pixels of the image.
        cell_offset: as `measure_cell_offset` returns it.

    Returns:
        (b down across).

    Example:
        >>> resample_cells(torch.tensor([[[0.0, 4.0]]]), (1, 4))
        tensor([[[0., 1., 3., 4.]]])
        >>> resample_cells(torch.tensor([[[0.0, 4.0]]]), (1, 4), cell_offset=-0.5)
        tensor([[[1., 3., 4., 4.]]])
    """
    rows, columns = (
        _interpolation(cells, steps, cell_offset, maps)
        for cells, steps in zip(maps.shape[1:], size, strict=True)
    )
    return einsum(rows, maps, columns, "y h, b h w, x w -> b y x")


def _interpolation(cells: int, steps: int, cell_offset: float, like: Tensor) -> Tensor:
    """Weigh the cells along one side for each step of a grid: (steps cells), rows sum to 1."""
    middles = torch.arange(steps, device=like.device, dtype=like.dtype) + 0.5
    position = (middles / steps * cells - 0.5 - cell_offset).clamp(0, cells - 1)
    index = torch.arange(cells, device=like.device, dtype=like.dtype)
    distance = (rearrange(position, "steps -> steps 1") - index).abs()
    weights = (1 - distance / max(cells / steps, 1)).clamp(min=0)
    total: Tensor = reduce(weights, "steps cells -> steps 1", "sum")
    return weights / total


def _centre(energy: Tensor) -> float:
    """Return how far the centre of mass of (n) is from the middle, as a share of the whole."""
    position = (torch.arange(len(energy), device=energy.device) + 0.5) / len(energy) - 0.5
    return float((energy * position).sum() / energy.sum())
