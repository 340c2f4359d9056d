"""What a timm user calls on a model, what a constructor takes, and answers from several threads."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from recurrent_attention import (
    FeatureBackbone,
    RecurrentRefinedAttention,
    TwoStreamClassifier,
    check_backbone,
)
from recurrent_attention._modes import eval_view, view_of
from recurrent_attention.ops import cell_offset

SIZES = {"image_size": 64, "patch_size": 32}
KINDS = ["test_resnet", "test_vit", "test_convnext", "test_mambaout"]


def make(name="test_resnet", classes=3, **kwargs):
    torch.manual_seed(0)
    return TwoStreamClassifier(name, classes, hidden_size=8, num_steps=2, **(SIZES | kwargs))


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# timm's own calls


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_layer_decay_is_that_of_timm(name):
    """Each parameter of a backbone gets the rate that timm gives it in the bare model."""
    model = make(name)
    bare = timm.create_model(name, num_classes=3, **({"img_size": 64} if "vit" in name else {}))

    def scales(network):
        groups = param_groups_layer_decay(network, weight_decay=0.05, layer_decay=0.5)
        names = {id(parameter): key for key, parameter in network.named_parameters()}
        return {
            names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
            for group in groups
            for parameter in group["params"]
        }

    wanted, found = scales(bare), scales(model)
    compared = 0
    for stream in ("global_backbone", "local_backbone"):
        for key, value in wanted.items():
            own = f"{stream}.model.{key}"
            if own in found:
                assert found[own] == value, own
                compared += 1
    assert compared > len(wanted)  # nearly all of both streams
    heads = {value for key, value in found.items() if "backbone.model" not in key}
    assert {scale for scale, _ in heads} == {1.0}
    rates = {group["lr"] * group.get("lr_scale", 1) for group in create_optimizer_v2(
        model, opt="adamw", lr=1e-3, layer_decay=0.5).param_groups}  # fmt: skip
    assert len(rates) > 2


def test_no_weight_decay_is_that_of_timm():
    bare = timm.create_model("test_vit", img_size=64).no_weight_decay()
    assert bare
    assert make("test_vit").no_weight_decay() == {
        f"{stream}_backbone.model.{name}" for stream in ("global", "local") for name in bare
    }
    assert make("test_resnet").no_weight_decay() == set()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_gradient_checkpointing_changes_no_gradient(name):
    model = make(name).train()
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32)
    gradients, kept = [], []
    for enable in (False, True):
        other = copy.deepcopy(model)
        other.set_grad_checkpointing(enable)
        saved = []

        def keep(tensor, saved=saved):
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = other(images, patches).logits.square().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in other.parameters()])
        kept.append(sum(saved))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
    assert kept[1] < kept[0]


def test_a_model_without_gradient_checkpointing_says_so(monkeypatch):
    model = make()

    def refuse(enable=True):
        assert not enable, "gradient checkpointing not supported"

    monkeypatch.setattr(model.local_backbone.model, "set_grad_checkpointing", refuse)
    model.set_grad_checkpointing(False)
    with pytest.raises(ValueError) as caught:
        model.set_grad_checkpointing()
    assert str(caught.value) == (
        "Expected a timm model with gradient checkpointing, but 'test_resnet' has none."
    )


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["equal", "linear"])
def test_other_classes(tmp_path, weighting):
    model = make(patch_weighting=weighting, class_names=["a", "b", "c"]).double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reset_classifier(2, ["x", "y"])
    after = model.state_dict()
    heads = ("global_head", "local_head")
    for name, value in before.items():
        assert (name.startswith(heads)) != torch.equal(value, after[name]), name
    for head in model.get_classifier():
        assert head.weight.dtype == torch.float64
        assert not head.training
        assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.5)
        assert not head.bias.any()
    assert [
        head is getattr(model, name)
        for head, name in zip(model.get_classifier(), heads, strict=True)
    ] == [True] * 2
    assert (model.num_classes, model.class_names) == (2, ("x", "y"))
    model.save_pretrained(tmp_path)
    assert TwoStreamClassifier.from_pretrained(tmp_path).class_names == ("x", "y")
    model.reset_classifier(5)
    assert (model.num_classes, model.class_names, model.config["class_names"]) == (5, None, None)
    with pytest.raises(ValueError, match="Expected `class_names` to hold 4 names, but got 1"):
        model.reset_classifier(4, ["x"])
    assert model.num_classes == 5


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["equal", "linear"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_by_torch_jit(weighting):
    model = make("test_vit", patch_weighting=weighting).eval()
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(model, (images, patches))
        images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 4, 3, 32, 32)
        wanted = [field for field in model(images, patches) if field is not None]
        for found, field in zip(traced(images, patches), wanted, strict=True):
            torch.testing.assert_close(found, field)


# Sizes that nobody asked for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("crossvit_tiny_240", (480, 240)), ("test_resnet", (448, 224)), ("test_vit", (448, 224))],
)
def test_the_nearest_sizes_that_a_backbone_takes(name, sizes):
    with torch.device("meta"):
        model = TwoStreamClassifier(name, 3)
    assert (model.image_size, model.patch_size) == sizes
    assert (model.global_backbone.image_size, model.local_backbone.image_size) == sizes
    assert [model.config[key] for key in ("image_size", "patch_size")] == list(sizes)
    assert f"image_size={sizes[0]}, patch_size={sizes[1]}" in repr(model)
    report = check_backbone(name)
    assert (report.global_stream.size, report.local_stream.size) == sizes


def test_sizes_that_somebody_asked_for_are_taken_or_refused():
    with pytest.raises(ValueError, match="Expected `image_size` to suit 'crossvit_tiny_240'"):
        TwoStreamClassifier("crossvit_tiny_240", 3, image_size=448)
    model = TwoStreamClassifier(
        "test_resnet", np.int64(3), image_size=(64, 64), patch_size=np.int32(32)
    )
    assert (model.image_size, model.patch_size, model.num_classes) == (64, 32, 3)
    assert {type(value) for value in (model.image_size, model.patch_size, model.num_classes)} == {
        int
    }


# Arguments


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"num_classes": "3"}, TypeError, "`num_classes` to be a whole number, but got '3'."),
        ({"num_classes": True}, TypeError, "`num_classes` to be a whole number, but got True."),
        ({"image_size": 64.0}, TypeError, "`image_size` to be a whole number, but got 64.0."),
        (
            {"patch_size": (64, 32)},
            ValueError,
            "`patch_size` to be the side of a square, but got (64, 32). Pictures are resized to "
            "squares; `forward` takes tensors of other shapes.",
        ),
        ({"num_patches": 0}, ValueError, "`num_patches` to be at least 1, but got 0."),
        ({"hidden_size": 8.5}, TypeError, "`hidden_size` to be a whole number, but got 8.5."),
        ({"fusion_weight": "1"}, TypeError, "`fusion_weight` to be a number, but got '1'."),
        (
            {"fusion_weight": float("nan")},
            ValueError,
            "`fusion_weight` to be finite, but got nan.",
        ),
        ({"drop_rate": 1.5}, ValueError, "`drop_rate` to be in [0, 1], but got 1.5."),
        (
            {"class_names": [0, 1, 2]},
            TypeError,
            "`class_names` to hold a text for each class, but got 0. Numbers: list(map(str, "
            "numbers)).",
        ),
        ({"class_names": "abc"}, TypeError, "`class_names` to be a list of texts, but got 'abc'."),
        (
            {"backbone_kwargs": "drop_path_rate=0.1"},
            TypeError,
            "`backbone_kwargs` to be a dictionary of arguments of timm.create_model, but got "
            "'drop_path_rate=0.1'.",
        ),
        (
            {"backbone": nn.Linear(2, 2)},
            TypeError,
            "`backbone` to be the name of a timm model, but got Linear. FeatureBackbone and "
            "RecurrentRefinedAttention are parts for modules of your own.",
        ),
        (
            {"local_backbone": nn.Linear(2, 2)},
            TypeError,
            "`backbone` to be the name of a timm model, but got Linear. FeatureBackbone and "
            "RecurrentRefinedAttention are parts for modules of your own.",
        ),
    ],
)
def test_arguments_that_are_none(given, error, sentence):
    settings = {"backbone": "test_resnet", "num_classes": 3} | SIZES | given
    with pytest.raises(error) as caught:
        TwoStreamClassifier(**settings)
    assert str(caught.value) == f"Expected {sentence}"


def test_arguments_of_the_parts():
    for call, sentence in (
        (
            lambda: RecurrentRefinedAttention("8"),
            "Expected `input_size` to be a whole number, but got '8'.",
        ),
        (
            lambda: FeatureBackbone("test_resnet", image_size=64.0),
            "Expected `image_size` to be a whole number, but got 64.0.",
        ),
        (
            lambda: FeatureBackbone(nn.Linear(2, 2)),
            "Expected `name` to be the name of a timm model, but got Linear.",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == sentence


# Channels


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "mean"), [(1, (0.3,)), (3, (0.1, 0.3, 0.5)), (4, (0.3,) * 4)])
def test_normalisation_for_every_channel(tmp_path, channels, mean):
    look = {"mean": (0.1, 0.3, 0.5), "std": (0.2, 0.2, 0.2)}
    model = make(in_chans=channels, backbone_kwargs={"pretrained_cfg_overlay": look}).eval()
    assert model.data_config["mean"] == pytest.approx(mean)
    assert model.data_config["std"] == pytest.approx((0.2,) * channels)
    model.save_pretrained(tmp_path)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert loaded.data_config["mean"] == pytest.approx(mean)
    images = torch.randn(1, channels, 64, 64)
    assert torch.equal(loaded(images).logits, model(images).logits)


# Threads


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_answers_of_a_model_in_training_mode_from_several_threads(name):
    model = make(name, num_patches=2, drop_rate=0.5).train()
    wanted = copy.deepcopy(model).eval().predict(picture())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    barrier = threading.Barrier(4)

    def answer(_):
        barrier.wait()
        return [model.predict(picture()) for _ in range(5)]

    with ThreadPoolExecutor(4) as threads:
        found = [one for several in threads.map(answer, range(4)) for one in several]
    assert all(one == wanted for one in found)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_thread_that_trains_sees_no_other_mode(monkeypatch):
    """While a picture is answered, every module is in the mode that it had."""
    model = make().train()
    seen = []
    forward = type(model.global_backbone).forward

    def look(self, images):
        seen.append({module.training for module in model.modules()})
        assert not self.training
        return forward(self, images)

    monkeypatch.setattr(type(model.global_backbone), "forward", look)
    model.predict(picture())
    model.explain(picture())
    model.propose(torch.randn(1, 3, 64, 64))
    assert seen
    assert all(modes == {True} for modes in seen)


def test_a_view_shares_weights_and_nothing_else():
    model = make("test_vit").train()
    model.tied = model.global_head
    model.listed = [model.local_head]
    model.forward = model.forward  # bound to the model, as wrappers leave it
    calls = []
    model.global_head.register_forward_hook(lambda *_: calls.append(1))
    with eval_view(model) as view:
        assert view is not model
        assert view.tied is view.global_head is not model.global_head
        assert view.listed[0] is view.local_head
        assert view.forward.__self__ is view
        for (name, own), shared in zip(model.named_parameters(), view.parameters(), strict=True):
            assert own is shared, name
        assert all(a is b for a, b in zip(model.buffers(), view.buffers(), strict=True))
        view(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32))
        assert calls == [1]
        view.new = 1
    assert not hasattr(model, "new")
    model.eval()
    with eval_view(model) as same:
        assert same is model


@pytest.mark.slow
def test_what_timm_models_keep_for_evaluation_is_kept_apart():
    backbone = FeatureBackbone("levit_128s", image_size=224)
    backbone.train()
    view = view_of(backbone).eval()
    with torch.no_grad():
        before = view(torch.ones(1, 3, 224, 224))
        for name, parameter in backbone.named_parameters():
            if "attention_bias" in name:
                parameter.add_(1.0)
        again = view_of(backbone).eval()(torch.ones(1, 3, 224, 224))
        exact = copy.deepcopy(backbone).eval()(torch.ones(1, 3, 224, 224))
    assert torch.equal(again, exact)
    assert not torch.equal(before, again)


def test_offsets_are_measured_once_for_a_model_and_its_views(monkeypatch):
    model = make().train()
    measured = []
    real = cell_offset.measure_cell_offset
    monkeypatch.setattr(
        cell_offset, "measure_cell_offset", lambda *a, **k: measured.append(1) or real(*a, **k)
    )
    for _ in range(3):
        model.predict(picture())
        model.explain(picture()).figure()
    assert measured == [1]
