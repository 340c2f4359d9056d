"""Trackers get what metrics.jsonl gets: TensorBoard's files are read back."""

import json

import pytest
from accelerate import PartialState
from accelerate.tracking import GeneralTracker
from helpers.runs import QUIET, make_data, make_model

from recurrent_attention.training import Recipe, RunFolder, fit
from recurrent_attention.training.tracking import checked_trackers

RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3, head_lr=1e-2)


class Notebook(GeneralTracker):
    """Keeps what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.config, self.told, self.ends = None, [], 0

    @property
    def tracker(self):
        return self

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.told.append((step, values))

    def finish(self):
        self.ends += 1


def told_of(record):
    """An epoch's line of metrics, flat."""
    backbones, heads = record["lr"]
    rest = {name: value for name, value in record.items() if name != "lr"}
    return rest | {"lr_backbones": backbones, "lr_heads": heads}


@pytest.mark.slow
def test_tensorboard_holds_the_metrics(colored_pictures, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, notebook = RunFolder(tmp_path / "run"), Notebook()
    fit(
        make_model(), *make_data(colored_pictures), recipe=RECIPE, run_folder=run,
        trackers=["tensorboard", notebook], **QUIET,
    )  # fmt: skip
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    expected = [told_of(json.loads(line)) for line in lines]
    assert notebook.told == list(zip((1, 2), expected, strict=True))
    assert notebook.ends == 1
    assert notebook.config["head_lr"] == 1e-2
    assert notebook.config["ema_decay"] == "None"
    events = accumulators.EventAccumulator(str(run.path / "recurrent-attention")).Reload()
    assert set(events.Tags()["scalars"]) == set(expected[0])
    for name in expected[0]:
        found = events.Scalars(name)
        assert [event.step for event in found] == [1, 2]
        values = [record[name] for record in expected]
        assert [event.value for event in found] == pytest.approx(values, rel=1e-6), name


def test_trackers_are_closed_when_the_training_fails(colored_pictures):
    notebook = Notebook()

    def fail(record):
        raise KeyError("of the caller's")

    with pytest.raises(KeyError):
        fit(
            make_model(), make_data(colored_pictures)[0], recipe=Recipe(epochs=1, batch_size=8),
            trackers=notebook, on_epoch=fail, **QUIET,
        )  # fmt: skip
    assert (len(notebook.told), notebook.ends) == (1, 1)


def test_the_end_of_a_training_does_not_part_the_processes(colored_pictures, monkeypatch):
    """Accelerate's `end_training` does: whatever several processes share afterwards would fail."""
    parted = []
    monkeypatch.setattr(
        PartialState, "destroy_process_group", lambda self, group=None: parted.append(group)
    )
    notebook = Notebook()
    recipe = Recipe(epochs=1, batch_size=8)
    fit(make_model(), make_data(colored_pictures)[0], recipe=recipe, trackers=notebook, **QUIET)
    assert (notebook.ends, parted) == (1, [])


def test_what_is_not_installed_is_refused(colored_pictures, monkeypatch):
    monkeypatch.setattr(
        "recurrent_attention.training.tracking.get_available_trackers", lambda: ["mlflow"]
    )
    with pytest.raises(ValueError) as caught:
        fit(make_model(), make_data(colored_pictures)[0], trackers="comet_ml", **QUIET)
    assert str(caught.value) == (
        "Expected `trackers` to be installed, but 'comet_ml' is not. Install it, such as by pip "
        "install comet-ml; there is: mlflow."
    )
    monkeypatch.setattr(
        "recurrent_attention.training.tracking.get_available_trackers", lambda: ["tensorboard"]
    )
    with pytest.raises(ValueError) as caught:
        checked_trackers(["tensorboard"], None)
    assert str(caught.value) == (
        "Expected a `run_folder` for the files of TensorBoard, but got None. Pass RunFolder(path)."
    )
    notebook = Notebook()
    assert checked_trackers(notebook, None) == [notebook]
    assert checked_trackers(None, None) == []
