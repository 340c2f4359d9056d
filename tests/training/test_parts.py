"""What of a folder is trained on, and what is left out of it or refused before any work."""

import os
import shutil
import sys

import pytest
import torch
from helpers.models import photo

from recurrent_attention.training import Recipe, train
from recurrent_attention.training.parts import parts_of_folder

SMALL = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "patch_size": 32}
SMALL |= {"num_patches": 2, "hidden_size": 8, "device": "cpu", "progress": False}


def fill(folder, **counts):
    """Write so many pictures of each class."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            photo(20 * number + index, (40, 30)).save(folder / name / f"{index}.png")
    return folder


def test_what_is_left_out_is_said(tmp_path):
    fill(tmp_path, auk=6, emu=6, owl=0)
    for number in range(3):
        (tmp_path / "auk" / f"{number}.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match="^Left out of ") as caught:
        found = parts_of_folder(tmp_path)
    assert found.train.class_names == found.test.class_names == ("auk", "emu")
    assert str(caught[0].message) == (
        f"Left out of {tmp_path}: 1 class without pictures (owl), 3 files that are no pictures "
        "(auk/0.heic, auk/1.heic, auk/2.heic)."
    )


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "testing")])
def test_folders_of_splits_have_the_classes_of_the_training(tmp_path, names):
    for name, count in zip(names, (4, 2, 3), strict=True):
        fill(tmp_path / name, auk=count, emu=count, owl=0)
    photo(0).save(tmp_path / "loose.png")
    fill(tmp_path / "more", auk=1)
    with pytest.warns(UserWarning, match="^Left out of ") as caught:
        found = parts_of_folder(tmp_path)
    assert [len(part) for part in found.by_name().values()] == [8, 4, 6]
    assert {part.class_names for part in found.by_name().values()} == {("auk", "emu")}
    assert [str(one.message) for one in caught] == [
        f"Left out of {tmp_path}: 2 beside {', '.join(names)} (loose.png, more).",
        f"Left out of {tmp_path / names[0]}: 1 class without pictures (owl).",
    ]


@pytest.mark.filterwarnings("ignore:Left out of", "ignore:2 of 2 classes have one picture")
@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ({".": {"auk": 6, "emu": 0}}, "Expected pictures of two or more classes in {}, but got 1"),
        ({".": {"auk": 2, "emu": 2}}, "Expected at least one picture for each of train, valid"),
        (
            {"train": {"auk": 4, "emu": 4}, "test": {"auk": 0, "emu": 0}},
            "Expected {}/test to hold one folder of pictures for each class, but found auk, emu.",
        ),
        (
            {"train": {"auk": 4, "emu": 4}, "test": {"auk": 1, "owl": 1}},
            "Expected the folders of {}/test to be among the 2 known classes, but got 'owl'.",
        ),
        (
            {"train": {"auk": 4, "emu": 4}, "val": {"auk": 2}, "valid": {"auk": 2}},
            "Expected one folder for each of train, val and test in {}, but got train, val, valid",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_work(
    tmp_path, monkeypatch, folders, sentence
):
    for name, counts in folders.items():
        fill(tmp_path / "birds" / name, **counts)
    monkeypatch.setattr("recurrent_attention.training.own_pictures.TwoStreamClassifier", None)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        train(tmp_path / "birds", out=tmp_path / "run", **SMALL)
    assert str(caught.value).startswith(sentence.format(tmp_path / "birds"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are texts there")
def test_a_class_whose_name_is_no_text_is_refused_before_the_work(tmp_path):
    fill(tmp_path / "birds", auk=8, emu=8)
    (tmp_path / "birds" / "auk").rename(tmp_path / "birds" / os.fsdecode(b"Z\xfc"))
    with pytest.raises(ValueError) as caught:
        train(tmp_path / "birds", out=tmp_path / "run", **SMALL)
    assert str(caught.value) == (
        "Expected `class_names` to hold texts without control characters and in UTF-8, but got "
        "'Z\\udcfc'. Rename that class, or its folder."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names are texts there")
def test_a_picture_whose_name_is_no_text_is_trained_on(tmp_path):
    birds = fill(tmp_path / "birds", auk=8, emu=8)
    for number in range(8):  # some of each part
        odd = os.fsdecode(b"%d\xfc.png" % number)
        (birds / "auk" / f"{number}.png").rename(birds / "auk" / odd)
    recipe = Recipe.heads_only(epochs=1, batch_size=4)
    done = train(birds, out=tmp_path / "run", recipe=recipe, **SMALL)
    assert done.report.is_file()
    assert done.evaluation.num_images == len(parts_of_folder(birds).test)


@pytest.mark.slow
def test_training_leaves_the_random_state(tmp_path):
    birds = fill(tmp_path / "birds", auk=8, emu=8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    recipe = Recipe.heads_only(epochs=1, batch_size=4)
    first = train(birds, out=tmp_path / "run", recipe=recipe, report=False, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)  # which has no part in it
    shutil.rmtree(tmp_path / "run")
    with torch.inference_mode():
        again = train(birds, out=tmp_path / "run", recipe=recipe, report=False, **SMALL)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
