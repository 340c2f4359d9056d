"""The main job, end to end on a handful of drawn birds, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
from drawn_birds import SyntheticBirds
from PIL import Image

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import (
    CUB200,
    find_patch_files,
    read_patch_file,
    write_boxes,
)
from recurrent_attention.training import Recipe, train
from recurrent_attention.training.loop import TrainingLoop


@pytest.fixture(scope="module")
def job(example):
    return example("cub_reproduce")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of a run of seconds; the birds are drawn once for all tests."""
    folder = tmp_path_factory.mktemp("main_job")
    common = ["--cache-dir", str(folder), "--pictures-per-class", "3", "--epochs", "1"]
    return [*common, "--device", "cpu"]


def test_main_job(job, small, tmp_path, capsys):
    run = tmp_path / "run"
    result = job.main([*small, "--run-dir", str(run)])
    printed = capsys.readouterr().out
    for stream in ("global", "local", "fused"):
        assert f"{100 * result[f'test_{stream}']:.2f}" in printed
    assert "chosen on validation" in printed
    assert result["test_images"] == 30
    assert json.loads((run / "result.json").read_text()) == result
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["epochs"] == 1
    assert config["arguments"]["seed"] == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    for figure in ("curves", "explained-1", "explained-2", "explained-3"):
        with Image.open(run / f"{figure}.png") as image:
            assert image.width > 500
    model = TwoStreamClassifier.from_pretrained(run / "model")
    assert model.class_names[0] == "001.Red_billed_Finch"
    with pytest.raises(FileExistsError, match="holds something already"):
        job.main([*small, "--run-dir", str(run)])


@pytest.mark.slow
def test_frozen_and_the_papers_protocol(job, small, tmp_path, capsys):
    tiny = ["--backbone", "test_resnet", "--image-size", "64", "--patch-size", "32"]
    frozen = job.main([*small, *tiny, "--freeze", "--run-dir", str(tmp_path / "frozen")])
    assert frozen["chosen_on"] == "validation"
    paper = job.main([*small, *tiny, "--protocol", "paper", "--run-dir", str(tmp_path / "paper")])
    printed = capsys.readouterr().out
    assert paper["chosen_on"] == "test"
    assert "The best epoch was picked on the test set" in printed
    recipe = json.loads((tmp_path / "paper" / "config.json").read_text())["recipe"]
    expected = {"optimizer": "momentum", "lr": 1e-3, "head_lr": 1e-3, "weight_decay": 5e-4}
    assert {name: recipe[name] for name in expected} == expected
    config = json.loads((tmp_path / "paper" / "model" / "config.json").read_text())
    assert config["global_head"] == "conv"


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_defaults_of_the_paper(job, protocol):
    args = job.parse_arguments(["--data", "D", "--patches", "P", "--protocol", protocol])
    assert (args.backbone, args.image_size, args.patch_size) == ("vgg19", 448, 224)
    assert (args.num_steps, args.batch_size) == (10, 32)
    assert args.num_patches == (1 if protocol == "paper" else 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patches", "P"], "--patches needs --data DIR"),
        (["--data", "D", "--protocol", "paper"], "--protocol paper needs --patches DIR"),
        (["--protocol", "paper", "--freeze"], "leave out --freeze"),
        (["--resume"], "--resume needs --run-dir DIR"),
        (["--download"], "--download needs --data DIR"),
    ],
)
def test_bad_combinations(job, arguments, message, capsys):
    with pytest.raises(SystemExit):
        job.main(arguments)
    assert message in capsys.readouterr().err


def test_help_gives_every_default(job, capsys):
    with pytest.raises(SystemExit):
        job.main(["--help"])
    printed = capsys.readouterr().out
    options = printed.split("options:")[1]
    entries = options.split("\n  --")[1:]
    assert len(entries) > 20
    for entry in entries:
        words = " ".join(entry.split())
        assert "default" in words or "needed" in words, words


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set in CUB's layout, with patch files, that the script did not draw itself."""
    root = tmp_path_factory.mktemp("drawn") / "birds"
    SyntheticBirds(root, "train", train_per_class=3, test_per_class=2, progress=False)
    return root


TINY = ["--backbone", "test_resnet", "--image-size", "64", "--patch-size", "32", "--device", "cpu"]
TINY += ["--weights", "none", "--epochs", "1", "--freeze", "--hidden-size", "16"]


@pytest.mark.slow
def test_patches_without_labels_once_for_all_runs(job, drawn, tmp_path, monkeypatch):
    calls = []
    propose = TwoStreamClassifier.propose
    monkeypatch.setattr(
        TwoStreamClassifier, "propose", lambda *a: calls.append(1) or propose(*a), raising=True
    )
    common = ["--data", str(drawn), *TINY, "--cache-dir", str(tmp_path / "cache")]
    results = [
        job.main([*common, "--run-dir", str(tmp_path / name), *rest])
        for name, rest in (("one", []), ("two", []), ("three", ["--seed", "1"]))
    ]
    assert len(calls) == 50  # each picture once, the other runs find the boxes
    files = [tmp_path / name / "boxes.json" for name in ("one", "two", "three")]
    assert len({file.read_text() for file in files}) == 1
    for number in ("global", "local", "fused"):
        assert results[0][f"test_{number}"] == results[1][f"test_{number}"]
    config = json.loads((tmp_path / "one" / "model" / "config.json").read_text())
    assert config["patch_weighting"] == "anytime"


@pytest.mark.slow
def test_patches_of_a_file_and_of_a_folder(job, drawn, tmp_path):
    common = ["--data", str(drawn), *TINY, "--cache-dir", str(tmp_path / "cache")]
    boxes, splits = {}, [CUB200(drawn, split) for split in ("train", "test")]
    for split, path in zip(splits, find_patch_files(drawn / "patches"), strict=True):
        boxes |= read_patch_file(path, split)
    write_boxes(tmp_path / "boxes.json", boxes)
    results = [
        job.main([*common, "--patches", str(patches), "--run-dir", str(tmp_path / name)])
        for name, patches in (("file", tmp_path / "boxes.json"), ("folder", drawn / "patches"))
    ]
    for number in ("global", "local", "fused"):
        assert results[0][f"test_{number}"] == results[1][f"test_{number}"]


@pytest.mark.slow
def test_a_main_job_that_was_interrupted_goes_on(job, drawn, tmp_path, monkeypatch):
    common = ["--data", str(drawn), *TINY, "--epochs", "3"]
    whole = job.main([*common, "--run-dir", str(tmp_path / "whole")])
    close, closed, proposed = TrainingLoop._close_epoch, [], []

    def interrupt(self, found):
        closed.append(1)
        if len(closed) == 2:
            raise KeyboardInterrupt
        close(self, found)

    broken = [*common, "--run-dir", str(tmp_path / "broken"), "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "_close_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            job.main(broken)
    config = (tmp_path / "broken" / "config.json").read_text()
    monkeypatch.setattr(TwoStreamClassifier, "propose", lambda *a: proposed.append(1))
    resumed = job.main(broken)
    assert proposed == []  # the boxes are in the run folder
    assert (tmp_path / "broken" / "config.json").read_text() == config
    for name in ("test_global", "test_local", "test_fused", "best_epoch", "test_images"):
        assert resumed[name] == whole[name]


@pytest.mark.slow
def test_unreadable_pictures_stop_the_job_or_are_counted(job, drawn, tmp_path, capsys):
    root = tmp_path / "birds"
    shutil.copytree(drawn, root)
    bad = [CUB200(root, split).path(1) for split in ("train", "test")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:300])
    common = ["--data", str(root), *TINY]
    with pytest.raises(ValueError, match=f"^Expected a readable picture at {bad[0]}, but got: "):
        job.main([*common, "--run-dir", str(tmp_path / "strict")])
    run = tmp_path / "run"
    result = job.main([*common, "--run-dir", str(run), "--skip-unreadable"])
    assert "2 of 50 pictures cannot be read: skipped.json" in capsys.readouterr().out
    assert sorted(json.loads((run / "skipped.json").read_text())) == sorted(map(str, bad))
    assert result["test_images"] == 19


@pytest.mark.slow
def test_a_trained_model_is_explained(example, drawn, tmp_path, capsys):
    """A folder per class, a saved model, and two classes compared."""
    run = tmp_path / "run"
    train(
        drawn / "images", out=run, backbone="test_resnet", pretrained=False, image_size=64,
        patch_size=32, recipe=Recipe.heads_only(epochs=1), device="cpu", progress=False,
    )  # fmt: skip
    found = [json.loads(file.read_text())["boxes"] for file in run.glob("boxes-*.json")]
    assert sum(map(len, found)) == 50
    picture = sorted((drawn / "images").rglob("*.jpg"))[0]

    words = [str(picture), "--model", str(run / "model"), "--out", str(tmp_path)]
    path = example("explain_image").main(words)
    with Image.open(path) as image:
        assert image.width > 500
    model = TwoStreamClassifier.from_pretrained(run / "model")
    said = model.predict(picture)
    best = said.class_names[:2]
    printed = capsys.readouterr().out.split(f"{path}: {best[0]} rather than {best[1]}\n")[1]
    # Without its bias, a look's score is linear in what it saw.
    bias = model.local_head.bias.detach()
    scores = model.explain(picture, boxes=said.boxes).step_logits[0] - bias
    for line, look in zip(printed.splitlines(), scores.flatten(0, 1), strict=True):
        added = float(look[said.indices[0]] - look[said.indices[1]])
        assert line.endswith(f": {abs(added):.2f} for {best[0 if added > 0 else 1]}")


def test_examples_without_a_model(example, drawn, tmp_path):
    folder = drawn / "images"
    with pytest.raises(FileNotFoundError, match="^Expected .*config.json"):
        example("explain_image").main([str(folder / "x.jpg"), "--model", str(tmp_path)])


def test_examples_use_public_names_alone():
    for file in (Path(__file__).parents[2] / "examples").rglob("*.*"):
        if file.suffix in (".py", ".ipynb"):
            assert not re.search(r"recurrent_attention[.\w]*\._(?!_)", file.read_text("utf-8")), (
                file
            )


def test_missing_weights(job, small, tmp_path):
    with pytest.raises(FileNotFoundError, match="^Expected weights at .*, but there is no file.$"):
        job.main([*small, "--weights", str(tmp_path / "no"), "--run-dir", str(tmp_path / "run")])
