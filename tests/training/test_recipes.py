"""What each field of a recipe does, against timm's own groups and plain loops."""

import math
import shutil
from dataclasses import replace

import pytest
import timm.optim
import torch
from helpers.runs import LOOK, QUIET, make_data, make_model

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.training import Evaluation, Recipe, fit, loop, networks
from recurrent_attention.training.draws import EpochOrder
from recurrent_attention.training.loop import TrainingLoop
from recurrent_attention.training.optimization import build_optimizer
from recurrent_attention.training.processes import Resources

RECIPE = Recipe(epochs=2, batch_size=4, lr=1e-2, head_lr=1e-1, warmup_epochs=0)


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(some, others, tolerance=0.0):
    for name, tensor in others.items():
        distance = (some[name].double() - tensor.double()).abs().max()
        assert distance <= tolerance, (name, distance)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("decay_biases", [False, True])
def test_groups_are_timms_own(backbone, decay_biases):
    model = TwoStreamClassifier(
        backbone, 2, image_size=64, patch_size=32, hidden_size=8, num_steps=2
    )
    recipe = Recipe(
        layer_decay=0.6, weight_decay=0.03, lr=2e-3, head_lr=5e-2, decay_biases=decay_biases
    )
    expected = {}
    for group in timm.optim.param_groups_layer_decay(
        model, weight_decay=0.03, layer_decay=0.6, weight_decay_exclude_1d=not decay_biases,
        no_weight_decay_list=[] if decay_biases else list(model.no_weight_decay()),
    ):  # fmt: skip
        for parameter in group["params"]:
            expected[id(parameter)] = group["lr_scale"], group["weight_decay"]
    found = {
        id(parameter): (group["lr_scale"], group["weight_decay"], group["lr"])
        for group in build_optimizer(model, recipe).param_groups
        for parameter in group["params"]
    }
    assert set(found) == set(expected)
    for name, parameter in model.named_parameters():
        scale, decay, rate = found[id(parameter)]
        assert (scale, decay) == expected[id(parameter)], name
        assert rate == (2e-3 if "backbone" in name else 5e-2)
        left_out = parameter.ndim < 2 or "pos_embed" in name or "token" in name
        assert (decay == 0) == (left_out and not decay_biases), name
    scales = {scale for scale, *_ in found.values()}
    assert max(scales) == 1
    assert min(scales) <= 0.6**3


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", True), ("momentum", False)])
def test_sgd_has_nesterovs_momentum_and_momentum_has_not(name, nesterov):
    """Two updates by the same gradient, by hand."""
    model = make_model()
    recipe = Recipe(optimizer=name, momentum=0.8, lr=0.1, head_lr=0.1, weight_decay=0.0)
    optimizer = build_optimizer(model, recipe)
    parameter = model.local_head.weight
    value, gradient, velocity = parameter.detach().double(), torch.full_like(parameter, 0.5), 0.0
    for _ in range(2):
        parameter.grad = gradient.clone()
        optimizer.step()
        velocity = 0.8 * velocity + gradient.double()
        value = value - 0.1 * (gradient + 0.8 * velocity if nesterov else velocity)
    torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-6, atol=1e-7)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError) as caught:
        Recipe(optimizer="sgd", momentum=0)
    assert str(caught.value) == (
        "Expected `momentum` to be above 0 with optimizer='sgd', whose momentum is Nesterov's, but "
        "got 0. Take optimizer='momentum'."
    )


def test_optimizers_that_cannot_work_here_are_refused():
    with pytest.raises(ValueError, match="^Expected `optimizer` to need gradients "):
        Recipe(optimizer="adahessian")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="^Expected `optimizer` to work on this "):
            build_optimizer(make_model(), Recipe(optimizer="fusedlamb"))


@pytest.mark.slow
def test_clipping_bounds_the_update(colored_pictures):
    """Plain SGD moves the weights by the rate times the gradient."""
    moved = []
    for limit in (None, 0.01):
        model = make_model()
        before = copy_of(model)
        recipe = replace(
            RECIPE, epochs=1, batch_size=16, optimizer="momentum", momentum=0, weight_decay=0,
            lr=0.5, head_lr=0.5, clip_grad=limit,
        )  # fmt: skip
        fit(model, make_data(colored_pictures)[0], recipe=recipe, **QUIET)
        squares = sum(
            float(((p.detach() - before[name]).double() ** 2).sum())
            for name, p in model.named_parameters()
        )
        moved.append(math.sqrt(squares))
    assert moved[0] > 0.02
    assert moved[1] == pytest.approx(0.5 * 0.01, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_checkpointing_changes_memory_alone(colored_pictures, backbone):
    trained = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = TwoStreamClassifier(
            backbone, 2, image_size=32, patch_size=32, hidden_size=8, num_steps=2, drop_rate=0.3,
            backbone_kwargs={"pretrained_cfg_overlay": LOOK},
        )  # fmt: skip
        model.local_backbone.set_grad_checkpointing(True)  # as the user has set it
        modules = [m for m in model.modules() if hasattr(m, "grad_checkpointing")]
        before, within = [m.grad_checkpointing for m in modules], []
        fit(
            model, make_data(colored_pictures)[0],
            recipe=replace(RECIPE, epochs=1, grad_checkpointing=enable),
            on_batch=lambda _, modules=modules, within=within: within.append(
                [m.grad_checkpointing for m in modules]
            ),
            **QUIET,
        )  # fmt: skip
        assert [m.grad_checkpointing for m in modules] == before
        assert any(before)
        assert sum(within[0]) > sum(before) if enable else within[0] == before
        trained.append(copy_of(model))
    if backbone == "test_convnext":  # the user's own checkpointing counts batches as it always did
        assert_equal(*trained, tolerance=1e-6)
    else:
        ours = {n: t for n, t in trained[0].items() if not n.startswith("local_backbone")}
        assert_equal(trained[1], ours, tolerance=1e-6)
        counted = [v for n, v in trained[1].items() if n.endswith("num_batches_tracked")]
        assert {int(v) for v in counted} == {4}


def test_processes_that_share_batch_norms_do_not_compute_again(monkeypatch):
    class TwoProcesses:
        num_processes = 2

    monkeypatch.setattr(networks, "PartialState", TwoProcesses)
    with pytest.raises(ValueError) as caught, networks.checkpointed(make_model(), True):
        pass
    assert str(caught.value) == (
        "Expected grad_checkpointing=False for batch norms that 2 processes share, which would "
        "compute again with the pictures of one alone, but got True. Take one process, or a "
        "backbone without batch norms."
    )


def test_the_sampler_draws_classes_equally_often():
    labels = [0] * 80 + [1] * 15 + [2] * 5
    weights = torch.tensor([1 / labels.count(label) for label in labels])
    order = EpochOrder(labels, 3, shuffle=True, weights=weights)
    drawn = []
    for epoch in range(60):
        order.go_to(epoch)
        places = list(order)
        assert places == list(order)
        order.go_to(epoch, 40)
        assert list(order) == places[40:]
        seen = {}
        for number, index, *again in places:
            assert number == epoch
            assert again == ([seen[index]] if index in seen else [])  # another view of the same
            seen[index] = seen.get(index, 0) + 1
        drawn += [index for _, index, *_ in places]
    shares = [sum(labels[index] == k for index in drawn) / len(drawn) for k in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)  # three standard deviations
    counts = [drawn.count(index) for index in range(95, 100)]
    assert min(counts) > 300  # 400 each


@pytest.mark.parametrize("balance", ["none", "loss", "sampler"])
def test_balanced_classes(colored_pictures, balance):
    """Of ten pictures eight are of the first class."""
    pictures, boxes = colored_pictures
    data, _ = make_data((pictures.subset([0, 2, 4, 6, 8, 10, 12, 14, 1, 3]), boxes))
    model = make_model()
    training = TrainingLoop(
        resources=Resources(model, device="cpu", num_workers=0, progress=False), model=model,
        network=networks.Streams(model), train_data=data, validation_data=None,
        names=data.pictures.names, labels=data.pictures.labels,
        recipe=Recipe(class_balance=balance), identity={}, run_folder=None,
    )  # fmt: skip
    expected = [10 / (2 * 8), 10 / (2 * 2)]
    weight, weights = training.loss_of.weight, training.order.weights
    assert (weight is None) == (balance != "loss")
    assert (weights is None) == (balance != "sampler")
    if balance == "loss":
        assert weight.tolist() == pytest.approx(expected)
    if balance == "sampler":
        assert weights.tolist() == pytest.approx([expected[0]] * 8 + [expected[1]] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_ends_where_a_loop_says(colored_pictures, monkeypatch, patience):
    losses = [3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 1.7, 1.0]
    measured = iter(losses)
    monkeypatch.setattr(
        loop, "run_evaluation", lambda *_, **__: Evaluation(next(measured), 0, 0, 0, 4, 1.0)
    )
    recipe = Recipe(epochs=8, batch_size=16, freeze=True, patience=patience)
    data = make_data(colored_pictures, crop_scale=None)
    result = fit(make_model(), *data, recipe=recipe, **QUIET)
    best, waited, ended = math.inf, 0, 0
    for loss in losses:
        ended += 1
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            break
    assert len(result.history) == ended
    assert result.best_epoch == losses.index(best) + 1


def test_patience_needs_validation_data(colored_pictures):
    with pytest.raises(ValueError) as caught:
        fit(make_model(), make_data(colored_pictures)[0], recipe=Recipe(patience=3), **QUIET)
    assert str(caught.value) == (
        "Expected `validation_data` to stop after patience=3 epochs without a better one, but got "
        "None. Pass some, or patience=None."
    )


@pytest.mark.slow
def test_the_caller_sees_batches_and_epochs_and_may_end(colored_pictures, monkeypatch):
    measured = iter([2.0, 1.0, 1.5, 0.5])
    monkeypatch.setattr(
        loop, "run_evaluation", lambda *_, **__: Evaluation(next(measured), 0, 0, 0, 4, 1.0)
    )
    model, batches, epochs, weights = make_model(), [], [], []

    def on_epoch(record):
        epochs.append(dict(record))
        weights.append(copy_of(model))
        record.clear()  # is the caller's own
        return len(epochs) == 3

    recipe = replace(RECIPE, epochs=4, freeze=True)
    data = make_data(colored_pictures, crop_scale=None)
    result = fit(model, *data, recipe=recipe, on_epoch=on_epoch, on_batch=batches.append, **QUIET)
    assert result.best_epoch == 2
    assert result.history == epochs
    assert_equal(copy_of(model), weights[1])
    assert [(b["epoch"], b["batch"], b["batches"]) for b in batches] == [
        (epoch, batch, 4) for epoch in (1, 2, 3) for batch in (1, 2, 3, 4)
    ]
    for record in epochs:
        losses = [b["loss"] for b in batches if b["epoch"] == record["epoch"]]
        assert record["train_loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    for update, batch in enumerate(batches, 1):  # the rates of the next update
        factor = 0.5 * (1 + math.cos(math.pi * update / 16))
        assert batch["lr"] == pytest.approx([0.1 * factor])


@pytest.mark.slow
def test_everything_at_once_is_the_same_twice(colored_pictures):
    recipe = replace(
        RECIPE, mixup=1, cutmix=0.5, class_balance="sampler", ema_decay=0.9, clip_grad=1
    )
    trained = []
    for seed in (1, 2):
        model = make_model()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        fit(model, make_data(colored_pictures)[0], recipe=recipe, **QUIET)
        assert torch.equal(torch.get_rng_state(), state)
        trained.append(copy_of(model))
    assert_equal(*trained)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_network_trains_alike(colored_pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))  # none half written
    trained = []
    for compiled in (False, True):
        model = make_model()
        recipe = replace(
            RECIPE, epochs=1, batch_size=8, optimizer="momentum", lr=1e-3, head_lr=1e-2,
            compile=compiled,
        )  # fmt: skip
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # a compiled one draws otherwise
        model.drop_rate = 0.0
        fit(model, make_data(colored_pictures)[0], recipe=recipe, **QUIET)
        trained.append(copy_of(model))
        assert model._compiled_call_impl is None
    assert_equal(*trained, tolerance=1e-4)


def test_automatic_precision_is_float32_on_the_cpu():
    found = Resources(make_model(), device="cpu", num_workers=0, progress=False, precision="auto")
    assert found.accelerator.mixed_precision == "no"
