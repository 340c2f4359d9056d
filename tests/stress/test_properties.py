"""What holds for any shape, dtype, size and batch, of every public function.

Some properties stand beside the function's other tests: attention (test_attention.py), boxes
(test_patches.py).
"""

import functools
import math

import numpy as np
import pytest
import torch
from helpers import models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from recurrent_attention import (
    FeatureBackbone,
    RecurrentRefinedAttention,
    TwoStreamLoss,
    TwoStreamOutput,
)
from recurrent_attention.data import (
    Pictures,
    TwoStreamDataset,
    read_boxes,
    write_boxes,
)
from recurrent_attention.hub.names import canonical_names
from recurrent_attention.images import open_picture
from recurrent_attention.ops import crop_patches, saliency
from recurrent_attention.training import Recipe
from recurrent_attention.training.draws import EpochOrder, seed_of
from recurrent_attention.training.optimization import Schedule, optimizer_of

few = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
many = settings(max_examples=60, derandomize=True, deadline=None)
seeds = st.integers(0, 2**31)
FLOATS = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@functools.cache
def classifier(weighting, num_patches=3):
    return models.make(num_patches=num_patches, hidden_size=8, patch_weighting=weighting)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@many
@given(
    shape=st.sampled_from([(3,), (3, 2, 5), (4, 3)]),
    batch=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
    seed=seeds,
)
def test_attention_answers_each_row_by_itself(shape, batch, scale, seed):
    """Maps, vectors, and vectors by step, of any scale; the batch around a row is nothing to it."""
    torch.manual_seed(0)
    attention = RecurrentRefinedAttention(3, 4, num_steps=4)
    features = scale * randn(seed, batch, *shape)
    together = attention(features)
    for row in range(batch):
        alone = attention(features[row : row + 1])
        for one, other in zip(alone[:3], together[:3], strict=True):
            torch.testing.assert_close(one[0], other[row], rtol=1e-4, atol=1e-6)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in together[:3])


@pytest.mark.slow
@few
@given(height=st.integers(1, 5), width=st.integers(1, 5), batch=st.integers(1, 3), seed=seeds)
def test_backbones_take_any_multiple(height, width, batch, seed):
    backbone = FeatureBackbone("test_resnet", image_size=64).eval()
    images = randn(seed, batch, 3, 32 * height, 32 * width)
    with torch.no_grad():
        found = backbone(images)
        assert found.shape == (batch, backbone.out_channels, height, width)
        torch.testing.assert_close(backbone(images[:1])[0], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@few
@given(
    batch=st.integers(1, 3),
    patches=st.integers(1, 4),
    weighting=st.sampled_from(["equal", "linear", "recurrent"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
def test_a_classifier_answers_each_picture_by_itself(batch, patches, weighting, dtype, seed):
    model = classifier(weighting)
    images, parts = randn(seed, batch, 3, 64, 64), randn(seed + 1, batch, patches, 3, 32, 32)
    with torch.no_grad():
        together = model.to(dtype)(images.to(dtype), parts.to(dtype))
        alone = model(images[-1:].to(dtype), parts[-1:].to(dtype))
        fused = together.global_logits + model.fusion_weight * together.local_logits
        turned = model(images.to(dtype), parts.flip(1).to(dtype))
    model.float()
    for one, other in zip(alone, together, strict=True):
        if one is not None:
            torch.testing.assert_close(one[0], other[-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.logits, fused)
    torch.testing.assert_close(together.step_weights.sum(2), torch.ones_like(fused[:, :1]).expand(
        -1, patches))  # fmt: skip
    if weighting != "recurrent":  # for which the order says which patch is the best
        torch.testing.assert_close(turned.logits, together.logits, rtol=1e-3, atol=1e-4)
    if together.patch_weights is not None:
        torch.testing.assert_close(together.patch_weights.sum(1), torch.ones_like(fused[:, 0]))


@many
@given(
    sizes=st.tuples(*(st.integers(1, 4) for _ in range(4))),
    weight=st.floats(0, 3),
    smoothing=st.floats(0, 0.9),
    learned=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 50.0]),
    seed=seeds,
)
def test_the_loss_of_any_output_equals_plain_loops(sizes, weight, smoothing, learned, scale, seed):
    batch, patches, steps, classes = sizes
    step_logits = scale * randn(seed, batch, patches, steps, classes).double()
    step_weights = randn(seed + 1, batch, patches, steps).double().softmax(2)
    patch_weights = randn(seed + 2, batch, patches).double().softmax(1) if learned else None
    global_logits = scale * randn(seed + 3, batch, classes).double()
    local_logits = scale * randn(seed + 4, batch, classes).double()
    targets = torch.arange(batch) % classes
    output = TwoStreamOutput(
        global_logits + local_logits, global_logits, local_logits, step_logits, step_weights,
        patch_weights,
    )  # fmt: skip

    def cross_entropy(logits, target):
        top = max(logits)
        log_sum = top + math.log(sum(math.exp(value - top) for value in logits))
        wanted = [smoothing / classes + (1 - smoothing) * (k == target) for k in range(classes)]
        return sum(share * (log_sum - value) for share, value in zip(wanted, logits, strict=True))

    expected = 0.0
    for b in range(batch):
        target, by_patch = int(targets[b]), 0.0
        for p in range(patches):
            logits = [
                sum(float(step_weights[b, p, t] * step_logits[b, p, t, k]) for t in range(steps))
                for k in range(classes)
            ]
            by_patch += cross_entropy(logits, target) / patches
        local = by_patch
        if learned:
            local = cross_entropy(local_logits[b].tolist(), target) + 0.5 * by_patch
        expected += cross_entropy(global_logits[b].tolist(), target) + weight * local
    found = TwoStreamLoss(weight, smoothing)(output, targets)
    assert found.item() == pytest.approx(expected / batch, rel=1e-9, abs=1e-9)


@many
@given(
    dtype=FLOATS,
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    shift=st.floats(-100, 100),
    seed=seeds,
)
def test_saliency_ignores_what_all_classes_share(dtype, shape, shift, seed):
    cell_logits = randn(seed, *shape)
    found = saliency(cell_logits.to(dtype))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert bool((found >= 0).all())
    if dtype == torch.float64:
        shifted = saliency(cell_logits.double() + shift)
        torch.testing.assert_close(shifted, found, rtol=1e-5, atol=1e-6)


@many
@given(
    dtype=FLOATS,
    image=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(1, 12),
    corners=st.tuples(*(st.floats(0, 1) for _ in range(4))),
    color=st.floats(-2, 2),
)
def test_patches_of_one_color_have_it(dtype, image, size, corners, color):
    height, width = image
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    box = torch.tensor([x0 * width, y0 * height, x1 * width, y1 * height])
    if not bool((box[2:] - box[:2] > 1e-3).all()):
        return
    images = torch.full((1, 3, height, width), color, dtype=dtype)
    patches = crop_patches(images, box.view(1, 1, 4), size=size)
    assert patches.shape == (1, 1, 3, size, size)
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 3e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(
        patches.float(), torch.full_like(patches, color).float(), rtol=tolerance, atol=tolerance
    )


@few
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    top_k=st.integers(1, 9),
    seed=seeds,
)
def test_predictions_of_any_pixels(sizes, top_k, seed):
    model = classifier("linear")
    generator = torch.Generator().manual_seed(seed)
    pixels = [
        torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8) for h, w in sizes
    ]
    found = model.predict(pixels, top_k=top_k)
    assert len(found) == len(sizes)
    for prediction, picture in zip(found, pixels, strict=True):
        assert len(prediction.probabilities) == min(top_k, 5)
        assert all(0 <= p <= 1 for p in prediction.probabilities)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        _, height, width = picture.shape
        boxes = torch.as_tensor(prediction.boxes)
        assert bool((boxes >= -1e-3).all())
        assert bool((boxes <= torch.tensor([width, height] * 2) + 1e-3).all())
        alone = model.predict(picture, top_k=top_k)
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-4)


@few
@given(size=st.tuples(st.integers(8, 90), st.integers(8, 90)), target=st.integers(0, 4), seed=seeds)
def test_explanations_of_any_pixels(size, target, seed):
    model = classifier("equal", num_patches=2)
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    found = model.explain(pixels, target=target)
    assert found.step_maps.shape[1:3] == (2, 3)
    assert bool(torch.isfinite(found.step_maps).all())
    assert bool((found.step_maps >= 0).all())
    assert bool((found.global_map >= 0).all())


@pytest.mark.filterwarnings("ignore:A picture of 16 bits")
@many
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    turn=st.integers(0, 9),
    seed=seeds,
)
def test_any_picture_becomes_upright_rgb(mode, size, turn, seed):
    numbers = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    picture = Image.fromarray(numbers)
    picture = (
        Image.fromarray(numbers.astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    )
    picture.getexif()[0x0112] = turn
    found = open_picture(picture)
    assert found.mode == "RGB"
    assert found.size == (size[::-1] if turn in (5, 6, 7, 8) else size)
    assert picture.size == size


# Relative to the data set's folder; what leads out of it is refused.
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\\:.\0"), min_size=1)


@settings(few, max_examples=30)
@given(
    boxes=st.dictionaries(
        names,
        st.lists(
            st.tuples(*(st.floats(0, 40, width=32) for _ in range(2)),
                      *(st.floats(50, 90, width=32) for _ in range(2))),
            min_size=1, max_size=4,
        ),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_boxes_files_keep_every_bit(tmp_path, boxes):
    class Sized(Pictures):
        def size(self, index):
            return 100, 100

    given_boxes = {name: torch.tensor(rows) for name, rows in boxes.items()}
    write_boxes(tmp_path / "boxes.json", given_boxes)
    found = read_boxes(tmp_path / "boxes.json", Sized(tmp_path, boxes, [0] * len(boxes), ["a"]))
    assert list(found) == list(boxes)
    assert all(torch.equal(found[name], given_boxes[name]) for name in boxes)


@pytest.mark.filterwarnings("ignore:.*one picture, which cannot be split")
@many
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=seeds,
)
def test_splits_are_stratified_partitions(labels, fraction, seed):
    pictures = Pictures("x", map(str, range(len(labels))), labels, "abcdef")
    kept, held_out = pictures.split(fraction, seed=seed)
    assert sorted(kept.names + held_out.names) == sorted(pictures.names)
    for label in set(labels):
        count, out = labels.count(label), held_out.labels.count(label)
        assert out == min(max(1, round(fraction * count)), count - 1)


@few
@given(
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    patches=st.integers(1, 2),
    seed=seeds,
)
def test_any_crop_keeps_patches_in_the_image(colored_pictures, scale, patches, seed):
    pictures, boxes = colored_pictures
    data = TwoStreamDataset(
        pictures, boxes, image_size=24, patch_size=16, num_patches=patches, train=True,
        crop_scale=tuple(sorted(scale)),
    )  # fmt: skip
    torch.manual_seed(seed)
    image, parts, _, found = data[seed % len(data)]
    assert image.shape == (3, 24, 24)
    assert parts.shape == (patches, 3, 16, 16)
    assert bool((found >= -1e-3).all())
    assert bool((found <= 24 + 1e-3).all())
    assert bool((found[:, 2:] > found[:, :2]).all())


@many
@given(
    epochs=st.integers(1, 200),
    warmup=st.floats(0, 50),
    schedule=st.sampled_from(["cosine", "steps"]),
    share=st.floats(0, 1),
)
def test_learning_rates_stay_between_zero_and_the_given_one(epochs, warmup, schedule, share):
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, schedule=schedule)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}]
    course = Schedule(optimizer_of(groups, recipe), recipe, updates_per_epoch=7)
    course.go_to(round(share * epochs * 7))
    assert 0 <= course.rates()[0] <= 1


@many
@given(length=st.integers(1, 50), epoch=st.integers(1, 99), first=st.integers(0, 50), seed=seeds)
def test_an_epoch_goes_on_from_any_place(length, epoch, first, seed):
    order = EpochOrder(range(length), seed, shuffle=True)
    order.go_to(epoch)
    whole = list(order)
    assert sorted(whole) == [(epoch, index) for index in range(length)]
    order.go_to(epoch, first=min(first, length))
    assert list(order) == whole[first:]
    assert 0 <= seed_of(seed, epoch, first) < 2**63


@many
@given(
    entries=st.dictionaries(st.sampled_from(["fc.bias", "a.b", "module.x", "lstm.bias_hh_l1"]),
                            st.integers(), min_size=1),
    wrappers=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3),
)  # fmt: skip
def test_wrappers_of_checkpoints_come_off_in_any_nesting(entries, wrappers):
    wrapped = {"".join(wrappers) + name: value for name, value in entries.items()}
    assert canonical_names(wrapped) == canonical_names(entries)
    assert canonical_names(canonical_names(entries)) == canonical_names(entries)
