"""check_backbone against counts by hand, a real step on the CPU, and the built model itself."""

import gc
import re

import pytest
import torch
from torch import nn

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss, check_backbone
from recurrent_attention.attention import recurrence

SIZES = {"image_size": 64, "patch_size": 32}
# Small models of each kind: convolutions, channels last or a norm in the head, tokens, a hybrid.
FAMILIES = (
    *("test_resnet", "test_efficientnet", "test_byobnet"),
    *("test_mambaout", "test_convnext"),
    *("test_vit", "test_vit_relpos"),
    "test_coatnet",
)


# --- against the model that is built for real ---


def kept_by_a_step(model, batch, num_patches):
    """Bytes that autograd keeps on the CPU, where storages have addresses, as in memory.py."""
    state = (*model.parameters(), *model.buffers())
    known = {tensor.untyped_storage().data_ptr() for tensor in state}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    images = torch.randn(batch, 3, model.image_size, model.image_size)
    patches = torch.randn(batch, num_patches, 3, model.patch_size, model.patch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(images, patches)
        TwoStreamLoss()(output, torch.zeros(batch, dtype=torch.long))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_report_is_that_of_a_real_model_and_step(name, monkeypatch):
    # As on every other device: torch's own LSTM, on a CPU, keeps a workspace of its own besides.
    monkeypatch.setattr(recurrence, "_one_call_is_better", lambda *_, **__: False)
    report = check_backbone(name, num_classes=7, num_patches=2, batch_size=3, **SIZES)
    assert report.ok
    assert report.size_note is None
    model = TwoStreamClassifier(name, 7, **SIZES)
    features = model.encode(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32))
    streams = (report.global_stream, report.local_stream)
    for stream, seen, size in zip(streams, features, SIZES.values(), strict=True):
        assert stream.size == size
        assert (stream.channels, *stream.map_size) == tuple(seen.shape[-3:])
        assert stream.reduction == round(size / seen.shape[-2])
    assert report.fixed_size == model.global_backbone.fixed_size
    look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
    assert report.mean == look["mean"]
    assert report.std == look["std"]
    assert report.interpolation == look["interpolation"]

    numbers = sum(p.numel() for p in model.parameters())
    assert report.parameters == report.trainable == numbers
    assert report.state_bytes == 4 * 4 * numbers + sum(b.nbytes for b in model.buffers())
    assert report.kept_bytes == kept_by_a_step(model, batch=3, num_patches=2)


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_not_the_state():
    small, large = (check_backbone("test_resnet", batch_size=b, **SIZES) for b in (2, 4))
    assert small.state_bytes == large.state_bytes
    assert 1.8 < large.kept_bytes / small.kept_bytes < 2.01


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__.startswith("2.5."), reason="torch 2.5's FlopCounterMode keeps what it saw"
)
def test_nothing_is_kept_behind():
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = tensors()
    check_backbone("test_resnet", batch_size=2, **SIZES)
    assert tensors() == before


@pytest.mark.slow
def test_frozen_parameters_have_neither_gradient_nor_averages():
    report = check_backbone("coat_tiny", backbone_kwargs={"parallel_depth": 1}, **SIZES)
    assert 0 < report.trainable < report.parameters
    buffers = report.state_bytes - 4 * (report.parameters + 3 * report.trainable)
    assert 0 <= buffers < 1000


# --- multiply-adds, by hand ---


def macs_of_convolutions(model, image):
    """Walk over every output of every convolution, one by one, for its products."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        for _ in range(output[0].numel()):
            total += layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    model.eval()(image)
    return total


@pytest.mark.slow
def test_macs_of_a_convolutional_network():
    report = check_backbone("test_resnet", batch_size=2, num_patches=3, **SIZES)
    backbone = TwoStreamClassifier("test_resnet", **SIZES).global_backbone
    expected = macs_of_convolutions(backbone, torch.randn(1, 3, 64, 64))
    assert report.global_stream.macs == expected
    assert report.local_stream.macs == expected // 4  # a quarter of the cells in every layer


@pytest.mark.slow
def test_macs_of_a_transformer():
    report = check_backbone("test_vit", batch_size=2, **SIZES)
    model = TwoStreamClassifier("test_vit", **SIZES).global_backbone.model
    width, depth, heads = model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads
    hidden = model.blocks[0].mlp.fc1.out_features
    for stream, cells in ((report.global_stream, 16), (report.local_stream, 4)):
        tokens = cells + 1  # the class token
        total = cells * width * 3 * 16 * 16
        for _ in range(depth):
            for _ in range(tokens):
                total += width * 3 * width + width * width  # query, key, value; the projection
                total += 2 * width * hidden
                for _ in range(heads):
                    total += 2 * tokens * (width // heads)  # scores, and values by them
        assert stream.macs == total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"),
    # As published: 4.1 with resnet50's classifier, 17.6 with the products of attention, and 19.6
    # with the 0.12 of vgg19's classifier.
    [("resnet50", 4.09), ("vit_base_patch16_224", 17.56), ("vgg19", 19.51)],
)
def test_gmacs_of_well_known_models(name, gmacs):
    report = check_backbone(name, batch_size=2)
    assert (report.global_stream.size, report.local_stream.size) == (448, 224)
    assert round(report.local_stream.macs / 1e9, 2) == gmacs


def test_memory_is_that_of_docs_scale():
    """Megabytes that benchmarks/memory.py measured on a CPU."""
    for num_patches, kept in ((1, 392), (4, 627)):
        one, three = (
            check_backbone("vgg19", num_patches=num_patches, batch_size=b) for b in (1, 3)
        )
        assert round(one.state_bytes / 1e6) == 711
        assert round((three.kept_bytes - one.kept_bytes) / 2e6) == kept


# --- sizes ---


@pytest.mark.slow
def test_a_model_that_refuses_the_papers_sizes_gets_its_own_doubled():
    report = check_backbone("bat_resnext26ts", batch_size=2)
    assert report.ok
    assert (report.global_stream.size, report.local_stream.size) == (512, 256)  # made for 256
    assert report.size_note == (
        "not at 448/224: Expected `image_size` to suit 'bat_resnext26ts', but got 448."
    )
    assert str(report).splitlines()[1] == f"  {report.size_note}"


@pytest.mark.slow
def test_a_model_that_takes_one_size_gets_that_for_both():
    report = check_backbone("efficientformer_l1", batch_size=2)
    assert report.ok
    assert (report.global_stream.size, report.local_stream.size) == (224, 224)
    assert report.size_note.startswith(
        "not at 448/224: Expected `image_size` to suit 'efficientformer_l1', but got 448: "
    )


def test_a_size_that_was_asked_for_is_the_only_one_tried():
    report = check_backbone("test_vit", image_size=65)
    assert report.reason == (
        "Expected `image_size` to suit 'test_vit', but got 65: Input height (65) should be "
        "divisible by patch size (16)."
    )
    assert report.global_stream is None


# --- what a call leaves alone, and errors ---


class Drawing(nn.ReLU):
    """Draws a number on the CPU, as some layers do whatever the device."""

    def __init__(self, inplace=False):
        super().__init__(inplace)
        self.number = float(torch.rand((), device="cpu"))


def test_the_random_state_and_the_modes_of_torch_stay():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    drawing = {"act_layer": Drawing}
    with torch.no_grad():
        assert check_backbone("test_resnet", backbone_kwargs=drawing, **SIZES).kept_bytes > 0
        check_backbone("test_vit", image_size=65)
        assert not torch.is_grad_enabled()
        assert torch.zeros(1).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "argument", ["image_size", "patch_size", "num_classes", "num_patches", "batch_size"]
)
def test_numbers_below_one(argument):
    sentence = re.escape(f"Expected `{argument}` to be at least 1, but got 0.")
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        check_backbone("test_resnet", **{argument: 0})


def test_an_unknown_name_is_a_reason():
    report = check_backbone("vg19")
    assert not report.ok
    assert report.reason == (
        "Expected `name` to be a timm model, but got 'vg19'. Did you mean 'vgg19', 'vgg19_bn', "
        "'vgg16'?"
    )
    assert str(report) == f"vg19 does not work: {report.reason}"


def test_whatever_timm_raises_is_a_reason():
    report = check_backbone("test_resnet", backbone_kwargs={"bogus": 1}, **SIZES)
    assert report.reason is not None
    assert report.reason.startswith(
        "Expected 'test_resnet' to train at 64/32 pixels, but got TypeError: "
    )
    assert "'bogus'" in report.reason
    one_cell = check_backbone("test_resnet", image_size=32, patch_size=32, batch_size=1)
    assert one_cell.reason == (
        "Expected 'test_resnet' to train at 32/32 pixels, but got ValueError: Expected more than 1 "
        "value per channel when training, got input size torch.Size([1, 96, 1, 1])."
    )


def test_a_folder_that_is_not_there_is_no_reason(tmp_path):
    with pytest.raises(OSError, match="absent"):
        check_backbone(f"local-dir:{tmp_path / 'absent'}")
