"""The average of the weights, against a loop over the weights after each update."""

import pytest
import torch
from helpers.runs import QUIET, make_data, make_model

from recurrent_attention.hub.weights import read_weights
from recurrent_attention.training import Recipe, RunFolder, fit, loop
from recurrent_attention.training.averaging import WeightAverage

DECAY = 0.7


def recipe(**kwargs):
    given = {"epochs": 3, "batch_size": 4, "lr": 1e-2, "head_lr": 1e-1, "ema_decay": DECAY}
    return Recipe(**(given | kwargs))


def copy_of(weights):
    return {name: tensor.clone() for name, tensor in weights.items()}


def average_by_loop(history):
    """timm's warm-up, in float64: after update t at most 1 - t ** (-2 / 3) is kept."""
    found, average = [], {}
    for update, weights in enumerate(history, 1):
        keep = min(DECAY, 1 - update ** (-2 / 3)) if update > 1 else 0.0
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                before = average.get(name, torch.zeros(()))
                average[name] = keep * before + (1 - keep) * tensor.double()
            else:
                average[name] = tensor
        found.append(dict(average))
    return found


@pytest.fixture
def recorded(monkeypatch):
    """Note the weights after each update, and what is measured after each epoch."""
    notes = {"weights": [], "shown": []}
    update, evaluation = WeightAverage.update, loop.run_evaluation

    def updated(self, updates):
        notes["weights"].append(copy_of(self.model.state_dict()))
        assert updates == len(notes["weights"])
        update(self, updates)

    def evaluated(resources, network, *args, **kwargs):
        notes["shown"].append(copy_of(network.model.state_dict()))
        return evaluation(resources, network, *args, **kwargs)

    monkeypatch.setattr(WeightAverage, "update", updated)
    monkeypatch.setattr(loop, "run_evaluation", evaluated)
    return notes


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_the_average_equals_a_loop_over_the_weights(colored_pictures, recorded, freeze):
    model = make_model()
    before = copy_of(model.state_dict())
    data = make_data(colored_pictures, crop_scale=None if freeze else (0.5, 1))
    result = fit(model, *data, recipe=recipe(freeze=freeze), **QUIET)
    assert len(recorded["weights"]) == 12
    expected = average_by_loop(recorded["weights"])[3::4]  # after each epoch
    for shown, average in zip(recorded["shown"], expected, strict=True):
        for name, tensor in average.items():
            torch.testing.assert_close(shown[name].double(), tensor.double(), rtol=1e-5, atol=1e-6)
    best = recorded["shown"][result.best_epoch - 1]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best[name]), name
        if freeze and "backbone" in name:
            assert torch.equal(tensor, before[name]), name
    last = recorded["weights"][-1]["local_head.weight"]
    assert (last - recorded["shown"][-1]["local_head.weight"]).abs().max() > 1e-3


@pytest.mark.slow
def test_the_average_changes_nothing_about_the_training(colored_pictures, recorded):
    fit(make_model(), *make_data(colored_pictures), recipe=recipe(epochs=2), **QUIET)
    plain = make_model()
    data = make_data(colored_pictures)[0]
    fit(plain, data, recipe=recipe(epochs=2, ema_decay=None), **QUIET)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, recorded["weights"][-1][name]), name


@pytest.mark.slow
def test_a_failure_while_the_average_is_shown_leaves_the_trained_weights(
    colored_pictures, monkeypatch
):
    weights = []
    update = WeightAverage.update

    def updated(self, updates):
        weights.append(copy_of(self.model.state_dict()))
        update(self, updates)

    def fail(*args, **kwargs):
        raise OSError("the disk is gone")

    monkeypatch.setattr(WeightAverage, "update", updated)
    monkeypatch.setattr(loop, "run_evaluation", fail)
    model = make_model().eval()
    with pytest.raises(OSError, match="the disk is gone"):
        fit(model, *make_data(colored_pictures), recipe=recipe(epochs=1), **QUIET)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[-1][name]), name


def test_the_average_is_what_a_checkpoint_is_loaded_for(colored_pictures, tmp_path):
    run = RunFolder(tmp_path / "run")
    model = make_model()
    fit(model, *make_data(colored_pictures), recipe=recipe(epochs=1), run_folder=run, **QUIET)
    (path,) = run.checkpoints.folder.glob("*.pt")
    for use_ema, kept in ((True, "average"), (False, "model")):
        weights = read_weights(path, use_ema=use_ema)
        wanted = torch.load(path, weights_only=True)[kept]
        assert torch.equal(weights["global_head.weight"], wanted["global_head.weight"])
    assert torch.equal(model.global_head.weight, read_weights(path)["global_head.weight"])


def test_weights_in_bfloat16_are_averaged_in_float32():
    model = make_model().bfloat16()
    average = WeightAverage(model, DECAY, freeze=False)
    history = []
    for update in range(1, 4):
        with torch.no_grad():
            model.local_head.weight.add_(0.01 * update)
        history.append(copy_of(model.state_dict()))
        average.update(update)
    name = "local_head.weight"
    expected = average_by_loop(history)[-1][name]
    assert average.state_dict()[name].dtype == torch.float32
    torch.testing.assert_close(average.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-6)
    own = copy_of(model.state_dict())
    with average.shown():
        assert torch.equal(model.local_head.weight, expected.bfloat16())
        assert torch.equal(average.trained()[name], own[name])
    assert torch.equal(model.state_dict()[name], own[name])
