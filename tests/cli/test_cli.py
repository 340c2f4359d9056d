"""The command: what it prints and writes, and how it fails."""

import csv
import json
import os
import re
import sys

import pytest
import torch
from helpers.command import run
from helpers.models import make, photo
from PIL import Image

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.cli import main
from recurrent_attention.cli.pictures import _class_of
from recurrent_attention.inference.many import predict_files


def test_help_names_every_subcommand():
    found = run("--help")
    assert found.exit_code == 0
    for name in main.commands:
        assert f"\n  {name} " in found.stdout
        assert "..." not in found.stdout.partition("Commands:")[2]  # whole sentences
        assert run(name, "--help").exit_code == 0


def test_predict_prints_what_the_model_says(model, birds):
    picture = birds / "auk" / "0.png"
    found = run("predict", model, picture, "--top-k", 2)
    (answer,) = predict_files(make_again(model), [picture], top_k=2, progress=False)
    assert found.exit_code == 0
    lines = [f"    {line}" for line in str(answer.prediction).splitlines()]
    assert found.stdout.splitlines() == [str(picture), *lines]


def make_again(folder):
    return TwoStreamClassifier.from_pretrained(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_predict_writes_a_row_for_each_file_also_a_bad_one(model, birds, tmp_path, workers):
    (birds / "emu" / "bad.png").write_text("no picture")
    table = tmp_path / "out.csv"
    found = run("predict", model, birds, "--csv", table, "--num-workers", workers, "--quiet")
    assert found.exit_code == 1
    assert "6 of 7 pictures in" in found.stderr
    rows = list(csv.DictReader(table.open(newline="", encoding="utf-8")))
    assert [row["path"] for row in rows] == sorted(str(path) for path in birds.rglob("*.png"))
    loaded = make_again(model)
    for row in rows:
        if row["path"].endswith("bad.png"):
            assert row["class_1"] == row["global_class"] == ""
            assert row["reason"].startswith("Expected a readable picture at ")
            continue
        wanted = loaded.predict(row["path"])
        assert (row["class_1"], row["class_3"]) == (wanted.class_names[0], wanted.class_names[2])
        assert float(row["probability_1"]) == pytest.approx(wanted.probabilities[0], abs=1e-5)
        assert (row["local_class"], row["reason"]) == (wanted.local_class, "")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are texts there")
def test_a_name_that_is_no_text_is_a_row_of_the_table(model, birds, tmp_path):
    (birds / "emu" / "0.png").rename(birds / "emu" / os.fsdecode(b"\xfc.png"))
    table = tmp_path / "out.csv"
    assert run("predict", model, birds, "--csv", table, "--quiet").exit_code == 0
    paths = [row["path"] for row in csv.DictReader(table.open(newline="", encoding="utf-8"))]
    assert len(paths) == 6
    assert str(birds / "emu" / "\\udcfc.png") in paths


def test_predict_stops_when_it_is_sure(birds, tmp_path):
    model = make(num_classes=3, class_names=["auk", "emu", "owl"], num_patches=3,
                 patch_weighting="anytime")  # fmt: skip
    with torch.no_grad():
        model.global_head.weight.mul_(5)
    model.save_pretrained(tmp_path / "model")
    picture = birds / "owl" / "1.png"
    (_, first), (_, second), *_ = model.predict(picture).after
    for confidence, looks in ((first - 1e-3, 0), (max(first, second) + 1e-3, None), (1, 3)):
        words = ("--csv", tmp_path / "out.csv", "--quiet", "--confidence", confidence)
        assert run("predict", tmp_path / "model", picture, *words).exit_code == 0
        (row,) = csv.DictReader((tmp_path / "out.csv").open(newline="", encoding="utf-8"))
        wanted = model.predict(picture, confidence=confidence)
        assert row["looks"] == str(wanted.looks)
        assert looks is None or wanted.looks == looks
        assert float(row["probability_1"]) == pytest.approx(wanted.probabilities[0], abs=1e-5)
    said = run("predict", tmp_path / "model", picture, "--looks", 2).stdout
    assert "2 looks" in said


def test_predict_in_bf16_answers_nearly_alike(birds, tmp_path):
    """The boxes of both precisions may differ by a cell, so one whole picture is looked at."""
    model = make(num_classes=3, class_names=["auk", "emu", "owl"], num_patches=1,
                 patch_weighting="anytime")  # fmt: skip
    with torch.no_grad():
        model.global_head.weight.mul_(5)
    model.save_pretrained(tmp_path / "model")
    shares = {}
    for precision in ("fp32", "bf16"):
        words = ("--csv", tmp_path / "out.csv", "--quiet", "--precision", precision, "--looks", 1)
        assert run("predict", tmp_path / "model", birds, *words).exit_code == 0
        rows = csv.DictReader((tmp_path / "out.csv").open(newline="", encoding="utf-8"))
        shares[precision] = [float(row["probability_1"]) for row in rows]
    assert shares["bf16"] != shares["fp32"]
    assert shares["bf16"] == pytest.approx(shares["fp32"], abs=0.02)


@pytest.mark.parametrize("command", ["predict", "explain", "boxes", "demo"])
def test_a_device_that_is_not_there_is_named(model, birds, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = () if command == "demo" else (birds,)
    found = run(command, model, *words, "--device", "cuda:77")
    assert found.exit_code == 2
    assert "Expected a device for device='cuda:77', but torch finds " in found.stderr


def test_predict_of_another_model_cannot_stop(model, birds):
    found = run("predict", model, birds / "owl" / "1.png", "--confidence", 0.9)
    assert found.exit_code == 2
    assert "Error: Expected a model with patch_weighting='anytime'" in found.stderr


def test_explain_draws_a_figure_for_each(model, birds, tmp_path):
    out = tmp_path / "figures"
    found = run("explain", model, birds / "auk", "--out", out, "--target", "emu")
    assert found.exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["1-0.png", "2-1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


def test_a_figure_of_a_picture_with_a_long_name_fits(model, tmp_path):
    names = ["é" * 125 + ".png", "short.png"]
    for name in names:
        photo().save(tmp_path / name)
    found = run("explain", model, *(tmp_path / name for name in names), "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == [f"1-{'é' * 100}.png", "2-short.png"]


def test_explain_draws_several_classes_beside_each_other(model, birds, tmp_path):
    out = tmp_path / "figures"
    words = ("--out", out, "--target", "emu", "--target", "0")
    found = run("explain", model, birds / "auk" / "0.png", *words)
    assert found.exit_code == 0
    first, second = sorted(out.iterdir())
    assert [first.name, second.name] == ["1-0-1.png", "1-0-2.png"]
    assert first.read_bytes() != second.read_bytes()


def test_a_class_that_is_shown_as_a_number_is_named_by_it():
    names = ("1.two_euro", "2.0", "3.1")  # shown as "two euro", "0" and "1"
    assert [_class_of(text, names) for text in ("1", "0", "2", "3.1")] == ["1", "0", 2, "3.1"]


def test_explain_compares_a_class_with_another(model, birds, tmp_path):
    (answer,) = predict_files(make_again(model), [birds / "auk" / "0.png"], progress=False)
    first, second, third = answer.prediction.class_names[:3]
    words = ("explain", model, birds / "auk" / "0.png", "--out", tmp_path / "out", "--against")
    assert run(*words, second).exit_code == 0
    drawn = (tmp_path / "out" / "1-0.png").read_bytes()
    assert run(*words, third).exit_code == 0
    assert (tmp_path / "out" / "1-0.png").read_bytes() != drawn
    found = run(*words, first)
    assert found.exit_code == 1
    assert "0.png: Expected `against` to be another class than the one that is " in found.stderr
    found = run(*words, first, "--target", first)
    assert found.exit_code == 2
    assert f"to name another class than --target, but got {first!r} for both." in found.stderr


def test_boxes_are_those_of_the_model(model, birds, tmp_path):
    out = tmp_path / "boxes.json"
    assert run("boxes", model, birds, "--out", out, "--quiet").exit_code == 0
    boxes = json.loads(out.read_text())["boxes"]
    assert len(boxes) == 6
    wanted = make_again(model).predict(birds / "owl" / "1.png").boxes
    for ours, theirs in zip(boxes["owl/1.png"], wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert run("boxes", model, birds, "--num-patches", 3, "--out", out, "--quiet").exit_code == 0
    assert {len(found) for found in json.loads(out.read_text())["boxes"].values()} == {3}


def test_check_says_what_is_wrong_with_its_status(birds):
    assert run("check", birds, "--quiet").exit_code == 0
    (birds / "owl" / "1.png").write_text("no picture")
    found = run("check", birds, "--quiet")
    assert found.exit_code == 1
    assert "1 picture cannot be read" in found.stdout


def test_backbone_reports():
    found = run("backbone", "test_resnet", "--image-size", 64, "--patch-size", 32)
    assert found.exit_code == 0
    assert "test_resnet" in found.stdout
    assert run("backbone", "test_vit", "--image-size", 65).exit_code == 1


@pytest.mark.slow
def test_export_writes_a_file_that_predict_takes(model, birds, tmp_path):
    out = tmp_path / "model.onnx"
    found = run("export", model, out)
    assert found.exit_code == 0
    assert re.fullmatch(r"Writing \S+, which takes .* minutes\n\S+: \d+\.\d MB\n", found.stderr)
    assert out.stat().st_size > 100_000
    said = [run("predict", one, birds / "auk" / "0.png").stdout for one in (model, out)]
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("predict", "nowhere", "x.jpg"),
            "Error: Expected a folder or a repository called 'nowhere', but ",
        ),
        (("predict", "MODEL", "EMPTY"), "Error: Expected pictures in "),
        (("predict", "MODEL", "BIRDS", "--csv", "gone/out.csv"), "Error: Expected `path` to be in"),
        (
            ("explain", "MODEL", "BIRDS", "--target", "dodo"),
            "Error: Expected `target` to be one of",
        ),
        (
            ("check", "nowhere"),
            "Error: Expected a folder of pictures at nowhere, but there is none.",
        ),
        (("backbone", "test_resne"), "Expected `name` to be a timm model, but got 'test_resne'."),
        (("export", "MODEL", "gone/x.onnx"), "Error: Expected `path` to be in an existing folder"),
    ],
)
def test_a_failure_is_one_sentence(model, birds, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    places = {"MODEL": model, "BIRDS": birds, "EMPTY": tmp_path / "empty"}
    found = run(*(places.get(word, word) for word in words))
    assert found.exit_code != 0
    text = found.stderr or found.stdout
    assert sentence in text
    assert "Traceback" not in text


@pytest.fixture
def parts(tmp_path):
    """Train and test folders whose pictures have the same names, of two classes of one colour."""
    root = tmp_path / "parts"
    for part, count in (("train", 8), ("test", 3)):
        for name, color in (("blue", (40, 40, 200)), ("red", (200, 40, 40))):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                picture = photo(number + 100 * len(part), (60, 50))
                dyed = Image.blend(picture, Image.new("RGB", picture.size, color), 0.6)
                dyed.save(root / part / name / f"{number}.png")
    return root


SMALL = ("--image-size", 32, "--patch-size", 32, "--num-patches", 2, "--batch-size", 4)
CPU = ("--device", "cpu", "--quiet")


@pytest.mark.parametrize("freeze", [False, True])
def test_train_and_evaluate_a_folder(parts, tmp_path, freeze):
    out = tmp_path / "run"
    words = ("--backbone", "test_resnet", "--weights", "none", *SMALL, "--epochs", 2, *CPU)
    found = run("train", parts, "--out", out, *words, *(["--freeze"] if freeze else []))
    assert found.exit_code == 0, found.output
    assert "14 pictures to train on, 2 to choose the epoch by, 6 to measure" in found.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["num_images"] == 6
    said = f"{100 * result['fused_top1']:.2f}"
    assert said in next(x for x in found.stdout.splitlines() if x.startswith("fused"))
    page = ("--report", tmp_path / "page.html")
    again = run("evaluate", out / "model", parts, *page, *CPU)
    assert again.exit_code == 0, again.output
    assert said in next(x for x in again.stdout.splitlines() if x.startswith("fused"))
    boxes = [json.loads((out / f"boxes-{name}.json").read_text()) for name in ("train", "test")]
    assert boxes[0]["boxes"].keys() > boxes[1]["boxes"].keys() - {"red/9.png"}
    resumed = run(
        "train", parts, "--out", out, "--resume", *words, *(["--freeze"] if freeze else [])
    )
    assert resumed.exit_code == 0, resumed.output
    assert said in next(x for x in resumed.stdout.splitlines() if x.startswith("fused"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "nowhere", *CPU), "Error: Expected a folder of pictures at nowhere"),
        (("train", "ONE", *CPU), "Error: Expected pictures of two or more classes in "),
        (("train", "PARTS", "--resume", *CPU), "--resume needs --out DIR"),
        (
            ("train", "PARTS", "--weights", "gone", *CPU),
            "Error: Expected weights at gone, but there",
        ),
        (("train", "PARTS", "--backbone", "resnet1", *CPU), "Expected `name` to be a timm model"),
        (
            ("evaluate", "MODEL", "PARTS", *CPU),
            "Error: Expected data of classes that the model has",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_sentence(
    model, parts, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one" / "wren").mkdir(parents=True)
    photo().save(tmp_path / "one" / "wren" / "1.png")
    places = {"MODEL": model, "PARTS": parts, "ONE": tmp_path / "one"}
    found = run(*(places.get(word, word) for word in words))
    assert found.exit_code != 0
    assert sentence in (found.stderr or found.stdout)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.fixture
def trained(parts, tmp_path):
    words = ("train", parts, "--backbone", "test_resnet", "--weights", "none", "--image-size", 64,
             "--patch-size", 32, "--num-patches", 2, "--epochs", 1, "--freeze", "--quiet",
             "--device", "cpu", "--out", tmp_path / "run")  # fmt: skip
    return lambda *more: run(*words, *more)


@pytest.mark.slow
def test_train_leaves_a_model_a_report_and_figures(trained, parts, tmp_path):
    found = trained("--track", "tensorboard")
    assert found.exit_code == 0, found.output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (fused,) = [line for line in found.stdout.splitlines() if line.startswith("fused ")]
    wanted = [100 * result[f"fused_{kind}"] for kind in ("top1", "top5", "mean_per_class")]
    assert [float(word) for word in fused.split()[1:]] == pytest.approx(wanted, abs=0.006)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    again = run("evaluate", tmp_path / "run" / "model", parts, "--report", tmp_path / "page.html",
                "--quiet", "--device", "cpu")  # fmt: skip
    assert again.exit_code == 0, again.output
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert trained().exit_code == 2  # the folder is not overwritten
    assert trained("--resume").exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--mixup", "0.2"), "Error: Expected `mixup` to be off with freeze=True"),
        (("--track", "papyrus"), "Error: Expected `trackers` to be installed, but 'papyrus' is"),
        (("--weights", "gone.pt"), "Error: Expected weights at gone.pt, but there is no file."),
        (("--backbone", "resnt18"), "Error: Expected `name` to be a timm model"),
        (("--device", "tpu"), "Error: Expected `device` to be "),
        (("--patience", "0"), "Error: Invalid value for '--patience'"),
        (("--train-patches", "9"), "Error: Expected at least num_patches=9 boxes for each picture"),
    ],
)
def test_a_training_that_cannot_be_is_one_sentence(trained, tmp_path, more, sentence):
    found = trained(*more)
    assert found.exit_code == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_classes_that_a_model_has_not_are_named_before_the_work(trained, parts, tmp_path):
    assert trained().exit_code == 0
    (parts / "test" / "red").rename(parts / "test" / "dodo")
    page = tmp_path / "page.html"
    found = run("evaluate", tmp_path / "run" / "model", parts, "--report", page, "--device", "cpu")
    assert found.exit_code == 2
    assert "are not among its 2: dodo." in found.stderr
    assert not page.exists()
    found = run("evaluate", tmp_path / "run" / "model", parts, "--report", tmp_path / "no" / "x")
    assert "Error: Expected `path` to be in an existing folder" in found.stderr
