"""TwoStreamClassifier: how the streams are put together, saved, loaded, and what they refuse."""

import copy
import inspect
import json
import math
from dataclasses import fields

import pytest
import torch
from helpers.models import make

from recurrent_attention import TwoStreamClassifier, TwoStreamFeatures, TwoStreamLoss
from recurrent_attention._settings import Settings
from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.ops import crop_patches, propose_boxes
from recurrent_attention.ops.cell_offset import measure_cell_offset

KINDS = ["test_resnet", "test_mambaout", "test_vit"]  # NCHW, NHWC and tokens


def inputs(patches=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 64, 64, generator=generator)
    return images, torch.randn(3, patches, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("backbone", KINDS)
def test_streams_equal_their_parts(backbone):
    model = make(backbone, fusion_weight=0.5)
    images, patches = inputs()
    with torch.no_grad():
        output = model(images, patches)
        global_map = model.global_backbone(images)
        expected = model.global_head(global_map.flatten(2).mean(2))
        torch.testing.assert_close(output.global_logits, expected)
        locals_ = []
        for number in range(2):
            found = model.attention(model.local_backbone(patches[:, number]))
            locals_.append(model.local_head(found.pooled))
            torch.testing.assert_close(output.step_weights[:, number], found.weights)
            torch.testing.assert_close(
                output.step_logits[:, number], model.local_head(found.states)
            )
        torch.testing.assert_close(output.local_logits, (locals_[0] + locals_[1]) / 2)
        torch.testing.assert_close(output.logits, output.global_logits + 0.5 * output.local_logits)


@pytest.mark.parametrize("backbone", KINDS)
@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_every_parameter_gets_a_gradient(backbone, global_head):
    model = make(backbone, global_head=global_head).train()
    output = model(*inputs())
    TwoStreamLoss()(output, torch.tensor([0, 1, 2])).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


def test_streams_do_not_share_weights_or_gradients():
    model = make().train()
    model(*inputs()).global_logits.sum().backward()
    assert all(p.grad is None for p in model.local_backbone.parameters())
    assert all(p.grad is not None for p in model.global_backbone.parameters())


def test_one_patch_without_its_axis_is_the_same():
    model = make()
    images, patches = inputs(patches=1)
    with torch.no_grad():
        assert torch.equal(model(images, patches).logits, model(images, patches[:, 0]).logits)


@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_classify_takes_maps_or_their_means(global_head):
    model = make(global_head=global_head)
    with torch.no_grad():
        images, patches = inputs()
        maps = model.encode(images, patches)
        whole = model.classify(maps)
        small = TwoStreamFeatures(
            maps.global_features if global_head == "conv" else maps.global_features.mean((2, 3)),
            maps.local_features.mean((3, 4)),
        )
        torch.testing.assert_close(model.classify(small).logits, whole.logits)


@pytest.mark.slow
def test_another_local_backbone():
    model = make("test_resnet", local_backbone="test_vit")
    with torch.no_grad():
        assert model(*inputs()).local_logits.shape == (3, 5)
    assert model.attention.input_size == model.local_backbone.out_channels == 64


def test_dropout_works_on_both_streams_in_training_only():
    model = make(drop_rate=0.9)
    images, patches = inputs()
    with torch.no_grad():
        features = model.encode(images, patches)
        assert torch.equal(model.classify(features).logits, model.classify(features).logits)
        model.drop.train()
        first, second = model.classify(features), model.classify(features)
    assert not torch.equal(first.global_logits, second.global_logits)
    assert not torch.equal(first.local_logits, second.local_logits)


@pytest.mark.slow
def test_saved_and_loaded_it_answers_the_same(tmp_path):
    model = make("test_vit", class_names=["auk", "coot", "dodo", "emu", "finch"], fusion_weight=0.7)
    model.save_pretrained(tmp_path / "model")
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(*inputs()).logits, model(*inputs()).logits)
    assert loaded.class_names == ("auk", "coot", "dodo", "emu", "finch")
    assert (loaded.fusion_weight, loaded.patch_size) == (0.7, 32)


def test_loading_never_asks_for_pretrained_weights(tmp_path):
    source = make("test_resnet").global_backbone.model.state_dict()
    weights = tmp_path / "backbone.pth"
    torch.save(source, weights)
    model = make(
        pretrained=True, backbone_kwargs={"pretrained_cfg_overlay": {"file": str(weights)}}
    )
    for name, value in source.items():
        assert torch.equal(model.global_backbone.model.state_dict()[name], value)
        assert torch.equal(model.local_backbone.model.state_dict()[name], value)
    model.save_pretrained(tmp_path / "model")
    weights.unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "pretrained" not in config
    assert str(tmp_path) not in json.dumps(config)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()).logits, model.eval()(*inputs()).logits)


LOOK = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bilinear",
    "crop_pct": 0.7,
    "crop_mode": "border",
}


def saved_and_loaded(model, folder):
    model.save_pretrained(folder)
    return TwoStreamClassifier.from_pretrained(folder)


@pytest.mark.slow
def test_a_loaded_model_wants_its_pictures_normalised_as_the_saved_one(tmp_path):
    usual = make()
    model = make(backbone_kwargs={"pretrained_cfg_overlay": LOOK})
    assert usual.data_config != model.data_config
    assert {name: model.data_config[name] for name in LOOK} == LOOK
    for number, source in enumerate((usual, model, make(in_chans=1))):
        loaded = saved_and_loaded(source, tmp_path / f"model{number}")
        assert loaded.data_config == source.data_config
        again = saved_and_loaded(loaded, tmp_path / f"again{number}")
        assert again.data_config == source.data_config


def test_so_does_one_whose_backbone_came_from_a_folder(tmp_path):
    """What that folder says may have changed since."""
    folder = tmp_path / "backbone"
    config = {"architecture": "test_resnet", "pretrained_cfg": LOOK | {"input_size": [3, 160, 160]}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = make(f"local-dir:{folder}")
    assert {name: model.data_config[name] for name in ("mean", "std")} == {
        "mean": LOOK["mean"],
        "std": LOOK["std"],
    }
    model.save_pretrained(tmp_path / "model")
    config["pretrained_cfg"] |= {"mean": [0.9] * 3, "std": [0.9] * 3, "interpolation": "bicubic"}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model")
    assert loaded.data_config == model.data_config


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_checkpoints_load(prefix):
    source, target = make(), make()
    with torch.no_grad():
        source.global_head.bias.fill_(3)
    target.load_state_dict({prefix + name: value for name, value in source.state_dict().items()})
    assert torch.equal(target.global_head.bias, source.global_head.bias)


def test_building_and_calling_leave_the_random_state_to_initialisation():
    model = make(drop_rate=0.5)
    images, patches = inputs()
    before, state = images.clone(), torch.get_rng_state()
    model(images, patches)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_formula(smoothing):
    torch.manual_seed(0)
    batch, patches, steps, classes = 3, 2, 4, 5
    targets = [4, 0, 2]
    step_logits = 3 * torch.randn(batch, patches, steps, classes, dtype=torch.float64)
    weights = torch.randn(batch, patches, steps, dtype=torch.float64).softmax(-1)
    global_logits = 3 * torch.randn(batch, classes, dtype=torch.float64)

    def cross_entropy(row, target):
        total = sum(math.exp(value) for value in row)
        wanted = [smoothing / classes + (1 - smoothing) * (k == target) for k in range(classes)]
        return -sum(w * (value - math.log(total)) for w, value in zip(wanted, row, strict=True))

    expected = 0.0
    for b in range(batch):
        expected += cross_entropy(global_logits[b].tolist(), targets[b]) / batch
        for p in range(patches):
            row = [
                sum((weights[b, p, t] * step_logits[b, p, t, k]).item() for t in range(steps))
                for k in range(classes)
            ]
            expected += 0.25 * cross_entropy(row, targets[b]) / (batch * patches)
    unused = torch.full_like(global_logits, math.nan)
    output = TwoStreamOutput(unused, global_logits, unused, step_logits, weights)
    got = TwoStreamLoss(local_weight=0.25, label_smoothing=smoothing)(output, torch.tensor(targets))
    assert got.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"local_weight": -1}, "Expected `local_weight` to be at least 0, but got -1."),
        ({"label_smoothing": 1}, "Expected `label_smoothing` to be in [0, 1), but got 1."),
    ],
)
def test_bad_loss(kwargs, message):
    with pytest.raises(ValueError) as caught:
        TwoStreamLoss(**kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("images", "patches", "error", "message"),
    [
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(3, 32, 32),
            ValueError,
            "Expected `patches` to have shape (b, 3, h, w) or (b, p, 3, h, w), but got "
            "(3, 32, 32).",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(3, 1, 3, 32, 32),
            ValueError,
            "Expected `patches` to hold patches of as many images as `images`, but got batches of "
            "3 and 2.",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(2, 0, 3, 32, 32),
            ValueError,
            "Expected `patches` to hold at least one patch per image, but got shape "
            "(2, 0, 3, 32, 32).",
        ),
        (
            torch.zeros(3, 64, 64),
            torch.zeros(3, 3, 32, 32),
            ValueError,
            "Expected `images` to have shape (b, 3, h, w), but got (3, 64, 64). Add a batch axis: "
            "images[None].",
        ),
    ],
)
def test_bad_inputs(images, patches, error, message):
    with pytest.raises(error) as caught:
        make()(images, patches)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("images", "patches", "error", "message"),
    [
        (
            torch.zeros(2, 64, 64, 3),
            None,
            ValueError,
            "Expected `images` to have 3 channels, but got 64 in shape (2, 64, 64, 3). Put the "
            "channels before height and width: images.permute(0, 3, 1, 2).",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(2, 5, 32, 32, 3),
            ValueError,
            "Expected `patches` to have 3 channels, but got 32 in shape (2, 5, 32, 32, 3). Put the "
            "channels before height and width: patches.permute(0, 1, 4, 2, 3).",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(2, 5, 1, 32, 32),
            ValueError,
            "Expected `patches` to have 3 channels, but got 1 in shape (2, 5, 1, 32, 32). Build "
            "the backbone with in_chans=1.",
        ),
        (
            torch.zeros(3, 64, 64),
            torch.zeros(2, 3, 32, 32),
            ValueError,
            "Expected `images` to have shape (b, 3, h, w), but got (3, 64, 64). Add a batch axis: "
            "images[None].",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            [torch.zeros(2, 3, 32, 32)],
            TypeError,
            "Expected `patches` to be a tensor, but got list. Put them together: "
            "torch.stack(patches, 1).",
        ),
        (
            [torch.zeros(3, 64, 64)],
            None,
            TypeError,
            "Expected `images` to be a tensor (b 3 h w), but got list. `predict` takes pictures.",
        ),
    ],
)
def test_mistakes_get_the_hint_that_mends_them(images, patches, error, message):
    with pytest.raises(error) as caught:
        make()(images, patches)
    assert str(caught.value) == message


def test_features_that_are_not_of_both_streams_are_refused():
    model = make()
    with pytest.raises(TypeError, match="^Expected `features` to be the TwoStreamFeatures"):
        model.classify(torch.zeros(2, 96))
    with pytest.raises(ValueError, match=r"^Expected `local_features` to have shape .*\(2, 96\)"):
        model.classify(TwoStreamFeatures(torch.zeros(2, 96), torch.zeros(2, 96)))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([0, 5], ValueError, "Expected `targets` to be class indices in [0, 5), but got 5."),
        ([-1, 2], ValueError, "Expected `targets` to be class indices in [0, 5), but got -1."),
        (
            torch.zeros(2, dtype=torch.int32),
            TypeError,
            "Expected `targets` to be integers of 64 bits, but got torch.int32. Convert them: "
            "targets.long().",
        ),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets, error, message):
    output = make()(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 32, 32))
    with pytest.raises(error) as caught:
        TwoStreamLoss()(output, torch.as_tensor(targets))
    assert str(caught.value) == message


def test_the_loss_wants_the_whole_output_and_leaves_out_ignored_pictures():
    output = make()(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 32, 32))
    with pytest.raises(TypeError, match="^Expected `output` to be a TwoStreamOutput, but got Ten"):
        TwoStreamLoss()(output.logits, torch.tensor([0, 1]))
    both = TwoStreamLoss()(output, torch.tensor([3, -100]))
    first = TwoStreamOutput(*(None if f is None else f[:1] for f in output))
    torch.testing.assert_close(both, TwoStreamLoss()(first, torch.tensor([3])))


def test_wrong_channels_and_integers_are_refused():
    model = make()
    with pytest.raises(ValueError, match="^Expected `images`.*channels?"):
        model(torch.zeros(2, 1, 64, 64), torch.zeros(2, 3, 32, 32))
    with pytest.raises(TypeError, match="^Expected `images`.*torch.uint8"):
        model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 3, 32, 32))
    with pytest.raises(TypeError, match="^Expected `patches`.*torch.uint8"):
        model(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 0}, "Expected `num_classes` to be at least 1, but got 0."),
        (
            {"class_names": ["a", "b"]},
            "Expected `class_names` to hold 5 names, but got 2. Pass num_classes=2.",
        ),
        (
            {"global_head": "mlp"},
            "Expected `global_head` to be one of linear, conv, but got 'mlp'.",
        ),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError) as caught:
        make(**kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"in_chans": 1},
            "Expected `backbone_kwargs` to hold arguments of timm.create_model alone, but got "
            "'in_chans', which the classifier sets. Pass it by itself.",
        ),
        (
            {"final_pool": False},
            "Expected `backbone_kwargs` to hold arguments of timm.create_model alone, but got "
            "'final_pool', which the classifier sets. Leave it out.",
        ),
        (
            {"features_only": True},
            "Expected no 'features_only': the backbone is the model without its classifier, up to "
            "the map that this pools. Leave it out.",
        ),
        (
            {"num_classes": 3},
            "Expected no 'num_classes': the backbone is the model without its classifier, up to "
            "the map that this pools. Leave it out.",
        ),
    ],
)
def test_arguments_of_a_backbone_that_it_cannot_have(kwargs, message):
    with pytest.raises(TypeError) as caught:
        make(backbone_kwargs=kwargs)
    assert str(caught.value) == message


def test_arguments_of_a_backbone_are_the_models_own(tmp_path):
    given = {"drop_path_rate": 0.0, "pretrained_cfg_overlay": {"mean": [0.5, 0.5, 0.5]}}
    model = make(backbone_kwargs=given)
    before = copy.deepcopy(model.config)
    given["output_stride"] = 16
    given["pretrained_cfg_overlay"]["mean"][0] = 0.1
    assert model.config == before
    model.save_pretrained(tmp_path)
    again = TwoStreamClassifier.from_pretrained(tmp_path)
    assert again.global_backbone.map_size == model.global_backbone.map_size


def test_unknown_backbone_offers_near_matches():
    with pytest.raises(ValueError, match="'resnet5'.*Did you mean 'resnet5"):
        TwoStreamClassifier("resnet5")


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_without_patches_the_model_looks_where_its_global_stream_does(backbone, global_head):
    torch.manual_seed(0)
    size = 160
    model = TwoStreamClassifier(
        backbone, 5, image_size=size, patch_size=size, num_patches=3, global_head=global_head
    ).eval()
    images = torch.randn(2, 3, size, size)
    output = model(images)
    feature_map = model.global_backbone(images)
    if global_head == "conv":
        feature_map = model.global_convs(feature_map)
    _, _, height, width = feature_map.shape
    spread = torch.empty(2, height, width)
    for image in range(2):
        for y in range(height):
            for x in range(width):  # the classifier, cell by cell
                logits = model.global_head(feature_map[image, :, y, x])
                spread[image, y, x] = logits.std(correction=0)
    offset = measure_cell_offset(model.global_backbone, 320 if backbone == "test_resnet" else size)
    boxes = propose_boxes(spread.detach(), size, num_boxes=3, cell_offset=offset)
    torch.testing.assert_close(output.boxes, boxes)
    torch.testing.assert_close(model.propose(images), boxes)
    given = model(images, crop_patches(images, boxes, size=size))
    assert given.boxes is None
    torch.testing.assert_close(output.logits, given.logits)


def test_proposing_in_training_gives_every_parameter_a_gradient():
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=64, num_patches=2)
    output = model(torch.randn(2, 3, 64, 64))
    TwoStreamLoss()(output, torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not output.boxes.requires_grad


def test_propose_leaves_modes_statistics_and_gradients_alone():
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=64)
    model.global_backbone.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model.propose(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def plain_entropy(logits, target, weight, smoothing):
    """Cross-entropy of a row in Python floats: its weighted loss, and what it counts."""
    shifted = [value - max(logits) for value in logits]
    total = math.log(sum(map(math.exp, shifted)))
    classes = len(logits)
    soft = not isinstance(target, int)
    goal = target if soft else [float(index == target) for index in range(classes)]
    goal = [(1 - smoothing) * share + smoothing / classes for share in goal]
    loss = sum(g * w * (total - s) for g, w, s in zip(goal, weight, shifted, strict=True))
    return loss, 1.0 if soft else weight[target]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("soft", [False, True])
def test_soft_targets_and_class_weights_equal_plain_loops(soft, weight, smoothing):
    torch.manual_seed(0)
    step_logits, step_weights = torch.randn(4, 2, 3, 3).double(), torch.rand(4, 2, 3).double()
    step_weights = step_weights / step_weights.sum(2, keepdim=True)
    global_logits = torch.randn(4, 3).double()
    output = TwoStreamOutput(global_logits, global_logits, global_logits, step_logits, step_weights)
    targets = torch.rand(4, 3).double().softmax(1) if soft else torch.tensor([0, 1, 2, 2])
    loss_of = TwoStreamLoss(0.5, smoothing, weight=weight)
    rows = [[], []]
    for b in range(4):
        target = targets[b].tolist()
        rows[0].append((global_logits[b].tolist(), target))
        for p in range(2):
            logits = [
                sum(float(step_weights[b, p, t] * step_logits[b, p, t, k]) for t in range(3))
                for k in range(3)
            ]
            rows[1].append((logits, target))
    means = []
    for some in rows:
        found = [plain_entropy(*row, weight or [1.0] * 3, smoothing) for row in some]
        means.append(sum(loss for loss, _ in found) / sum(count for _, count in found))
    assert loss_of(output, targets).item() == pytest.approx(means[0] + 0.5 * means[1], abs=1e-10)


def test_targets_of_eight_bits_count_as_those_of_sixty_four():
    torch.manual_seed(0)
    logits = torch.randn(2, 3)
    output = TwoStreamOutput(logits, logits, logits, logits[:, None, None], torch.ones(2, 1, 1))
    loss_of = TwoStreamLoss(label_smoothing=0.1, weight=[1.0, 2.0, 3.0])
    targets = torch.tensor([2, 0])
    assert loss_of(output, targets.to(torch.uint8)) == loss_of(output, targets)


def test_class_weights_move_with_the_loss_and_fit_the_classes():
    loss_of = TwoStreamLoss(weight=[1, 2]).to(torch.float64)
    assert loss_of.weight.dtype == torch.float64
    assert not loss_of.state_dict()
    logits = torch.zeros(2, 3)
    output = TwoStreamOutput(logits, logits, logits, logits[:, None, None], torch.ones(2, 1, 1))
    for call, sentence in (
        (
            lambda: loss_of(output, torch.tensor([0, 1])),
            "Expected `weight` to hold a number for each of the 3 classes, but got 2.",
        ),
        (
            lambda: TwoStreamLoss(weight=[1.0, -1.0]),
            "Expected `weight` to hold a number of at least 0 for each class, but got [1.0, -1.0].",
        ),
        (
            lambda: TwoStreamLoss()(output, torch.rand(2, 4)),
            "Expected `targets` to be class indices of shape (2,), or probabilities of shape (2, "
            "3), but got torch.float32 of shape (2, 4).",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == sentence


def test_the_signature_has_the_defaults_of_the_settings():
    """The arguments are written for people in one place and for config.json in the other."""
    signature = inspect.signature(TwoStreamClassifier).parameters
    arguments = {name: argument.default for name, argument in signature.items()}
    assert arguments.pop("pretrained") is False
    assert arguments == {field.name: field.default for field in fields(Settings)}


def test_the_network_alone_computes_what_the_classifier_does():
    settings = Settings(backbone="test_resnet", num_classes=3, image_size=64, patch_size=32)
    torch.manual_seed(0)
    network = TwoStreamNetwork(settings).eval()
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=32).eval()
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 2, 3, 32, 32)
    assert torch.equal(network(images, patches).logits, model(images, patches).logits)
    assert torch.equal(network.propose(images), model.propose(images))
    assert not hasattr(network, "predict")
    assert isinstance(model, TwoStreamNetwork)
