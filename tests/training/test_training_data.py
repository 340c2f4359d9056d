"""What fit, evaluate and fit_global_head take: classes by name, subsets, dtypes; what is left."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import PictureFolder, Pictures, TwoStreamDataset
from recurrent_attention.training import (
    Recipe,
    RunFolder,
    calibrate,
    evaluate,
    fit,
    fit_global_head,
    propose_boxes_for,
)
from recurrent_attention.training.draws import own_random_state
from recurrent_attention.training.folder_evaluation import part_to_measure, set_aside
from recurrent_attention.training.parts import listing_of
from recurrent_attention.training.processes import own_accelerate_state

QUIET = {"device": "cpu", "progress": False}
SIZES = {"image_size": 32, "patch_size": 32}
ONCE = Recipe(epochs=1, batch_size=4)


def folder(root, counts, seed=0):
    generator = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return PictureFolder(root)


@pytest.fixture
def pictures(tmp_path):
    return folder(tmp_path / "pictures", {"auk": 4, "emu": 4})


def make(classes=2, **kwargs):
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        "test_resnet", classes, hidden_size=8, num_steps=2, **SIZES, **kwargs
    )
    return model.eval()


def views(model, pictures, **kwargs):
    boxes = {name: [[0, 0, 30, 30], [5, 5, 40, 30]] for name in pictures.names}
    return TwoStreamDataset.for_model(model, pictures, boxes, **kwargs)


def always(model, label):
    with torch.no_grad():
        for head in (model.global_head, model.local_head):
            head.weight.zero_()
            head.bias.copy_(9.0 * torch.eye(model.num_classes)[label])
    return model


def swapped_order(pictures):
    """The same pictures in a data set that lists its two classes the other way round."""
    labels = [1 - label for label in pictures.labels]
    return Pictures(pictures.root, pictures.names, labels, pictures.class_names[::-1])


# Classes


def test_classes_are_found_by_name(tmp_path, pictures):
    names = ("auk", "dodo", "emu", "owl")
    model = always(make(4, class_names=names), 2)  # emu
    assert evaluate(model, views(model, pictures), **QUIET).fused_top1 == 0.5
    swapped = swapped_order(pictures)
    assert evaluate(model, views(model, swapped), **QUIET).fused_top1 == 0.5
    lone = pictures.subset([4, 5])
    assert evaluate(model, views(model, lone), **QUIET).fused_top1 == 1.0
    unnamed = always(make(4), 1)
    assert evaluate(unnamed, views(unnamed, lone), **QUIET).fused_top1 == 1.0


def test_training_learns_the_classes_by_name(pictures):
    """Two data sets that list the same classes in another order are one and the same."""
    swapped = swapped_order(pictures)
    results = []
    for some in (pictures, swapped):
        model = make(class_names=("auk", "emu"))
        fit_global_head(model, some, recipe=ONCE, **QUIET)
        found = fit(model, views(model, some, train=True), views(model, some), recipe=ONCE, **QUIET)
        results.append((model.state_dict(), found.history[0]["val_loss"]))
    assert results[0][1] == results[1][1]
    assert all(torch.equal(results[0][0][key], value) for key, value in results[1][0].items())
    model = make()  # without names, those of the training data count
    fit_global_head(model, pictures, recipe=ONCE, **QUIET)
    found = fit(
        model, views(model, pictures, train=True), views(model, swapped), recipe=ONCE, **QUIET
    )
    assert found.history[0]["val_loss"] == results[0][1]


def test_classes_that_the_model_does_not_know(tmp_path):
    other = folder(tmp_path / "other", {"auk": 1, "kiwi": 1, "rhea": 1})
    model = make(class_names=("auk", "emu"))
    sentence = (
        "Expected data of classes that the model has, by name, but 2 of 3 are not among its 2: "
        "kiwi, rhea. Give the data the model's names, such as auk, emu, or build the model with "
        "these."
    )
    for call in (
        lambda: fit(model, views(model, other, train=True), recipe=ONCE, **QUIET),
        lambda: evaluate(model, views(model, other), **QUIET),
        lambda: fit_global_head(model, other, recipe=ONCE, **QUIET),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == sentence


# How pictures are shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "mean=(0.5, 0.5, 0.5), as the model's backbone wants"),
        ({"std": (0.1, 0.2, 0.3)}, "std=(0.5, 0.5, 0.5), as the model's backbone wants"),
        ({"interpolation": "nearest"}, "interpolation=bilinear, as the model's backbone wants"),
        ({"image_size": 64}, "image_size=32, as the model's backbone wants"),
        ({"patch_size": 64}, "patch_size=32, as the model's backbone wants"),
    ],
)
def test_pictures_shown_otherwise_than_the_model_wants_are_warned_of(pictures, changed, told):
    model = make()
    right = views(model, pictures)
    look = {key: getattr(right, key) for key in ("mean", "std", "interpolation")} | SIZES | changed
    wrong = TwoStreamDataset(pictures, right.boxes, **look)
    for call in (
        lambda: evaluate(model, wrong, **QUIET),
        lambda: fit(make(), right, wrong, recipe=ONCE, **QUIET),
    ):
        with pytest.warns(UserWarning, match="to show pictures with") as said:
            call()
        (warning,) = said
        assert told in str(warning.message)
        assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(model, right, **QUIET)


# Subsets, concatenations, and what is none


@pytest.mark.slow
def test_subsets_and_concatenations(tmp_path, pictures):
    other = folder(tmp_path / "other", {"auk": 2, "emu": 1}, seed=1)
    model = make()
    whole, more = views(model, pictures), views(model, other)
    half = Subset(whole, [0, 2, 5])
    found = evaluate(model, ConcatDataset([half, more]), **QUIET)
    assert found.num_images == 6
    parts = [evaluate(model, part, **QUIET) for part in (half, more)]
    assert found.loss == pytest.approx(sum(part.loss for part in parts) / 2, rel=1e-5)
    frozen = evaluate(model, ConcatDataset([half, more]), frozen=True, **QUIET)
    assert frozen.loss == pytest.approx(found.loss, rel=1e-5)
    training = ConcatDataset([views(model, pictures, train=True), views(model, other, train=True)])
    for freeze in (False, True):
        run = RunFolder(tmp_path / f"run-{freeze}")
        recipe = Recipe(epochs=1, batch_size=4, freeze=freeze)
        fitted = fit(make(), training, half, recipe=recipe, run_folder=run, **QUIET)
        assert np.isfinite(fitted.history[0]["val_loss"])
    with pytest.raises(TypeError) as caught:
        fit(model, Subset(training, [0]), recipe=ONCE, **QUIET)
    assert str(caught.value) == (
        "Expected `train_data` to be subsets of single data sets, but got a Subset of a "
        "ConcatDataset. Take the subsets first, and concatenate them."
    )


def test_what_is_no_data_set_of_views(pictures):
    model = make()
    data = "a TwoStreamDataset, or a Subset or ConcatDataset of some, but got"
    hint = " TwoStreamDataset.for_model(model, pictures, boxes) makes one of these."
    some = views(model, pictures)
    for call, sentence in (
        (lambda: fit(model, pictures), f"`train_data` to be {data} PictureFolder.{hint}"),
        (lambda: fit(model, some, [1]), f"`validation_data` to be {data} list."),
        (
            lambda: evaluate(model, ImageFolder(str(pictures.root))),
            f"`data` to be {data} ImageFolder.",
        ),
        (
            lambda: fit_global_head(model, some),
            "`pictures` to be Pictures, such as PictureFolder(root), but got TwoStreamDataset. "
            "Pass its `pictures`.",
        ),
        (
            lambda: propose_boxes_for(model, some),
            "`pictures` to be Pictures, such as PictureFolder(root), but got TwoStreamDataset.",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"Expected {sentence}"


def test_nothing_to_train_on(pictures):
    model, none = make(), pictures.subset([])
    some, empty = views(model, pictures), views(model, none)
    for call, name in (
        (lambda: fit(model, empty, recipe=ONCE, **QUIET), "train_data"),
        (lambda: fit(model, some, empty, recipe=ONCE, **QUIET), "validation_data"),
        (lambda: evaluate(model, empty, **QUIET), "data"),
        (lambda: fit_global_head(model, none, **QUIET), "pictures"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == (
            f"Expected `{name}` to hold at least one picture, but it is empty."
        )
    assert propose_boxes_for(model, none, **QUIET) == {}


# Kinds of models


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_every_precision_train_and_answer(pictures, tmp_path, dtype):
    model = make(class_names=("auk", "emu")).to(dtype)
    exact = make(class_names=("auk", "emu"))
    data = views(model, pictures)
    tolerance = 1e-5 if dtype == torch.float64 else 0.02
    wanted = evaluate(exact, data, **QUIET).loss
    for frozen in (False, True):
        found = evaluate(model, data, frozen=frozen, **QUIET).loss
        assert found == pytest.approx(wanted, rel=tolerance)
    boxes = propose_boxes_for(model, pictures, **QUIET)
    assert boxes["auk/0.png"].dtype == torch.float32
    if dtype == torch.float16:
        for call in (
            lambda: fit_global_head(model, pictures, **QUIET),
            lambda: fit(model, data, **QUIET),
        ):
            with pytest.raises(ValueError) as caught:
                call()
            assert str(caught.value) == (
                "Expected weights in float32, bfloat16 or float64 to train, but got torch.float16, "
                "in which an optimiser's averages underflow. Call model.float(); "
                "Recipe(precision='fp16') trains it in mixed precision."
            )
        return
    fit_global_head(model, pictures, recipe=ONCE, cache_dir=tmp_path, **QUIET)
    for freeze in (False, True):
        recipe = Recipe(epochs=1, batch_size=4, freeze=freeze)
        history = fit(model, views(model, pictures, train=True), recipe=recipe, **QUIET).history
        assert np.isfinite(history[0]["train_loss"])
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_default_dtype_of_sixty_four_bits(pictures):
    torch.set_default_dtype(torch.float64)
    try:
        model = make()
        fit_global_head(model, pictures, recipe=ONCE, **QUIET)
        fit(model, views(model, pictures, train=True), recipe=ONCE, **QUIET)
        evaluate(model, views(model, pictures), frozen=True, **QUIET)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_that_were_switched_off(pictures, mode):
    wanted, model = make(), make()
    data = views(model, pictures, train=True)
    fit_global_head(wanted, pictures, recipe=ONCE, **QUIET)
    fit(wanted, data, recipe=ONCE, **QUIET)
    with mode():
        fit_global_head(model, pictures, recipe=ONCE, **QUIET)
        fit(model, data, recipe=ONCE, **QUIET)
    for name, value in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_weights_that_can_have_no_gradient_are_refused(pictures):
    with torch.inference_mode():
        model = make()
    data = views(make(), pictures, train=True)
    for call in (
        lambda: fit_global_head(model, pictures, recipe=ONCE, **QUIET),
        lambda: fit(model, data, recipe=ONCE, **QUIET),
    ):
        with pytest.raises(RuntimeError, match="^Expected weights that can have gradients, but "):
            call()


def test_what_the_user_froze_stays(pictures):
    model = make()
    model.global_head.requires_grad_(False)
    model.local_backbone.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, views(model, pictures, train=True), recipe=ONCE, **QUIET)
    moved = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved
    assert not [name for name in moved if name.startswith(("global_head", "local_backbone"))]
    with pytest.raises(ValueError) as caught:
        fit_global_head(model, pictures, recipe=ONCE, **QUIET)
    assert str(caught.value) == (
        "Expected `global_head` to have a parameter that requires a gradient, but all of them are "
        "frozen. Call model.global_head.requires_grad_()."
    )
    model.requires_grad_(False)
    with pytest.raises(ValueError) as caught:
        fit(model, views(model, pictures, train=True), recipe=ONCE, **QUIET)
    assert str(caught.value) == (
        "Expected the model to have a parameter that requires a gradient, but all of them are "
        "frozen. Call requires_grad_() on what is to be trained."
    )


def test_one_class_and_one_picture(pictures):
    one = pictures.subset([0, 1])
    one.class_names = ("auk",)
    model = make(1)
    assert evaluate(model, views(model, one), **QUIET).fused_top1 == 1.0
    fit(model, views(model, one, train=True), recipe=ONCE, **QUIET)
    model = make()
    with pytest.raises(ValueError) as caught:
        fit(model, views(model, pictures, train=True), recipe=Recipe(batch_size=1), **QUIET)
    message = str(caught.value)
    assert message.startswith(
        "Expected batches of several pictures to train on, but got one picture, which the model "
        "does not take in training mode: "
    )
    assert message.endswith(". Raise `batch_size`, or add pictures.")


class InMemory(Pictures):
    def open(self, index, *, reduction=1):
        generator = np.random.default_rng(int(self.names[index]))
        return Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8))


def test_pictures_that_are_no_files(tmp_path):
    pictures = InMemory("nowhere", ["0", "1", "2", "3"], [0, 0, 1, 1], ["a", "b"])
    model = make()
    fit_global_head(model, pictures, recipe=ONCE, **QUIET)
    boxes = propose_boxes_for(model, pictures, cache_dir=tmp_path / "boxes", **QUIET)
    again = propose_boxes_for(model, pictures, cache_dir=tmp_path / "boxes", **QUIET)
    assert all(torch.equal(boxes[name], again[name]) for name in pictures.names)
    data = TwoStreamDataset.for_model(model, pictures, boxes, train=True)
    recipe = Recipe(epochs=1, batch_size=4, freeze=True)
    fit(model, data, recipe=recipe, cache_dir=tmp_path / "features", **QUIET)


# What is left of a training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_is_the_callers_again(pictures, precision):
    model = make().train()
    images, patches = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    modes = [module.training for module in model.modules()]
    evaluate(model, views(model, pictures), precision=precision, **QUIET)
    assert [module.training for module in model.modules()] == modes
    fit(
        model,
        views(model, pictures, train=True),
        recipe=Recipe(epochs=1, precision=precision),
        **QUIET,
    )
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module.training for module in model.modules())  # as from_pretrained leaves it
    with torch.no_grad():
        assert model(images, patches).logits.dtype == torch.float32
        exact = model(images, patches).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(model(images, patches).logits.float(), exact)


def test_each_call_has_its_own_precision(pictures):
    data = views(make(), pictures)
    wanted = {
        kind: evaluate(make(), data, precision=kind, **QUIET).loss for kind in ("fp32", "bf16")
    }
    assert wanted["fp32"] != wanted["bf16"]
    model = make()
    for kind in ("bf16", "fp32", "bf16"):
        assert evaluate(model, data, precision=kind, **QUIET).loss == wanted[kind]


def test_the_callers_accelerator_keeps_its_settings(pictures):
    with own_accelerate_state():
        accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
        weight = torch.nn.Linear(3, 3)
        layer, optimizer = accelerator.prepare(weight, torch.optim.SGD(weight.parameters(), 0.1))
        model = make()
        data = views(model, pictures)
        evaluate(model, data, **QUIET)
        fit(model, views(model, pictures, train=True), recipe=Recipe(epochs=1), **QUIET)
        calibrate(model, data, **QUIET)
        fit_global_head(model, pictures, recipe=Recipe(epochs=1), **QUIET)
        propose_boxes_for(model, pictures, **QUIET)
        assert accelerator.mixed_precision == "bf16"
        assert accelerator.gradient_accumulation_steps == 4
        synced = []
        for _ in range(8):
            with accelerator.accumulate(layer):
                accelerator.backward(layer(torch.randn(2, 3)).sum())
                optimizer.step()
                optimizer.zero_grad()
                synced.append(accelerator.sync_gradients)
        assert synced == [False, False, False, True] * 2


def test_a_training_that_fails_leaves_the_modes(pictures):
    model = make().train()
    model.attention.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(FloatingPointError):
        fit(
            model, views(model, pictures, train=True), recipe=Recipe(lr=1e30, head_lr=1e30), **QUIET
        )
    assert [module.training for module in model.modules()] == modes


def test_gradients_of_the_caller_come_back(pictures):
    model, other = make(), make()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.local_head.bias.grad = None
    data = views(model, pictures, train=True)
    for one in (model, other):
        fit_global_head(one, pictures, recipe=ONCE, **QUIET)
        fit(one, data, recipe=ONCE, **QUIET)
    assert model.local_head.bias.grad is None
    others = [p.grad for n, p in model.named_parameters() if n != "local_head.bias"]
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in others)
    assert all(parameter.grad is None for parameter in other.parameters())
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_whole_pictures_are_looked_at_once(pictures, tmp_path, monkeypatch):
    model = make()
    seen = []
    forward = type(model.global_backbone).forward

    def count(self, images):
        if self is model.global_backbone:
            seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(type(model.global_backbone), "forward", count)
    fit_global_head(model, pictures, recipe=ONCE, cache_dir=tmp_path, **QUIET)
    assert sum(seen) == 16  # eight pictures, and mirrored
    seen.clear()
    recipe = Recipe(epochs=1, batch_size=4, freeze=True)
    fit(model, views(model, pictures, train=True), recipe=recipe, cache_dir=tmp_path, **QUIET)
    fit_global_head(model, pictures, recipe=ONCE, cache_dir=tmp_path, **QUIET)
    assert sum(seen) == 0


# Recipes


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (
            {"lr": "1e-3"},
            TypeError,
            "Expected `lr` to be a number, but got '1e-3'. YAML reads 1e-3 as text: write 1.0e-3.",
        ),
        ({"epochs": 2.0}, TypeError, "Expected `epochs` to be a whole number, but got 2.0."),
        (
            {"batch_size": True},
            TypeError,
            "Expected `batch_size` to be a whole number, but got True.",
        ),
        ({"freeze": "yes"}, TypeError, "Expected `freeze` to be True or False, but got 'yes'."),
        (
            {"label_smoothing": 2},
            ValueError,
            "Expected `label_smoothing` to be in [0, 1], but got 2.",
        ),
        (
            {"head_lr": float("nan")},
            ValueError,
            "Expected `head_lr` to be at least 0 and finite, but got nan.",
        ),
        (
            {"decay_epochs": ("3",)},
            TypeError,
            "Expected `decay_epochs` to be a whole number, but got '3'. YAML reads 1e-3 as text: "
            "write 1.0e-3.",
        ),
    ],
)
def test_recipes_that_are_none(given, error, sentence):
    with pytest.raises(error) as caught:
        Recipe(**given)
    assert str(caught.value) == sentence


def test_recipes_take_numbers_of_numpy_and_lists():
    recipe = Recipe(epochs=np.int64(3), lr=np.float32(0.5), decay_epochs=[3, 4])
    assert (recipe.epochs, recipe.lr, recipe.decay_epochs) == (3, 0.5, (3, 4))


# Random state


def test_several_gpus_get_their_random_state_back_without_a_warning(monkeypatch):
    states = [torch.ByteTensor([number]) for number in range(3)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with own_random_state():
            drawn = torch.rand(2)
            states[1].fill_(9)
    assert [int(state) for state in states] == [0, 1, 2]
    assert torch.equal(torch.rand(2), drawn)


def test_a_default_device_of_torch_changes_nothing(pictures):
    def found():
        model = make()
        data = views(model, pictures, train=True)
        fit(model, data, recipe=ONCE, **QUIET)
        sample = views(model, pictures)[3]
        return (
            sample.image,
            sample.boxes,
            torch.tensor(evaluate(model, views(model, pictures), **QUIET).loss, device="cpu"),
            torch.tensor(model.predict(pictures.path(1)).probabilities, device="cpu"),
            model.explain(pictures.path(1)).step_maps,
            *propose_boxes_for(model, pictures, **QUIET).values(),
        )

    wanted = found()
    try:
        torch.set_default_device("meta")
        with pytest.MonkeyPatch.context() as patch:  # a model on the CPU, as one of its own
            built = TwoStreamClassifier.__init__

            def on_cpu(self, *args, **kwargs):
                with torch.device("cpu"):
                    built(self, *args, **kwargs)

            patch.setattr(TwoStreamClassifier, "__init__", on_cpu)
            got = found()
            assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("file", ["result.json", "boxes-test.json"])
def test_a_run_that_cannot_be_read_does_not_let_its_training_pictures_be_measured(
    pictures, tmp_path, monkeypatch, file
):
    part = part_to_measure(tmp_path / "pictures", None)
    listing = listing_of(part.pictures, by_name=True)
    run = tmp_path / "run"
    assert set_aside(part, run) == part  # there is no run
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"pictures": listing}), encoding="utf-8")
    boxes = json.dumps({"boxes": {"auk/0.png": [[0, 0, 9, 9]]}})
    (run / "boxes-test.json").write_text(boxes, encoding="utf-8")
    assert set_aside(part, run).pictures.names == ("auk/0.png",)
    read = Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match="set aside, but got: .*Permission denied"):
        set_aside(part, run)
