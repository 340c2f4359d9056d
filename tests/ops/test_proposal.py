"""Saliency, boxes and patches against plain loops in float64, and patches against PIL."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recurrent_attention.ops import crop_patches, propose_boxes, saliency


def spread(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_saliency_equals_the_formula(classes):
    torch.manual_seed(0)
    cell_logits = 3 * torch.randn(2, classes, 3, 4, dtype=torch.float64)
    found = saliency(cell_logits)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                wanted = spread(cell_logits[b, :, y, x].tolist())
                assert found[b, y, x].item() == pytest.approx(wanted, abs=1e-12)


def test_saliency_ignores_what_all_classes_share():
    torch.manual_seed(0)
    cell_logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    shared = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(saliency(cell_logits + shared), saliency(cell_logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saliency_of_half_precision_is_computed_in_float32(dtype):
    """In float16 the squares would overflow."""
    cell_logits = torch.tensor([-1000.0, 1000.0], dtype=dtype).reshape(1, 2, 1, 1)
    assert torch.equal(saliency(cell_logits), torch.full((1, 1, 1), cell_logits.max().float()))


def interpolate(cells, position):
    """The value of a row of cells at a fractional index, going on beyond both ends."""
    position = min(max(position, 0.0), len(cells) - 1.0)
    reach = max(len(cells) / 20, 1.0)  # more cells than steps: average, by a triangle this wide
    weights = [max(0.0, 1 - abs(position - index) / reach) for index in range(len(cells))]
    return sum(w * c for w, c in zip(weights, cells, strict=True)) / sum(weights)


def looped_scores(rows, offset):
    """Window (in steps) to score, windows in the order in which ties are broken."""
    positions = [[(s + 0.5) / 20 * n - 0.5 - offset for s in range(20)] for n in map(len, rows[:1])]
    columns = [[interpolate(row, p) for p in positions[0]] for row in rows]
    down = [(s + 0.5) / 20 * len(rows) - 0.5 - offset for s in range(20)]
    grid = [[interpolate([row[x] for row in columns], p) for x in range(20)] for p in down]
    windows = []
    for width in (6, 8, 10):
        for height in (6, 8, 10):
            for y in range(21 - height):
                for x in range(21 - width):
                    middle = (2 * x + width - 20) ** 2 + (2 * y + height - 20) ** 2
                    windows.append((middle, -width * height, y, x, width, height))
    scores = {}
    for _, _, y, x, width, height in sorted(windows):
        inside = [grid[j][i] for j in range(y, y + height) for i in range(x, x + width)]
        mean = sum(inside) / len(inside)
        scores[x, y, x + width, y + height] = mean * (width * height / 400) ** 0.35
    best = max(scores.values()) or 1.0
    return {window: round(score / best * 1e5) for window, score in scores.items()}


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def looped_boxes(rows, size, count, threshold, offset):
    scores = looped_scores(rows, offset)
    chosen, this_round = [], []
    while len(chosen) < count:
        left = [
            window
            for window in scores
            if window not in chosen and all(overlap(window, b) <= threshold for b in this_round)
        ]
        if not left:
            this_round = []
            continue
        best = max(left, key=lambda window: scores[window])  # the first of equal ones
        chosen.append(best)
        this_round.append(best)
    height, width = size
    return [[x0 / 20 * width, y0 / 20 * height, x1 / 20 * width, y1 / 20 * height]
            for x0, y0, x1, y1 in chosen]  # fmt: skip


@pytest.mark.parametrize(
    ("map_size", "image_size", "count", "threshold", "offset"),
    [
        ((14, 14), (448, 448), 10, 0.4, 0.0),
        ((14, 14), (448, 448), 10, 0.4, -0.5),
        ((7, 7), (224, 224), 5, 0.3, 0.5),
        ((1, 1), (64, 64), 3, 0.4, -0.5),
        ((3, 5), (100, 333), 4, 0.5, 0.0),
        ((5, 1), (10, 20), 3, 0.2, -0.25),
        ((20, 20), (200, 100), 4, 1.0, 0.0),
        ((33, 64), (448, 640), 6, 0.4, -0.5),
        ((8, 8), (256, 256), 40, 0.0, 0.0),  # more than fit side by side: further rounds
        ((6, 6), (256, 256), 60, 0.1, 0.0),
    ],
)
def test_boxes_equal_plain_loops(map_size, image_size, count, threshold, offset):
    torch.manual_seed(0)
    maps = torch.rand(2, *map_size, dtype=torch.float64) ** 3
    found = propose_boxes(
        maps, image_size, num_boxes=count, iou_threshold=threshold, cell_offset=offset
    )
    for ours, rows in zip(found, maps.tolist(), strict=True):
        wanted = torch.tensor(looped_boxes(rows, image_size, count, threshold, offset))
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-4)


def test_boxes_find_the_bright_place():
    maps = torch.full((1, 14, 14), 0.1)
    maps[0, 2:6, 8:12] = 1.0
    for offset in (-1.0, 0.0, 1.0):  # a tile has 10 pixels, a window moves by 7
        box = propose_boxes(maps, 140, num_boxes=1, cell_offset=offset)[0, 0].tolist()
        place = [edge + 10 * offset for edge in (80, 20, 120, 60)]
        assert box == pytest.approx(place, abs=5)


def test_boxes_follow_a_mirrored_saliency():
    torch.manual_seed(0)
    maps = torch.rand(8, 9, 11)
    boxes = propose_boxes(maps, 100, num_boxes=4, cell_offset=-0.5)
    mirrored = propose_boxes(maps.flip(1, 2), 100, num_boxes=4, cell_offset=0.5)
    torch.testing.assert_close(mirrored, 100 - boxes[:, :, [2, 3, 0, 1]])


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 1e38])
@pytest.mark.parametrize("map_size", [(1, 1), (7, 7), (5, 64)])
def test_a_constant_saliency_starts_in_the_middle(value, map_size):
    boxes = propose_boxes(torch.full((2, *map_size), value), 448, num_boxes=10)
    assert boxes[:, 0].tolist() == [[112.0, 112.0, 336.0, 336.0]] * 2
    # Position alone breaks the ties, not the rounding of sums that differ from map to map.
    plain = [[min(value, 1.0)]]
    wanted = torch.tensor(looped_boxes(plain, (448, 448), 10, 0.4, 0.0))
    torch.testing.assert_close(boxes, wanted.expand(2, -1, -1))


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    image=st.tuples(st.integers(1, 20000), st.integers(1, 20000)),
    count=st.integers(1, 12),
    threshold=st.floats(0, 1),
    offset=st.floats(-1, 1),
    seed=st.integers(0, 99),
)
def test_boxes_of_any_saliency(height, width, image, count, threshold, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, height, width, generator=generator)
    options = {"num_boxes": count, "iou_threshold": threshold, "cell_offset": offset}
    boxes = propose_boxes(maps, image, **options)
    assert boxes.shape == (2, count, 4)
    x0, y0, x1, y1 = boxes.unbind(2)
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= image[1]) & (y1 <= image[0])).all()
    assert ((x1 > x0) & (y1 > y0)).all()
    for own, one in zip(boxes, maps, strict=True):
        assert len(set(map(tuple, own.tolist()))) == count  # no box twice
        assert torch.equal(propose_boxes(one[None], image, **options)[0], own)  # batch or single
    larger = propose_boxes(1024 * maps, image, **options)  # the unit does not matter
    assert torch.equal(larger, boxes)


def test_every_window_can_be_asked_for():
    boxes = propose_boxes(torch.rand(1, 4, 4), 448, num_boxes=1521)
    assert len(set(map(tuple, boxes[0].tolist()))) == 1521


def test_empty_batch():
    assert propose_boxes(torch.zeros(0, 7, 7), 448, num_boxes=3).shape == (0, 3, 4)
    assert saliency(torch.zeros(0, 5, 7, 7)).shape == (0, 7, 7)
    assert crop_patches(torch.zeros(0, 3, 8, 8), torch.zeros(0, 2, 4), size=4).shape == (
        0, 2, 3, 4, 4,
    )  # fmt: skip


def test_nothing_else_changes():
    cell_logits = torch.randn(2, 5, 7, 7, requires_grad=True)
    images = torch.rand(2, 3, 32, 32)
    before = cell_logits.detach().clone(), images.clone(), torch.get_rng_state()
    maps = saliency(cell_logits)
    boxes = propose_boxes(maps, 32, num_boxes=3)
    kept = maps.clone(), boxes.clone()
    patches = crop_patches(images, boxes, size=8)
    assert not any(tensor.requires_grad for tensor in (maps, boxes, patches))
    for now, then in zip(
        (cell_logits, images, torch.get_rng_state(), maps, boxes), (*before, *kept), strict=True
    ):
        assert torch.equal(now, then)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_autocast_rank_as_float32_does(dtype):
    torch.manual_seed(0)
    maps = torch.rand(4, 14, 14).to(dtype)
    wanted = propose_boxes(maps.float(), 448, num_boxes=5)
    assert torch.equal(propose_boxes(maps, 448, num_boxes=5), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(propose_boxes(maps.float(), 448, num_boxes=5), wanted)


def bilinear(rows, y, x):
    """Sample rows of pixels whose centres lie at 0.5, 1.5, ...; beyond the edge they go on."""
    total = 0.0
    y, x = min(max(y - 0.5, 0), len(rows) - 1), min(max(x - 0.5, 0), len(rows[0]) - 1)
    for j in (math.floor(y), math.floor(y) + 1):
        for i in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - j)) * (1 - abs(x - i))
            if weight > 0:
                total += weight * rows[j][i]
    return total


def looped_patch(rows, box, size):
    x0, y0, x1, y1 = box
    high, wide = (y1 - y0) / size, (x1 - x0) / size
    down, across = math.ceil(high), math.ceil(wide)
    patch = []
    for v in range(size):
        patch.append([])
        for u in range(size):
            samples = [
                bilinear(rows, y0 + (v + j / down) * high, x0 + (u + i / across) * wide)
                for j in (index + 0.5 for index in range(down))
                for i in (index + 0.5 for index in range(across))
            ]
            patch[-1].append(sum(samples) / len(samples))
    return patch


def some_boxes(batch, count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = 0.2 + 0.6 * torch.rand(batch, count, 2, generator=generator)
    corners = torch.rand(batch, count, 2, generator=generator) * (1 - sides)
    return torch.cat([corners, corners + sides], dim=2) * torch.tensor([width, height] * 2)


@pytest.mark.parametrize("size", [1, 3, 8, 17])
def test_patches_equal_plain_loops(size):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 11, 16, dtype=torch.float64)
    boxes = some_boxes(2, 3, 11, 16).double()
    boxes[0, 0] = torch.tensor([0.0, 0.0, 16.0, 11.0])  # the whole image
    found = crop_patches(images, boxes, size=size)
    assert found.shape == (2, 3, 3, size, size)
    for b in range(2):
        for p in range(3):
            for c in range(3):
                wanted = looped_patch(images[b, c].tolist(), boxes[b, p].tolist(), size)
                torch.testing.assert_close(
                    found[b, p, c], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10
                )


def picture(height=120, width=160):
    """A picture with edges at every scale, like a photograph: noise of falling strength."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(1, 3, height, width)
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = torch.randn(1, 3, cells, cells, generator=generator) / cells**0.5
        pixels += torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    pixels = (128 + 40 * pixels[0]).clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "mean", "largest"),
    [
        (160, 0.3, 1.01),  # enlarged: PIL rounds after each of its two passes
        (24, 1.0, 5.0),  # shrunk up to 3.7 times: it weighs pixels by a triangle
    ],
)
def test_patches_agree_with_pil(size, mean, largest):
    source = picture()
    images = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None].float()
    boxes = some_boxes(1, 6, 120, 160)
    found = crop_patches(images, boxes, size=size)[0]
    for patch, box in zip(found, boxes[0], strict=True):
        cut = source.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
        gap = (patch - torch.from_numpy(np.array(cut)).permute(2, 0, 1)).abs()
        assert gap.mean() < mean
        assert gap.max() < largest


def test_shrinking_does_not_alias():
    """Single black and white pixels become grey; sampled without averaging they would not."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = ((rows + columns) % 2).float()[None, None]
    boxes = torch.tensor([[[0.0, 0.0, 64.0, 64.0], [3.0, 5.0, 51.0, 53.0]]])
    patches = crop_patches(board, boxes, size=8)
    torch.testing.assert_close(patches, torch.full_like(patches, 0.5), rtol=0, atol=0.02)


def test_patches_are_differentiable_in_the_images():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = some_boxes(2, 2, 5, 6).double()
    for size in (2, 4):
        assert torch.autograd.gradcheck(lambda x, s=size: crop_patches(x, boxes, size=s), images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_patches_keep_the_type_of_the_images(dtype):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).to(dtype)
    boxes = some_boxes(1, 2, 16, 16)
    patches = crop_patches(images, boxes, size=4)
    assert patches.dtype == dtype
    assert torch.equal(patches, crop_patches(images.float(), boxes, size=4).to(dtype))


def test_a_box_out_by_rounding_is_cut():
    images = torch.rand(1, 3, 16, 16)
    out, cut = torch.tensor([[[-0.9, 2, 10, 16.9]], [[0.0, 2, 10, 16]]])
    assert torch.equal(
        crop_patches(images, out[None], size=4), crop_patches(images, cut[None], size=4)
    )


class FromLogits(torch.nn.Module):
    def forward(self, cell_logits, images):
        boxes = propose_boxes(saliency(cell_logits), 32, num_boxes=3, cell_offset=-0.5)
        return boxes, crop_patches(images, boxes, size=8)


def test_compiles_without_a_graph_break_and_exports():
    torch.manual_seed(0)
    inputs = torch.randn(2, 5, 7, 7), torch.rand(2, 3, 32, 32)
    wanted = FromLogits()(*inputs)
    compiled = torch.compile(FromLogits(), fullgraph=True, backend="aot_eager")(*inputs)
    exported = torch.export.export(FromLogits(), inputs, strict=False).module()(*inputs)
    for found in (compiled, exported):
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same():
    torch.manual_seed(0)
    maps, images = torch.rand(4, 14, 14), torch.rand(4, 3, 64, 64)
    boxes = propose_boxes(maps, 64, num_boxes=5)
    assert torch.equal(propose_boxes(maps.cuda(), 64, num_boxes=5).cpu(), boxes)
    found = crop_patches(images.cuda(), boxes.cuda(), size=16)
    torch.testing.assert_close(found.cpu(), crop_patches(images, boxes, size=16))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: saliency(torch.zeros(5, 7, 7)),
            ValueError,
            "Expected `cell_logits` to have shape (b, k, h, w), but got (5, 7, 7). Add a batch "
            "axis: cell_logits[None].",
        ),
        (
            lambda: saliency(torch.zeros(1, 0, 7, 7)),
            ValueError,
            "Expected `cell_logits` to be empty in no axis but b, but got (1, 0, 7, 7).",
        ),
        (
            lambda: saliency(torch.zeros(1, 5, 7, 7, dtype=torch.int64)),
            TypeError,
            "Expected `cell_logits` to be floating point, but got torch.int64. Convert: "
            "cell_logits.float().",
        ),
        (
            lambda: propose_boxes(torch.zeros(7, 7), 448, num_boxes=1),
            ValueError,
            "Expected `saliency` to have shape (b, h, w), but got (7, 7). Add a batch axis: "
            "saliency[None].",
        ),
        (
            lambda: propose_boxes(torch.zeros(1, 5, 7, 7), 448, num_boxes=1),
            ValueError,
            "Expected `saliency` to have shape (b, h, w), but got (1, 5, 7, 7).",
        ),
        (
            lambda: propose_boxes(torch.zeros(1, 7, 0), 448, num_boxes=1),
            ValueError,
            "Expected `saliency` to be empty in no axis but b, but got (1, 7, 0).",
        ),
        (
            lambda: propose_boxes(torch.tensor([[[1.0, math.nan]]]), 448, num_boxes=1),
            ValueError,
            "Expected `saliency` to be finite and at least 0, but got nan. Is the model's output "
            "finite?",
        ),
        (
            lambda: propose_boxes(torch.tensor([[[1.0, -2.0]]]), 448, num_boxes=1),
            ValueError,
            "Expected `saliency` to be finite and at least 0, but got -2.0. Is the model's output "
            "finite?",
        ),
        (
            lambda: propose_boxes(torch.ones(1, 7, 7), 448, num_boxes=0),
            ValueError,
            "Expected `num_boxes` to be from 1 to 1521, the number of windows, but got 0.",
        ),
        (
            lambda: propose_boxes(torch.ones(1, 7, 7), 448, num_boxes=1522),
            ValueError,
            "Expected `num_boxes` to be from 1 to 1521, the number of windows, but got 1522.",
        ),
        (
            lambda: propose_boxes(torch.ones(1, 7, 7), 448, num_boxes=1, iou_threshold=1.5),
            ValueError,
            "Expected `iou_threshold` to be in [0, 1], but got 1.5.",
        ),
        (
            lambda: propose_boxes(torch.ones(1, 7, 7), 448, num_boxes=1, cell_offset=math.nan),
            ValueError,
            "Expected `cell_offset` to be in [-1, 1], but got nan.",
        ),
        (
            lambda: propose_boxes(torch.ones(1, 7, 7), (0, 448), num_boxes=1),
            ValueError,
            "Expected `image_size` to be a side or (height, width) of at least 1 pixel, but got "
            "(0, 448).",
        ),
        (
            lambda: crop_patches(torch.zeros(3, 8, 8), torch.zeros(1, 2, 4), size=4),
            ValueError,
            "Expected `images` to have shape (b, c, h, w), but got (3, 8, 8). Add a batch axis: "
            "images[None].",
        ),
        (
            lambda: crop_patches(torch.zeros(1, 3, 8, 8), torch.zeros(2, 4), size=4),
            ValueError,
            "Expected `boxes` to have shape (b, p, 4), but got (2, 4). Add a batch axis: "
            "boxes[None].",
        ),
        (
            lambda: crop_patches(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 5), size=4),
            ValueError,
            "Expected `boxes` to have shape (b, p, 4), but got (1, 2, 5).",
        ),
        (
            lambda: crop_patches(torch.zeros(1, 3, 8, 8), torch.zeros(1, 0, 4), size=4),
            ValueError,
            "Expected `boxes` to be empty in no axis but b, but got (1, 0, 4).",
        ),
        (
            lambda: crop_patches(torch.zeros(2, 3, 8, 8), torch.zeros(3, 2, 4), size=4),
            ValueError,
            "Expected `boxes` to hold boxes of as many images as `images`, but got batches of 3 "
            "and 2.",
        ),
        (
            lambda: crop_patches(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 4), size=0),
            ValueError,
            "Expected `size` to be at least 1, but got 0.",
        ),
        (
            lambda: crop_patches(
                torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 4), size=4
            ),
            TypeError,
            "Expected `images` to be floating point, but got torch.uint8. Convert: images.float().",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "box",
    [
        (4.0, 1.0, 4.0, 8.0),  # empty
        (4.0, 8.0, 6.0, 1.0),  # upside down
        (4.0, 1.0, 14.0, 8.0),  # outside
        (12.5, 1.0, 13.0, 8.0),  # outside by less than a pixel, and nothing of it inside
        (math.nan, 1.0, 4.0, 8.0),
    ],
)
def test_bad_boxes(box):
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]] * 2] * 2)
    boxes[1, 1] = torch.tensor(box)
    with pytest.raises(ValueError) as caught:
        crop_patches(torch.zeros(2, 3, 9, 12), boxes, size=4)
    assert str(caught.value) == (
        "Expected box 1 of image 1 to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 inside its "
        f"12 x 9 picture, but got {box}."
    )


@pytest.mark.parametrize("sides", [(), (0.33,), (0.0, 0.5), (1.05,)])
def test_window_sides_are_steps_of_the_grid(sides):
    with pytest.raises(ValueError) as caught:
        propose_boxes(torch.rand(1, 4, 4), 64, num_boxes=1, window_sides=sides)
    assert str(caught.value) == (
        f"Expected `window_sides` to be shares in (0, 1], multiples of 0.05, but got {sides}."
    )


def test_windows_of_other_sides():
    boxes = propose_boxes(torch.rand(1, 4, 4), 100, num_boxes=9, window_sides=(0.55, 1.0))
    sides = {round(side) for box in boxes[0] for side in (box[2:] - box[:2]).tolist()}
    assert sides == {55, 100}
