"""Where cells look: known geometries, timm's families, and that measuring changes nothing."""

import copy

import pytest
import torch
from torch import nn

from recurrent_attention import FeatureBackbone
from recurrent_attention._modes import drop_kept
from recurrent_attention.ops.cell_offset import measure_cell_offset, resample_cells


class Shifted(nn.Module):
    """Every cell is the mean of its tile, of an image that was moved before."""

    def __init__(self, tile, down, right):
        super().__init__()
        self.pool = nn.AvgPool2d(tile)
        self.move = down, right

    def forward(self, images):
        return self.pool(images.roll(self.move, dims=(2, 3)))


@pytest.mark.parametrize("side", [32, 40])  # an even and an odd number of cells
@pytest.mark.parametrize(
    ("move", "wanted"), [(0, 0.0), (1, 0.0), (4, -0.5), (5, -0.5), (-4, 0.5), (-3, 0.5)]
)
def test_known_moves(side, move, wanted):
    """Tiles of 8 pixels: moving the picture by 4 lets each cell see half a tile further back."""
    assert measure_cell_offset(Shifted(8, move, move), side) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [
        ("resnet18", 160, -0.5),  # padded 3x3 of stride 2
        ("mobilenetv2_035", 320, -0.5),
        ("regnetx_002", 224, -0.5),
        ("tf_mobilenetv3_small_minimal_100", 320, 0.5),  # TensorFlow pads on the other side
        ("vgg11", 64, 0.0),  # 2x2 pooling
        ("test_convnext", 160, 0.0),  # tiles that do not overlap
        ("test_vit", 128, 0.0),
    ],
)
def test_families_of_timm(name, size, wanted):
    for seed in range(2):
        torch.manual_seed(seed)
        assert measure_cell_offset(FeatureBackbone(name, image_size=size), size) == wanted


def test_other_channels_and_half_precision():
    layers = [nn.Conv2d(channels, 4, 3, stride=2, padding=1) for channels in (5, 4, 4, 4)]
    backbone = nn.Sequential(*layers).to(torch.bfloat16)
    assert measure_cell_offset(backbone, 160, in_chans=5) == -0.5


def test_float64_is_asked_for_on_the_cpu_alone(monkeypatch):
    """Apple's GPUs have none."""
    moved = []
    double, cpu = torch.Tensor.double, torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(found := cpu(self)) or found)

    def from_cpu(self):
        assert any(self is one for one in moved)
        return double(self)

    monkeypatch.setattr(torch.Tensor, "double", from_cpu)
    assert abs(measure_cell_offset(nn.Conv2d(3, 8, 16, 16), 64)) < 0.01


def test_nothing_changes():
    backbone = FeatureBackbone("test_resnet", image_size=64).train()
    backbone.model.layer1.eval()
    name, first = next(backbone.named_parameters())
    first.grad = torch.ones_like(first)
    modes = [module.training for module in backbone.modules()]
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    wanted = measure_cell_offset(backbone, 64)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert measure_cell_offset(backbone, 64) == wanted
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure_cell_offset(backbone, 64) == wanted
    with pytest.raises(ValueError, match="Expected `images` to have 3 channels"):
        measure_cell_offset(backbone, 64, in_chans=4)
    assert modes == [module.training for module in backbone.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert [key for key, p in backbone.named_parameters() if p.grad is not None] == [name]
    assert torch.equal(first.grad, torch.ones_like(first))


@pytest.mark.parametrize(("weight", "energy"), [(0.0, "0.0"), (float("nan"), "nan")])
def test_a_map_without_a_gradient(weight, energy):
    backbone = nn.Conv2d(3, 4, kernel_size=8, stride=8)
    nn.init.constant_(backbone.weight, weight)
    with pytest.raises(ValueError) as caught:
        measure_cell_offset(backbone, 32)
    assert str(caught.value) == (
        "Expected the map of `backbone` to depend on the image and to be finite, but its gradient "
        f"has energy {energy}."
    )


@pytest.mark.slow
@pytest.mark.parametrize("offset", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("steps", [3, 8, 40])
def test_cells_are_laid_where_they_look(offset, steps):
    """Against plain loops over steps and cells, both axes."""
    maps = torch.rand(2, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = resample_cells(maps, (steps, steps + 1), offset)

    def weights(cells, count):
        rows = []
        for step in range(count):
            position = min(max((step + 0.5) / count * cells - 0.5 - offset, 0), cells - 1)
            reach = max(cells / count, 1)
            row = [max(1 - abs(position - cell) / reach, 0) for cell in range(cells)]
            rows.append([value / sum(row) for value in row])
        return rows

    down, across = weights(7, steps), weights(4, steps + 1)
    for b in range(2):
        for y in range(steps):
            for x in range(steps + 1):
                expected = sum(
                    down[y][i] * across[x][j] * float(maps[b, i, j])
                    for i in range(7)
                    for j in range(4)
                )
                assert float(found[b, y, x]) == pytest.approx(expected, abs=1e-12)


def test_a_backbone_built_in_inference_mode():
    with torch.inference_mode():
        backbone = FeatureBackbone("mobilenetv2_050", image_size=320)
    assert measure_cell_offset(backbone, 320) == -0.5


def test_attention_biases_are_not_kept_with_their_graph():
    """LeViT keeps them of a pass in eval mode, and can then no longer be copied."""
    backbone = FeatureBackbone("levit_128s", image_size=64, depth=(1, 1, 1)).eval()
    measure_cell_offset(backbone, 64)
    copy.deepcopy(backbone)
    backbone(torch.zeros(1, 3, 64, 64))
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(backbone)
    backbone.model.stem.train()
    modes = [module.training for module in backbone.modules()]
    drop_kept(backbone)
    copy.deepcopy(backbone)
    assert [module.training for module in backbone.modules()] == modes
