"""Checkpoints, and going on from them: after an interruption, a kill, SIGTERM, on a full disk."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import LOOK, QUIET, make_data, make_model, results
from stress.kills import without_times
from torchvision.transforms import v2

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._files import whole_file
from recurrent_attention.training import Parts, Recipe, RunFolder, fit, loop, state, train
from recurrent_attention.training.checkpoints import Checkpoints
from recurrent_attention.training.draws import Draws, EpochOrder

RECIPE = Recipe(epochs=3, batch_size=4, lr=1e-3, seed=5)  # 4 updates an epoch


def assert_same(some, others):
    assert some[:2] == others[:2]
    for name, value in others[2].items():
        assert torch.equal(some[2][name], value), name


@pytest.fixture
def stop_at(monkeypatch):
    """Call something in the middle of a given batch, counted over the whole training."""

    def install(number, action):
        look_around, seen = loop.TrainingLoop._look_around, []

        def counted(self, loss, indices):
            seen.append(1)
            if len(seen) == number:
                action()
            return look_around(self, loss, indices)

        monkeypatch.setattr(loop.TrainingLoop, "_look_around", counted)

    return install


class Interrupted(BaseException):
    """Nothing that the package could catch."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "seconds", "freeze"),
    [(6, 600, False), (7, 0, False), (9, 0, False), (2, 600, False), (7, 0, True)],
)
def test_a_resumed_run_equals_one_without_a_break(
    colored_pictures, tmp_path, monkeypatch, stop_at, stop, seconds, freeze
):
    """Stopped in the middle of batch 6, 7, 9 or 2, with a checkpoint an epoch or an update."""
    monkeypatch.setattr(state, "CHECKPOINT_SECONDS", seconds)
    data = make_data(colored_pictures, crop_scale=None if freeze else (0.5, 1))
    recipe = replace(RECIPE, freeze=freeze)
    whole = make_model()
    expected = results(whole, fit(whole, *data, recipe=recipe, **QUIET))

    def interrupt():
        raise Interrupted

    with monkeypatch.context():
        stop_at(stop, interrupt)
        run = RunFolder(tmp_path / "run", resume=True)
        with pytest.raises(Interrupted):
            fit(make_model(), *data, recipe=recipe, run_folder=run, resume=True, **QUIET)
    saved = run.checkpoints.steps()[-1:]
    assert saved == ([stop - 1] if seconds == 0 else [4] if stop == 6 else [])
    torch.manual_seed(99)  # whatever happens in between
    run = RunFolder(tmp_path / "run", resume=True)
    model = make_model()
    found = results(model, fit(model, *data, recipe=recipe, run_folder=run, resume=True, **QUIET))
    assert_same(found, expected)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert without_times({"history": [json.loads(x) for x in lines]})["history"] == (
        json.loads(json.dumps(expected[0]["history"]))
    )
    kept = TwoStreamClassifier.from_pretrained(run.model_dir).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in expected[2].items())
    again = make_model()  # a run that is done already gives the same once more
    found = results(again, fit(again, *data, recipe=recipe, run_folder=run, resume=True, **QUIET))
    assert_same(found, expected)


EVERYTHING = replace(
    RECIPE, layer_decay=0.7, ema_decay=0.8, clip_grad=1.0, mixup=0.4, cutmix=0.4, patience=5,
    class_balance="sampler",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere os.kill ends the process at once")
def test_a_run_with_everything_on_resumes_bit_for_bit(
    colored_pictures, tmp_path, monkeypatch, stop_at
):
    """Broken off within the second epoch, in the validation of the first, and after it."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pictures, boxes = colored_pictures
    unequal = pictures.subset([0, 2, 4, 6, 8, 10, 1, 3, 12, 14, 5, 7, 9, 11, 13])
    data = make_data((unequal, boxes), augment=v2.ColorJitter(0.5, hue=0.2))

    def train(name):
        run, model = RunFolder(tmp_path / name, resume=True), make_model()
        given = {"recipe": EVERYTHING, "run_folder": run, "resume": True, "trackers": "tensorboard"}
        found = results(model, fit(model, *data, **given, **QUIET))
        state = run.checkpoints.load(run.checkpoints.steps()[-1])
        events = accumulators.EventAccumulator(str(run.path / "recurrent-attention")).Reload()
        told = [(event.step, event.value) for event in events.Scalars("val_loss")]
        return found, state["average"], state["model"], told

    expected = train("whole")
    assert any(not torch.equal(expected[1][name], expected[2][name]) for name in expected[1])

    def interrupt(*_):
        raise Interrupted

    def terminated(*args, **kwargs):
        seen.append(1)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluation(*args, **kwargs)

    evaluation, seen = loop.run_evaluation, []
    updates = 3  # an epoch: the last three pictures are left out
    for name, error, step in (
        ("batch", Interrupted, updates + 1),
        ("validation", SystemExit, updates),
        ("epoch", Interrupted, updates),
    ):
        with monkeypatch.context() as patched:
            if name == "batch":
                patched.setattr(state, "CHECKPOINT_SECONDS", 0)
                stop_at(updates + 2, interrupt)
            elif name == "validation":
                patched.setattr(loop, "run_evaluation", terminated)
            else:
                patched.setattr(loop.TrainingLoop, "_tell_epoch", interrupt)
            with pytest.raises(error):
                train(name)
        steps = RunFolder(tmp_path / name, resume=True).checkpoints.steps()
        assert steps[-1] == step, name
        torch.manual_seed(99)  # whatever happens in between
        found = train(name)
        assert_same(found[0], expected[0])
        for some, others in zip(found[1:3], expected[1:3], strict=True):
            assert all(torch.equal(some[key], tensor) for key, tensor in others.items()), name
        assert found[3] == expected[3]


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_the_model_loses_neither(
    colored_pictures, tmp_path, monkeypatch
):
    data, recipe = make_data(colored_pictures), replace(RECIPE, epochs=1)

    def interrupt(*_):
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_model", interrupt)
        with pytest.raises(Interrupted):
            fit(make_model(), *data, recipe=recipe, run_folder=RunFolder(tmp_path / "run"), **QUIET)
    run = RunFolder(tmp_path / "run", resume=True)
    model = make_model()
    fit(model, *data, recipe=recipe, run_folder=run, resume=True, **QUIET)
    kept = TwoStreamClassifier.from_pretrained(run.model_dir).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert json.loads((run.path / "metrics.jsonl").read_text())["epoch"] == 1


@pytest.mark.skipif(os.name != "posix", reason="elsewhere os.kill ends the process at once")
def test_sigterm_saves_and_ends(colored_pictures, tmp_path, stop_at):
    data = make_data(colored_pictures)
    whole = make_model()
    expected = results(whole, fit(whole, *data, recipe=RECIPE, **QUIET))
    before = signal.getsignal(signal.SIGTERM)
    stop_at(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run = RunFolder(tmp_path / "run")
    model = make_model().eval()
    with pytest.raises(SystemExit) as caught:
        fit(model, *data, recipe=RECIPE, run_folder=run, **QUIET)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert not model.training
    assert run.checkpoints.steps() == [4, 6]  # the best epoch's, and update 6, the one under way
    run = RunFolder(tmp_path / "run", resume=True)
    model = make_model()
    found = results(model, fit(model, *data, recipe=RECIPE, run_folder=run, resume=True, **QUIET))
    assert_same(found, expected)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be replaced")
def test_whole_files_reach_the_disk_and_then_their_name(tmp_path, monkeypatch):
    path, done = tmp_path / "a.txt", []
    path.write_text("old")
    fsync, replaced = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append("sync") or fsync(number))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: done.append("rename") or replaced(self, to)
    )
    with path.open() as before:
        with whole_file(path) as beside:
            beside.write_text("new")
        assert before.read() == "old"  # replaced, not overwritten
    assert path.read_text() == "new"
    assert done == ["sync", "rename", "sync"]


def test_only_the_best_and_the_last_checkpoint_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        checkpoints.save({"model": {"w": torch.ones(step)}}, step=step, best_step=best)
        assert checkpoints.steps() == sorted({step, best})
    assert torch.equal(checkpoints.load(3)["model"]["w"], torch.ones(3))
    with pytest.raises(FloatingPointError) as caught:
        checkpoints.save({"model": {"w": torch.tensor([1, torch.inf])}}, step=6, best_step=6)
    assert str(caught.value) == (
        f"Expected finite weights, but w holds NaN or infinity after update 6. The checkpoint "
        f"before, {tmp_path / 'step-000005.pt'}, is whole. Lower the learning rate, or train in "
        "fp32."
    )
    assert checkpoints.steps() == [3, 5]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are a matter of POSIX")
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save({"model": {"w": torch.ones(10)}}, step=1, best_step=-1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond it
    try:
        with pytest.raises(OSError) as caught:
            checkpoints.save({"model": {"w": torch.ones(100_000)}}, step=2, best_step=-1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"Expected to write {tmp_path / 'run' / 'step-000002.pt'}, but got: File "
        f"too large. The checkpoint before, {tmp_path / 'run' / 'step-000001.pt'}, is whole. Make "
        "room, and go on with resume."
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000001.pt"]
    assert torch.equal(checkpoints.load(1)["model"]["w"], torch.ones(10))


class Payload:
    def __reduce__(self):
        return (os.system, ("echo ran > hacked",))


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "code"])
def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"model": {"w": torch.ones(10)}}, step=1, best_step=-1)
    path = checkpoints.path(1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif damage == "flipped":
        path.write_bytes(b"\x00" * 40 + path.read_bytes()[40:])
    elif damage == "other":
        torch.save({"w": torch.ones(10)}, path)
    else:
        torch.save({"format": 1, "model": Payload()}, path)
    with pytest.raises(ValueError, match="^Expected a checkpoint of this package at ") as caught:
        checkpoints.load(1)
    assert f"{path}, but got: " in str(caught.value)
    assert str(caught.value).endswith(
        ". Delete it to go on from the one before, if there is one, or else from the beginning."
    )
    assert not (tmp_path / "hacked").exists()
    if damage == "code":  # the payload is one
        torch.load(path, weights_only=False)
        assert (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), r"\[Errno 13\] Permission denied"),
        (OSError(24, "Too many open files"), r"\[Errno 24\] Too many open files"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    tmp_path, monkeypatch, error, reason
):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"model": {"w": torch.ones(2)}}, step=1, best_step=-1)

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(OSError, match=f"{reason}. It may be whole") as caught:
        checkpoints.load(1)
    assert "Delete" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "part", "before", "after"),
    [
        ("recipe", "recipe lr", "0.001", "0.002"),
        ("model", "model hidden_size", "8", "16"),
        ("data", "training data", "'16 pictures, ", "'16 pictures, "),
    ],
)
def test_another_training_is_not_resumed(colored_pictures, tmp_path, change, part, before, after):
    data = make_data(colored_pictures)
    short = replace(RECIPE, epochs=1)
    fit(make_model(), *data, recipe=short, run_folder=RunFolder(tmp_path / "run"), **QUIET)
    model, recipe = make_model(), short
    if change == "recipe":
        recipe = replace(short, lr=2e-3)
    elif change == "model":
        model = TwoStreamClassifier(
            "test_resnet", 2, image_size=32, patch_size=32, hidden_size=16, num_steps=2,
            backbone_kwargs={"pretrained_cfg_overlay": LOOK},
        )  # fmt: skip
    else:
        data[0].boxes = {name: boxes + 1 for name, boxes in data[0].boxes.items()}
    run = RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(ValueError) as caught:
        fit(model, *data, recipe=recipe, run_folder=run, resume=True, **QUIET)
    message = str(caught.value)
    path = tmp_path / "run" / "checkpoints" / "step-000004.pt"
    assert message.startswith(f"Expected to resume with the {part} of {path}, {before}")
    assert f", but got {after}" in message
    assert message.endswith("Start the run as it was started, or begin another in a new folder.")


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path):
    RunFolder(tmp_path / "run").write_json("skipped.json", {})  # and then it was killed
    assert RunFolder(tmp_path / "run", resume=True).checkpoints.steps() == []
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError) as caught:
        RunFolder(tmp_path, resume=True)
    assert str(caught.value) == (
        f"Expected the folder of a run to go on with, but {tmp_path} holds something else, and no "
        "folder checkpoints. Name the folder of the run."
    )
    with pytest.raises(ValueError) as caught:
        fit(make_model(), None, resume=True)
    assert str(caught.value) == (
        "Expected a `run_folder` to resume from, but got None. Pass RunFolder(path, resume=True)."
    )


def test_a_loss_that_is_not_finite_names_the_batch(colored_pictures, tmp_path, monkeypatch):
    data = make_data(colored_pictures)
    run = RunFolder(tmp_path / "run")
    forward, calls = TwoStreamClassifier.forward, []

    def overflow(self, *args):
        output = forward(self, *args)
        calls.append(self.training)
        if sum(calls) == 6:
            return output._replace(global_logits=output.global_logits * torch.inf)
        return output

    monkeypatch.setattr(TwoStreamClassifier, "forward", overflow)
    with pytest.raises(FloatingPointError) as caught:
        fit(make_model(), *data, recipe=RECIPE, run_folder=run, **QUIET)
    order = EpochOrder(data[0], RECIPE.seed, shuffle=True)
    order.go_to(2)
    names = [data[0].pictures.names[index] for _, index in list(order)[4:8]]
    path = run.checkpoints.path(4)
    assert str(caught.value) == (
        f"Expected a finite loss, but got nan in epoch 2, batch 2 (update 6), at learning rate "
        f"{5e-4 * (1 + math.cos(math.pi / 8)):.2g}, on the "
        f"pictures {', '.join(names)}. Lower the learning rate, train in fp32, or look at these "
        f"pictures. The checkpoint before, {path}, is whole."
    )
    assert run.checkpoints.load(4)["progress"]["epoch"] == 2


def test_draws_depend_on_seed_epoch_and_picture_alone(colored_pictures):
    data, _ = make_data(colored_pictures)
    draws = Draws(data, seed=1)
    torch.manual_seed(0)
    first = draws[3, 5]
    torch.manual_seed(1)
    draws[3, 6]
    for one, other in zip(first, draws[3, 5], strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    others = [Draws(data, seed=2)[3, 5], draws[4, 5]]
    assert all(not torch.equal(first[4], other[4]) for other in others)  # the boxes
    order = EpochOrder(data, seed=1, shuffle=True)
    order.go_to(7)
    whole = list(order)
    assert sorted(whole) == [(7, index) for index in range(16)]
    order.go_to(7, first=10)
    assert list(order) == whole[10:]
    order.go_to(8)
    assert [index for _, index in order] != [index for _, index in whole]


@pytest.mark.slow
def test_worker_processes_change_nothing(colored_pictures):
    data, _ = make_data(colored_pictures)
    weights = []
    for num_workers in (0, 2):
        model = make_model()
        recipe = replace(RECIPE, epochs=2)
        fit(model, data, recipe=recipe, num_workers=num_workers, **QUIET)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_stays_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    run = RunFolder("run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.checkpoints.save({"model": {}, "average": None}, step=1, best_step=1)
    run.write_json("config.json", {})
    run.save_model(make_model())
    assert not list((tmp_path / "elsewhere").iterdir())
    assert run.checkpoints.steps() == [1]
    assert RunFolder(tmp_path / "new" / "run").path == tmp_path / "new" / "run"
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"checkpoints", "config.json"}


def test_a_place_below_a_file_is_refused(tmp_path, colored_pictures):
    file = tmp_path / "file"
    file.write_text("")
    parts = Parts("pictures", *[colored_pictures[0]] * 3)
    for call in (
        lambda: RunFolder(file / "run"),
        lambda: train(parts, out=file / "run", backbone="no_such_backbone"),
    ):
        with pytest.raises(NotADirectoryError, match="^Expected a place for a folder at .* a file"):
            call()
    with pytest.raises(FileExistsError, match="^Expected a folder at .*file, but it is a file"):
        fit(make_model(), make_data(colored_pictures)[0], cache_dir=file, **QUIET)
