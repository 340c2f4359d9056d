"""Names from outside in messages, reports and figures: no terminal escapes, and always UTF-8."""

import json
import os
import struct
import subprocess
import sys
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from helpers import models
from PIL import Image

from recurrent_attention import Prediction, TwoStreamClassifier, export_onnx, load_checkpoint
from recurrent_attention.data import (
    CUB200,
    PictureFolder,
    Pictures,
    StanfordDogs,
    TwoStreamDataset,
    check_pictures,
    read_boxes,
    read_patch_file,
)
from recurrent_attention.data._fetching.archive import unpack
from recurrent_attention.images import open_picture
from recurrent_attention.training import RunFolder, parts_of_folder
from recurrent_attention.training.checkpoints import Checkpoints

pytestmark = pytest.mark.skipif(os.name != "posix", reason="names are any bytes on POSIX alone")
ODD = os.fsdecode(b"\x1b[2J\xffbird\n")
SHOWN = r"\x1b[2J\udcffbird\n"


@pytest.fixture
def folder(tmp_path):
    """A folder of such a name, with a picture of such a name."""
    inside = tmp_path / ODD
    (inside / ODD).mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(inside / ODD / f"{ODD}.png")
    return inside


def pictures(folder):
    return Pictures(folder, [f"{ODD}/{ODD}.png"], [0], [ODD])


make = partial(models.make, num_classes=2, hidden_size=8)


def boxes_file(folder):
    (folder / "boxes.json").write_text('{"boxes": []}')
    return read_boxes(folder / "boxes.json", pictures(folder))


def boxes_file_with_one_outside(folder):
    (folder / "boxes.json").write_text(
        json.dumps({"boxes": {f"{ODD}/{ODD}.png": [[0, 0, 99, 99]]}})
    )
    return read_boxes(folder / "boxes.json", pictures(folder))


def patch_file_with_one_outside(folder):
    np.save(folder / "x.npy", np.array([[[0, 900, 0, 900, 0]]]))
    return read_patch_file(folder / "x.npy", pictures(folder))


def patch_file(folder):
    np.save(folder / "x.npy", np.zeros((7, 1, 5)))
    return read_patch_file(folder / "x.npy", pictures(folder))


def cub(folder, **changed):
    files = {
        "images.txt": f"1 {SHOWN}/a.jpg",
        "image_class_labels.txt": "1 1",
        "train_test_split.txt": "1 1",
        "classes.txt": "1 a",
    } | changed
    (folder / "images").mkdir()
    for name, text in files.items():
        (folder / name.replace("_txt", ".txt")).write_text(text)
    return CUB200(folder)


def archive(folder):
    path = folder / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo(f"../{ODD}"))
    return unpack([path], folder / "out", progress=False)


def checkpoint(folder):
    (folder / "step-000001.pt").write_text("x")
    return Checkpoints(folder).load(1)


def config(folder):
    model = make()
    model.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text("{")
    return TwoStreamClassifier.from_pretrained(folder / "model")


def weights(folder):
    torch.save({ODD: torch.ones(1)}, folder / "x.pth")
    return load_checkpoint(make(), folder / "x.pth")


READERS = {
    "a missing picture": lambda f: open_picture(f / "gone.png"),
    "a folder": open_picture,
    "no picture": lambda f: (f / "x.png").write_text("x") and open_picture(f / "x.png"),
    "boxes": boxes_file,
    "a box outside, from a file": boxes_file_with_one_outside,
    "no boxes": lambda f: TwoStreamDataset(pictures(f), {}),
    "few boxes": lambda f: TwoStreamDataset(
        pictures(f), {f"{ODD}/{ODD}.png": [[0, 0, 9, 9]]}, num_patches=2
    ),
    "boxes outside": lambda f: TwoStreamDataset(
        pictures(f), {f"{ODD}/{ODD}.png": [[0, 0, 99, 99]]}
    )[0],
    "a patch file": patch_file,
    "a patch outside": patch_file_with_one_outside,
    "a missing patch file": lambda f: read_patch_file(f / "x.npy", pictures(f)),
    "twice": lambda f: Pictures(f, [ODD, ODD], [0, 0], ["a"]),
    "outside": lambda f: Pictures(f, [f"../{ODD}"], [0], ["a"]),
    "no class": lambda f: Pictures(f, [ODD], [1], ["a"]),
    "no classes": lambda f: PictureFolder(f / ODD),
    "one class": parts_of_folder,
    "no folder": lambda f: PictureFolder(f / "gone"),
    "another class": lambda f: PictureFolder(f, class_names=["a"]),
    "cub without files": CUB200,
    "cub without its class": lambda f: cub(f, classes_txt="2 a"),
    "cub with a bad row": lambda f: cub(f, images_txt="x"),
    "dogs without files": StanfordDogs,
    "nothing to check": lambda f: check_pictures(f / "gone"),
    "an archive": archive,
    "weights": weights,
    "missing weights": lambda f: load_checkpoint(make(), f / "gone.pth"),
    "no weights": lambda f: ((f / "x.pth").write_text("x"), load_checkpoint(make(), f / "x.pth")),
    "no safetensors": lambda f: (
        (f / "x.safetensors").write_bytes(struct.pack("<Q", 9) + b"{" * 9),
        load_checkpoint(make(), f / "x.safetensors"),
    ),
    "a saved model": config,
    "no saved model": lambda f: TwoStreamClassifier.from_pretrained(f),
    "a run": lambda f: RunFolder(f),
    "no run": lambda f: RunFolder(f, resume=True),
    "a checkpoint": checkpoint,
    "an export": lambda f: export_onnx(make(), f),
    "an export to nowhere": lambda f: export_onnx(make(), f / "gone" / "x.onnx"),
    "a figure": lambda f: make().explain(Image.new("RGB", (9, 9))).save(f / "gone" / "x.png"),
    "a figure without a format": lambda f: make().explain(Image.new("RGB", (9, 9))).save(f / ODD),
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_messages_are_one_line_that_any_terminal_takes(folder, reader):
    with pytest.raises((ValueError, OSError)) as caught:
        READERS[reader](folder)
    message = str(caught.value)
    assert message.isprintable()
    message.encode("utf-8")
    assert SHOWN in message or repr(ODD)[1:-1] in message


@pytest.mark.slow
def test_a_report_and_its_command(folder):
    report = check_pictures(folder, progress=False)
    (folder / ODD / "bad.png").write_text("x")
    report = check_pictures(folder, progress=False)
    text = str(report)
    assert text.replace("\n", "").isprintable()
    assert SHOWN in text
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    run = subprocess.run(
        [sys.executable, "-m", "recurrent_attention", "check", str(folder)],
        capture_output=True, env=env, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert b"UnicodeEncodeError" not in run.stderr
    assert b"\x1b[2J" not in run.stdout + run.stderr


def test_a_prediction_in_words():
    prediction = Prediction((ODD, "wren"), (0.9, 0.1), (0, 1), ODD, "wren", None)
    for text in (str(prediction), repr(prediction)):
        assert text.replace("\n", "").isprintable()
        assert SHOWN in text
