"""fit and evaluate, the cache of frozen features, recipes and run folders."""

import json
import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import make
from PIL import Image
from torchvision.transforms import v2

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.hub import hub_network
from recurrent_attention.images.views import IMAGENET_MEAN, IMAGENET_STD
from recurrent_attention.training import (
    Evaluation,
    Recipe,
    RunFolder,
    draw_curves,
    evaluate,
    fit,
    fitting,
    loop,
)
from recurrent_attention.training.draws import Draws
from recurrent_attention.training.feature_store import FeatureStore, key_of, keys_of_each
from recurrent_attention.training.features import frozen_features
from recurrent_attention.training.networks import Heads
from recurrent_attention.training.optimization import (
    Schedule,
    backbone_parameters,
    build_optimizer,
)
from recurrent_attention.training.processes import Resources
from recurrent_attention.training.samples import samples_of

QUIET = {"device": "cpu", "progress": False}
SIZES = {"image_size": 32, "patch_size": 32}
LOOK = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "interpolation": "bicubic",
}


def make_model(**kwargs):
    torch.manual_seed(0)
    return TwoStreamClassifier(
        "test_resnet", 2, image_size=32, patch_size=32, hidden_size=16, num_steps=3,
        backbone_kwargs={"pretrained_cfg_overlay": LOOK}, **kwargs,
    )  # fmt: skip


def make_data(colored_pictures, *, train=True, num_patches=1, **kwargs):
    pictures, boxes = colored_pictures
    return TwoStreamDataset(
        pictures,
        boxes,
        image_size=32,
        patch_size=32,
        num_patches=num_patches,
        train=train,
        **kwargs,
    )


def changed(before, model):
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("criterion", "kept"), [("loss", 3), ("fused", 2)])
def test_the_recipe_says_what_chooses_the_epoch(colored_pictures, monkeypatch, criterion, kept):
    measured = iter([(2.0, 0.5), (1.5, 0.75), (1.0, 0.5), (1.2, 0.5)])

    def run_evaluation(*args, **kwargs):
        loss, top1 = next(measured)
        return Evaluation(loss, top1, top1, top1, 4, 1.0)

    monkeypatch.setattr(loop, "run_evaluation", run_evaluation)
    held_out = make_data(colored_pictures, train=False)
    recipe = Recipe(epochs=4, freeze=True, choose_epoch_by=criterion)
    result = fit(make_model(), make_data(colored_pictures), held_out, recipe=recipe, **QUIET)
    assert result.best_epoch == kept


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_it_learns_and_leaves_alone_what_is_not_its_own(colored_pictures, freeze, tmp_path):
    model = make_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    data = make_data(colored_pictures)
    held_out = make_data(colored_pictures, train=False, num_patches=2)
    recipe = Recipe(epochs=25, batch_size=4, lr=2e-3, head_lr=2e-2, freeze=freeze)
    run = RunFolder(tmp_path / "run")
    result = fit(model, data, held_out, recipe=recipe, run_folder=run, **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    best = result.history[result.best_epoch - 1]
    assert best["val_loss"] == min(record["val_loss"] for record in result.history)
    assert best["val_fused"] == 1.0
    assert best["val_global"] >= 0.75
    assert best["val_local"] >= 0.75
    backbone_names = {name for name in before if "backbone" in name}
    if freeze:
        assert changed(before, model) == set(before) - backbone_names
    else:
        assert changed(before, model) >= {n for n in backbone_names if "running_var" in n}
    found = evaluate(model, held_out, frozen=freeze, **QUIET)
    assert found.fused_top1 == best["val_fused"]
    assert found.global_top1 == best["val_global"]
    assert found.loss == pytest.approx(best["val_loss"], abs=1e-5)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 26))
    loaded = TwoStreamClassifier.from_pretrained(run.model_dir)
    assert evaluate(loaded, held_out, **QUIET).fused_top1 == 1.0


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_other_weights(colored_pictures):
    def trained(seed):
        model = make_model(drop_rate=0.2)
        recipe = Recipe(epochs=2, batch_size=4, seed=seed)
        fit(model, make_data(colored_pictures, crop_scale=(0.5, 1)), recipe=recipe, **QUIET)
        return model.state_dict()

    first, second, third = trained(1), trained(1), trained(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["local_head.weight"], third["local_head.weight"])


@pytest.mark.slow
def test_global_stream_is_trained_as_if_it_were_alone(colored_pictures):
    """The local stream's weight in the loss changes nothing for the global stream."""
    weights = []
    for local_weight in (0.0, 1.0):
        model = make_model()
        recipe = Recipe(epochs=2, batch_size=4, local_weight=local_weight)
        fit(model, make_data(colored_pictures), recipe=recipe, **QUIET)
        weights.append({n: v for n, v in model.state_dict().items() if n.startswith("global")})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_accumulated_gradients_equal_one_large_batch(colored_pictures):
    """Plain SGD on a model without batch norm, frozen: two halves sum to the whole."""
    pictures, boxes = colored_pictures
    weights = []
    for batch_size, steps in ((16, 1), (8, 2)):
        model = make_model()
        data = TwoStreamDataset(
            pictures, boxes, image_size=32, patch_size=32, num_patches=2, train=True, flip=False
        )
        recipe = Recipe(
            epochs=1, batch_size=batch_size, accumulation_steps=steps, optimizer="momentum",
            momentum=0.0, weight_decay=0.0, head_lr=0.1, warmup_epochs=0, freeze=True,
        )  # fmt: skip
        fit(model, data, recipe=recipe, **QUIET)
        weights.append(model.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


def test_mixed_precision_trains(colored_pictures):
    model = make_model()
    recipe = Recipe(epochs=1, batch_size=8, precision="bf16")
    result = fit(model, make_data(colored_pictures), recipe=recipe, **QUIET)
    assert math.isfinite(result.history[0]["train_loss"])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    full = fit(make_model(), make_data(colored_pictures), recipe=Recipe(epochs=1), **QUIET)
    assert math.isfinite(full.history[0]["train_loss"])


def test_without_validation_the_last_epoch_is_kept(colored_pictures):
    result = fit(
        make_model(), make_data(colored_pictures), recipe=Recipe(epochs=3, batch_size=8), **QUIET
    )
    assert result.best_epoch == 3
    assert "val_fused" not in result.history[0]


def test_evaluation_counts_every_picture_once_and_keeps_the_mode(colored_pictures):
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = make_data(colored_pictures, train=False, num_patches=2)
    found = evaluate(model, data, batch_size=5, **QUIET)
    assert model.training
    assert changed(before, model) == set()
    model.eval()
    right = {"global": 0, "local": 0, "fused": 0}
    with torch.no_grad():
        for index in range(len(data)):
            image, patches, label, _ = data[index]
            output = model(image[None], patches[None])
            right["global"] += int(output.global_logits.argmax() == label)
            right["local"] += int(output.local_logits.argmax() == label)
            right["fused"] += int(output.logits.argmax() == label)
    assert found.num_images == 16
    assert found.global_top1 == pytest.approx(right["global"] / 16)
    assert found.local_top1 == pytest.approx(right["local"] / 16)
    assert found.fused_top1 == pytest.approx(right["fused"] / 16)


def quiet(model, cache_dir=None):
    return Resources(model, device="cpu", num_workers=0, progress=False, cache_dir=cache_dir)


@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_frozen_features_equal_the_backbones(colored_pictures, tmp_path, global_head):
    model = make_model(global_head=global_head)
    data = make_data(colored_pictures, train=False, num_patches=2)
    samples = samples_of(model, data, "data", stacklevel=1)
    state = torch.get_rng_state()
    features = frozen_features(model, samples, quiet(model, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    model.eval()
    heads = Heads(model)
    with torch.no_grad():
        for index in range(len(data)):
            image, patches, label, _ = data[index]
            sample = features[index]
            assert sample.label == label
            expected = model(image[None], patches[None])
            got = heads(sample.global_features[None], sample.local_features[None])
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_mirrored_features_are_those_of_mirrored_views(colored_pictures, tmp_path):
    pictures, boxes = colored_pictures
    for name in pictures.names:  # left and right must differ for a mirrored view to differ
        with Image.open(pictures.root / name) as picture:
            picture.paste((250, 250, 0), (0, 0, 12, 40))
            picture.save(pictures.root / name)
    model = make_model().eval()
    data = make_data((pictures, boxes), num_patches=2)
    samples = samples_of(model, data, "data", stacklevel=1)
    features = frozen_features(model, samples, quiet(model))
    image, patches = data.fixed_views(4)
    found = []
    with torch.no_grad():
        for positions, turn in zip(
            features.positions(4), (lambda x: x, lambda x: x.flip(-1)), strict=True
        ):
            whole = model.global_backbone(turn(image)[None]).mean((2, 3))[0]
            parts = model.local_backbone(turn(patches)).mean((2, 3))
            stored = features.local_store.rows(positions[1:])
            close = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(features.global_store.rows(positions[:1])[0], whole, **close)
            torch.testing.assert_close(stored, parts, **close)
            found.append(stored)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_cached_features_are_found_again_and_only_then(colored_pictures, tmp_path, monkeypatch):
    model = make_model().eval()
    pictures, boxes = colored_pictures
    calls = []
    forward = type(model.local_backbone).forward
    monkeypatch.setattr(
        type(model.local_backbone),
        "forward",
        lambda self, images: calls.append(len(images)) or forward(self, images),
    )

    def passes(some_model=model, **kwargs):
        calls.clear()
        options = {"image_size": 32, "patch_size": 32} | kwargs
        given = options.pop("boxes", boxes)
        data = TwoStreamDataset(options.pop("pictures", pictures), given, **options)
        warnings.simplefilter("ignore", UserWarning)  # of sizes that are not the model's
        samples = samples_of(some_model, data, "data", stacklevel=1)
        frozen_features(some_model, samples, quiet(some_model, tmp_path / "cache"))
        return sum(calls)

    assert passes() == 16 + 32
    assert passes() == 0
    assert passes(num_patches=2) == 0
    assert passes(train=True, flip=False) == 0
    assert passes(image_size=48) > 0
    assert passes(mean=(0.1, 0.2, 0.3)) > 0
    assert passes(boxes={**boxes, "03.png": boxes["03.png"] + 1}) > 0
    assert passes(train=True) > 0  # mirrored views are new
    assert passes(pictures=pictures.subset([3, 1]), train=True) == 0
    with torch.no_grad():
        next(model.local_backbone.parameters()).mul_(1.01)
    assert passes() > 0
    colors = torch.full((4, 4, 3), 7, dtype=torch.uint8).numpy()

    Image.fromarray(colors).resize((48, 40)).save(pictures.path(5))
    assert passes() > 0


def test_features_of_a_jpeg_do_not_depend_on_what_filled_the_cache(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(tmp_path / "a.jpg")
    pictures = Pictures(tmp_path, ["a.jpg"], [0], ["auk", "emu"])
    model = make_model().eval()
    large, small = [0.0, 0.0, 600.0, 500.0], [100.0, 100.0, 140.0, 150.0]

    def looks(boxes, cache):
        data = TwoStreamDataset(pictures, {"a.jpg": boxes}, num_patches=len(boxes), **SIZES)
        samples = samples_of(model, data, "data", stacklevel=1)
        return frozen_features(model, samples, quiet(model, cache))[0].local_features

    alone = looks([large], tmp_path / "cache")  # decoded at a fraction
    beside = looks([large, small], tmp_path / "fresh")  # the small box needs all pixels
    assert not torch.equal(alone[0], beside[0])
    assert torch.equal(looks([large, small], tmp_path / "cache"), beside)
    assert torch.equal(looks([large], tmp_path / "fresh"), alone)


def test_a_batch_of_features_is_that_of_its_samples(colored_pictures):
    pictures, _ = colored_pictures
    generator = np.random.default_rng(0)
    for name in pictures.names:
        noise = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures.root / name)
    model = make_model().eval()
    samples = samples_of(model, make_data(colored_pictures, num_patches=2), "data", stacklevel=1)
    draws = Draws(frozen_features(model, samples, quiet(model)), seed=3)
    places = [(1, 4, 0), (1, 2, 0), (1, 4, 3), (2, 0, 0)]
    one_by_one = [draws[place] for place in places]
    together = draws.__getitems__(places)
    assert [sample[0] for sample in together] == [4, 2, 4, 0]
    for first, second in zip(one_by_one, together, strict=True):
        assert first[3] == second[3]
        assert torch.equal(first[1], second[1])
        assert torch.equal(first[2], second[2])
    assert not torch.equal(together[0][2], together[2][2])  # of other draws


def test_keys_that_begin_alike_are_those_of_each():
    ends = [(0.5, 2), ([1.5, 2.0], "x"), (None,)]
    assert keys_of_each(("auk", [1, 2.5]), ends) == [key_of("auk", [1, 2.5], *end) for end in ends]


def test_a_cut_off_fill_leaves_no_half_file(colored_pictures, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path)
    keys = [bytes([i]) * 32 for i in range(3)]
    store.add(keys[:2], torch.arange(8.0).view(2, 4))

    def cut_off(tensors, path):
        path.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("recurrent_attention.training.feature_store.save_file", cut_off)
    with pytest.raises(OSError, match="no space"):
        store.add(keys[2:], torch.ones(1, 4))
    again = FeatureStore(tmp_path)
    assert again.find(keys).tolist() == [0, 1, -1]
    assert torch.equal(again.rows(torch.tensor([1])), torch.arange(4.0, 8.0)[None])


def test_frozen_patches_stay_best_first(colored_pictures):
    pictures, boxes = colored_pictures
    boxes = {
        name: torch.tensor([[0.0, 0, 8 + 4 * n, 8 + 4 * n] for n in range(4)]) for name in boxes
    }
    views = {"image_size": 32, "patch_size": 32, "flip": False}
    data = TwoStreamDataset(pictures, boxes, num_patches=2, train=True, **views)
    model = make_model().eval()
    joined = samples_of(model, data, "data", stacklevel=1)
    features = frozen_features(model, joined, quiet(model))
    ((_, *patches),) = features.positions(0).tolist()
    place = {position: number for number, position in enumerate(patches)}
    numbered = SimpleNamespace(rows=lambda rows: torch.tensor([[place[r]] for r in rows.tolist()]))
    features.local_store = numbered
    torch.manual_seed(0)
    chosen = set()
    for _ in range(40):
        places = features[0].local_features[:, 0].tolist()
        assert places == sorted(places)
        chosen.add(tuple(places))
    assert len(chosen) == 6  # two of four


def test_random_crops_cannot_be_frozen(colored_pictures):
    data = make_data(colored_pictures, crop_scale=(0.5, 1))
    with pytest.raises(ValueError) as caught:
        fit(make_model(), data, recipe=Recipe(freeze=True), **QUIET)
    assert str(caught.value) == (
        "Expected data for frozen backbones to show whole pictures, whose features can be kept, "
        "but got crop_scale=(0.5, 1). Pass crop_scale=None."
    )


def test_transforms_cannot_be_frozen(colored_pictures):
    data = make_data(colored_pictures, augment=v2.ColorJitter(0.5))
    with pytest.raises(ValueError) as caught:
        fit(make_model(), data, recipe=Recipe(freeze=True), **QUIET)
    assert str(caught.value) == (
        "Expected data for frozen backbones to show pictures as they are, whose features can be "
        "kept, but got augment=ColorJitter(brightness=(0.5, 1.5)). Pass augment=None, or on the "
        "command line leave out --augment."
    )


def test_cosine_and_step_schedules():
    model = make_model()
    recipe = Recipe(epochs=12, warmup_epochs=2, lr=0.5, head_lr=4.0, layer_decay=0.5)
    optimizer = build_optimizer(model, recipe)
    cosine = Schedule(optimizer, recipe, updates_per_epoch=3)
    for update in range(36):
        warm, rest = (update + 1) / 6, (update - 6) / 30
        factor = warm if update < 6 else 0.5 * (1 + math.cos(math.pi * rest))
        assert cosine.rates() == pytest.approx([0.5 * factor, 4 * factor])
        for group in optimizer.param_groups:
            rate = 0.5 if group["part"] == "backbones" else 4.0
            assert group["lr"] == pytest.approx(rate * factor * group["lr_scale"])
        cosine.step()
    assert cosine.rates() == pytest.approx([0, 0])

    recipe = Recipe.paper()
    steps = Schedule(build_optimizer(model, recipe), recipe, updates_per_epoch=2)
    found = []
    for update in (0, 59, 60, 119, 120, 179):
        steps.go_to(update)
        found.append(steps.rates()[0] / recipe.lr)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_papers_recipe():
    recipe = Recipe.paper()
    optimizer = build_optimizer(make_model(), recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0.9, 5e-4)
    assert (recipe.batch_size, recipe.decay_epochs, recipe.decay_rate) == (32, (30, 60), 0.1)


def test_new_layers_have_their_own_learning_rate():
    model = make_model(global_head="conv")
    recipe = Recipe(lr=1e-5, head_lr=1e-2)
    optimizer = build_optimizer(model, recipe)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert rate_of[id(parameter)] == (1e-5 if "backbone" in name else 1e-2), name
        decayed = parameter.ndim > 1
        assert decays[id(parameter)] == (0.05 if decayed else 0.0), name
    frozen = build_optimizer(model, Recipe(freeze=True))
    theirs = {id(p) for group in frozen.param_groups for p in group["params"]}
    assert not theirs & {id(p) for p in backbone_parameters(model)}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs": 0}, "Expected `epochs` to be at least 1, but got 0."),
        ({"lr": float("nan")}, "Expected `lr` to be at least 0 and finite, but got nan."),
        (
            {"optimizer": "adamwow"},
            "Expected `optimizer` to be a name of timm.optim.list_optimizers(), such as adamw or "
            "sgd, but got 'adamwow'.",
        ),
        (
            {"freeze": True, "mixup": 0.2},
            "Expected `mixup` to be off with freeze=True, which trains heads on features and not "
            "on pictures, but got 0.2. Leave one of them out.",
        ),
        ({"patience": 0}, "Expected `patience` to be at least 1, but got 0."),
        (
            {"layer_decay": 0},
            "Expected `layer_decay` to be in [0, 1], without 0 itself, but got 0.",
        ),
        (
            {"label_smoothing": np.float32(1)},
            "Expected `label_smoothing` to be in [0, 1], without 1 itself, but got 1.0.",
        ),
        (
            {"seed": 2**70},
            f"Expected `seed` to be in [{-(2**63)}, {2**63 - 1}], but got {2**70}.",
        ),
        (
            {"precision": "int8"},
            "Expected `precision` to be one of auto, fp32, bf16, fp16, but got 'int8'.",
        ),
    ],
)
def test_bad_recipes(kwargs, message):
    with pytest.raises(ValueError) as caught:
        Recipe(**kwargs)
    assert str(caught.value) == message


def test_numbers_of_numpy_are_numbers(colored_pictures, tmp_path):
    given = {"epochs": np.int64(1), "batch_size": np.int32(8), "lr": np.float32(1e-4)}
    given |= {"decay_epochs": np.array([1, 2]), "seed": np.arange(2)[1]}
    recipe = Recipe(**given)
    assert recipe == Recipe(
        epochs=1, batch_size=8, lr=float(np.float32(1e-4)), decay_epochs=(1, 2), seed=1
    )
    assert {type(value) for value in recipe.decay_epochs} == {type(recipe.seed)} == {int}
    run = RunFolder(tmp_path / "run")
    fit(make_model(), make_data(colored_pictures), recipe=recipe, run_folder=run, **QUIET)
    saved = {"fusion_weight": np.float32(1.5), "drop_rate": np.float64(0.5)}
    saved |= {"hidden_size": np.int64(8), "in_chans": np.int64(3), "num_steps": np.int8(2)}
    make(**saved).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {name: config[name] for name in saved} == saved


def test_what_a_model_cannot_be_built_from_again_is_refused_before_the_work(
    colored_pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "frozen_features", None)
    overlay = {"pretrained_cfg_overlay": LOOK, "act_layer": torch.nn.ReLU}
    model = make(image_size=32, backbone_kwargs=overlay)
    with pytest.raises(ValueError, match="^Expected a configuration that can be written as JSON"):
        fit(
            model,
            make_data(colored_pictures),
            recipe=Recipe.heads_only(),
            run_folder=RunFolder(tmp_path / "run"),
            **QUIET,
        )


def test_bad_calls(colored_pictures, tmp_path):
    data = make_data(colored_pictures)
    with pytest.raises(ValueError, match="^Expected `data` with train=False, but it draws"):
        evaluate(make_model(), data, **QUIET)
    pictures, boxes = colored_pictures
    many = Pictures(pictures.root, pictures.names, pictures.labels, ["red", "blue", "green"])
    with pytest.raises(ValueError) as caught:
        fit(make_model(), TwoStreamDataset(many, boxes, **SIZES), **QUIET)
    assert str(caught.value) == (
        "Expected data of at most 2 classes, as the model has, but got 3. Build the model with "
        "num_classes=3."
    )
    with pytest.raises(ValueError, match="^Expected `device` to be 'auto', 'cpu', 'cuda', "):
        evaluate(make_model(), make_data(colored_pictures, train=False), device="tpu")
    model = make_model()
    with torch.no_grad():
        model.global_head.bias.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"^Expected a finite loss, but got nan in epoch 1"
    ):
        fit(model, data, **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("freeze", [False, True])
def test_a_truncated_picture_stops_the_run_with_its_path(colored_pictures, num_workers, freeze):
    data = make_data(colored_pictures)
    path = data.pictures.path(3)
    path.write_bytes(path.read_bytes()[:60])
    recipe = Recipe(epochs=1, freeze=freeze)
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'Expected a readable picture at {path}')}[^\n]*$"
    ):
        fit(make_model(), data, recipe=recipe, num_workers=num_workers, **QUIET)


def test_run_folders_are_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    run.write_json("config.json", {"a": 1})
    with pytest.raises(FileExistsError) as caught:
        RunFolder(tmp_path / "run")
    assert str(caught.value) == (
        f"Expected a new or empty folder for the run, but {tmp_path / 'run'} holds something "
        "already. Choose another folder, move that one away, or go on with its run: resume=True "
        "(--resume)."
    )
    assert json.loads((run.path / "config.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("resume", [False, True])
def test_another_training_does_not_take_the_folder_of_a_run(colored_pictures, tmp_path, resume):
    data, recipe = make_data(colored_pictures), Recipe(epochs=1, batch_size=4)
    run = RunFolder(tmp_path / "run")
    fit(make_model(), data, recipe=recipe, run_folder=run, **QUIET)
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    again = RunFolder(tmp_path / "run", resume=True) if resume else run
    with pytest.raises(FileExistsError) as caught:
        fit(make_model(), data, recipe=recipe, run_folder=again, **QUIET)
    assert str(caught.value) == (
        f"Expected a run folder without checkpoints, but {run.path} holds a run. Take another "
        "folder, or go on with that run: fit(..., resume=True)."
    )
    kept = {path: path.read_bytes() for path in files if path.name != "owner.json"}
    assert all(files[path] == content for path, content in kept.items())


@pytest.mark.slow
def test_a_failed_save_keeps_the_model_before(tmp_path, monkeypatch):
    model, run = make_model(), RunFolder(tmp_path / "run")
    run.save_model(model)
    before = (run.model_dir / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.global_head.bias.add_(1)

    def cut_off(model, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(hub_network, "save_model", cut_off)
    with pytest.raises(OSError, match="no space"):
        run.save_model(model)
    assert (run.model_dir / "model.safetensors").read_bytes() == before
    monkeypatch.undo()
    run.save_model(model)
    loaded = TwoStreamClassifier.from_pretrained(run.model_dir)
    assert torch.equal(loaded.global_head.bias, model.global_head.bias)


def test_curves_are_drawn(tmp_path):
    record = {
        f"{kind}_{name}": 0.5
        for kind in ("train", "val")
        for name in ("loss", "global", "local", "fused")
    }
    history = [record | {"epoch": epoch} for epoch in (1, 2, 3)]
    draw_curves(history, tmp_path / "curves.png", best_epoch=2, held_out="validation")

    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(100_000)) > 50
