"""What is written, on a full disk: one sentence with the file, and nothing half there."""

import re
from functools import partial

import pytest
import torch
from helpers import models
from PIL import Image

from recurrent_attention import export_onnx
from recurrent_attention.data import write_boxes
from recurrent_attention.training import RunFolder, draw_curves
from recurrent_attention.training.checkpoints import Checkpoints
from recurrent_attention.training.feature_store import FeatureStore

resource = pytest.importorskip("resource", reason="limits of a process are a matter of POSIX")
LIMIT = 3000  # bytes that a file may have: no writer here needs fewer
RECORD = {"epoch": 1, "train_loss": 1.0}
RECORD |= {f"train_{stream}": 0.5 for stream in ("global", "local", "fused")}


make = partial(models.make, num_classes=2, hidden_size=8)


def explained():
    return make().explain(Image.effect_noise((64, 64), 60).convert("RGB"))


def checkpoint(folder):
    checkpoints = Checkpoints(folder)
    return lambda: checkpoints.save({"model": {"w": torch.ones(9000)}}, step=1, best_step=-1)


def run(folder):
    opened = RunFolder(folder / "run")
    return lambda: opened.write_json("config.json", {"text": "x" * 9000})


def features(folder):
    store = FeatureStore(folder)
    return lambda: store.add([bytes(32)], torch.ones(1, 9000))


def prepared(make, write):
    """Make what is written while there is room."""

    def prepare(folder):
        made = make()
        return lambda: write(made, folder)

    return prepare


BOXES = {str(number): [[0, 0, 9, 9]] for number in range(999)}
WRITERS = {
    "a model": prepared(make, lambda m, f: m.save_pretrained(f)),
    "boxes": lambda f: lambda: write_boxes(f / "b.json", BOXES),
    "a table of boxes": lambda f: lambda: write_boxes(f / "b.safetensors", BOXES),
    "a checkpoint": checkpoint,
    "features": features,
    "a file of a run": run,
    "curves": lambda f: lambda: draw_curves([RECORD], f / "c.png", best_epoch=1, held_out="test"),
    **{
        f"a figure, {kind}": prepared(explained, lambda e, f, kind=kind: e.save(f / f"e.{kind}"))
        for kind in ("png", "pdf", "svg")
    },
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(tmp_path, writer):
    write = WRITERS[writer](tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.fullmatch(
        rf"Expected to write {re.escape(str(tmp_path))}/\S+, but got: File too large. "
        r"(What was there before is as it was. Make room or choose another place, and try again."
        r"|There is no checkpoint yet. Make room, and go on with resume.)",
        str(caught.value),
    )
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_an_onnx_file_on_a_full_disk(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    model = make()
    try:
        export_onnx(model, tmp_path / "first.onnx")  # compiles, and writes caches of its own
    except ImportError as error:
        pytest.skip(str(error))
    (tmp_path / "model.onnx").write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            export_onnx(model, tmp_path / "model.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"Expected to write {tmp_path / 'model.onnx'}, but got: File too large. What was there "
        "before is as it was. Make room or choose another place, and try again."
    )
    assert (tmp_path / "model.onnx").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"first.onnx", "model.onnx"}
