"""The report page: what it says is what was measured, and what names hold does no harm."""

import base64
import html
import io
import json
import re
import shutil

import pytest
import torch
from helpers.command import run
from helpers.models import photo
from helpers.runs import QUIET
from PIL import Image
from torch.utils.data import Subset

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import TwoStreamDataset, read_boxes
from recurrent_attention.training import (
    Recipe,
    evaluate,
    evaluate_folder,
    fit_global_head,
    own_pictures,
    parts_of_folder,
    propose_boxes_for,
    train,
    write_report,
)
from recurrent_attention.training.loop import TrainingLoop
from recurrent_attention.training.run_folder import check_free

NAMES = ["003.Sooty_<b>Auk", "emu", "owl"]


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    for number, name in enumerate(NAMES):
        (folder / name.replace("/", "")).mkdir()
        for seed in range(8):
            photo(10 * number + seed).save(folder / name / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def done(birds, tmp_path_factory):
    return train(
        birds, out=tmp_path_factory.mktemp("runs") / "first", backbone="test_resnet",
        pretrained=False, image_size=64, patch_size=32, num_patches=2,
        recipe=Recipe.heads_only(epochs=2), **QUIET,
    )  # fmt: skip


def text_of(page):
    return html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*</style>", "", page)))


def test_its_figures_are_those_of_the_evaluation(done):
    text = text_of(done.report.read_text(encoding="utf-8"))
    numbers = json.loads((done.folder / "result.json").read_text())
    for stream, name in (("global", "global stream"), ("local", "local stream"), ("fused", "both")):
        row = re.search(rf"\n\s*{name}\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)", text)
        wanted = [numbers[f"{stream}_{kind}"] for kind in ("top1", "top5", "mean_per_class")]
        assert [float(value) for value in row.groups()] == pytest.approx(
            [100 * value for value in wanted], abs=0.051
        )


def test_each_class_is_shown_with_its_share_and_the_worst_first(done):
    text = text_of(done.report.read_text(encoding="utf-8"))
    _, said = text.split("most often taken for")
    rows = re.findall(r"(Sooty <b>Auk|emu|owl)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+) ", said)
    answers = done.evaluation.answers
    wanted = {}
    for name in NAMES:
        of_class = [a for a in answers if a.label == name]
        for ranking in ("fused", "global_stream", "local_stream"):
            right = [getattr(answer, ranking)[0][0] == name for answer in of_class]
            wanted.setdefault(name.split(".")[-1].replace("_", " "), [len(of_class)]).append(
                round(100 * sum(right) / len(right))
            )
    assert {name: [int(value) for value in values] for name, *values in rows} == wanted
    assert [int(row[2]) for row in rows] == sorted(int(row[2]) for row in rows)


def test_it_opens_without_a_network_and_escapes_names(done):
    page = done.report.read_text(encoding="utf-8")
    assert "<b>Auk" not in page
    assert "Sooty <b>Auk" in text_of(page)
    assert not re.search(r"(src|href)=\"(?!data:image/jpeg;base64,)", page)
    assert "<script" not in page
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) > 3
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert min(image.size) > 90


def test_mistakes_and_right_answers_are_told_apart(done):
    answers, text = done.evaluation.answers, text_of(done.report.read_text(encoding="utf-8"))
    wrong = [a for a in answers if a.fused[0][0] != a.label]
    assert text.count(", taken for") == min(4, len(wrong))
    for answer in wrong:
        assert answer.name in text or len(wrong) > 4


def test_a_folder_is_evaluated_as_by_hand(done, birds, tmp_path):
    model = TwoStreamClassifier.from_pretrained(done.folder / "model")
    page = tmp_path / "page.html"
    found = evaluate_folder(model, birds, report=page, **QUIET)
    pictures = parts_of_folder(birds)
    every = pictures.train
    assert found.num_images == 24
    assert "Training" not in text_of(page.read_text(encoding="utf-8"))
    boxes = propose_boxes_for(model, every, **QUIET)
    by_hand = evaluate(model, TwoStreamDataset.for_model(model, every, boxes), **QUIET)
    ours = {answer.name: answer.fused for answer in found.answers}
    for answer in by_hand.answers:
        assert [name for name, _ in ours[answer.name]] == [name for name, _ in answer.fused]


def test_the_report_has_the_answers_of_predict(done, birds):
    """Also its boxes: those of the trained model, not those that it was trained with."""
    model = TwoStreamClassifier.from_pretrained(done.folder / "model")
    stored = read_boxes(done.folder / "boxes-test.json", parts_of_folder(birds).test)
    for answer in done.evaluation.answers:
        said = model.predict(birds / answer.name)
        assert answer.fused[0][0] == said.class_names[0]
        assert answer.fused[0][1] == pytest.approx(said.probabilities[0], abs=1e-4)
        for ours, kept, its in zip(answer.boxes, stored[answer.name], said.boxes, strict=True):
            assert list(its) == pytest.approx(ours.tolist(), abs=1e-2)
            assert list(its) == pytest.approx(kept.tolist(), abs=1e-2)


def test_boxes_of_train_are_a_function(birds, tmp_path):
    with pytest.raises(TypeError, match="^Expected `boxes` to be a function of the model and the "):
        train(birds, out=tmp_path / "out", boxes=tmp_path / "boxes.json", pretrained=False)
    assert not (tmp_path / "out").exists()


def test_evaluate_measures_what_train_set_aside(done, birds, tmp_path):
    words = ("--report", tmp_path / "again.html", "--device", "cpu", "--quiet")
    found = run("evaluate", done.folder / "model", birds, *words)
    count, right = done.evaluation.num_images, 100 * done.evaluation.fused_top1
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith(f"measuring the {count} pictures that the training set aside\n")
    assert re.search(rf"\nfused +{right:.2f} ", found.stdout)
    assert "took no part" not in (tmp_path / "again.html").read_text(encoding="utf-8")
    # Pictures of the same names in another folder are others.
    for number, path in enumerate(sorted(birds.rglob("*.png"))):
        (tmp_path / "others" / path.parent.name).mkdir(parents=True, exist_ok=True)
        photo(number + 50, (31, 21)).save(tmp_path / "others" / path.parent.name / path.name)
    found = run("evaluate", done.folder / "model", tmp_path / "others", *words)
    assert found.stdout.startswith("measuring all 24 pictures; ")
    moved = tmp_path / "moved"
    shutil.copytree(done.folder / "model", moved)
    found = run("evaluate", moved, birds, *words)
    assert found.stdout.startswith(
        "measuring all 24 pictures; those that the model learned from flatter it\n"
    )


def test_a_folder_of_a_run_that_never_began_is_free(birds, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "lock").touch()
    check_free(tmp_path / "run", resume=False)
    (tmp_path / "run" / "boxes-train.json").touch()
    with pytest.raises(FileExistsError, match=r"go on with its run: resume=True \(--resume\)\.$"):
        check_free(tmp_path / "run", resume=False)


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_checkpoint_begins_anew(birds, tmp_path, monkeypatch):
    """Also its boxes, and the classifier that proposed them: the model begins with it."""
    words = {"pretrained": False, "image_size": 64, "patch_size": 32, "num_patches": 2}
    words |= {"recipe": Recipe.fine_tuning(epochs=1, batch_size=4), "report": False, **QUIET}

    def weights(name, **more):
        found = train(birds, out=tmp_path / name, **words, **more)
        return found.model.state_dict()

    def fail(*_):
        raise RuntimeError("out of memory")

    for backbone in ("test_resnet", "test_convnext"):  # resumed with another one, too
        whole = weights(f"whole-{backbone}", backbone=backbone)
        with monkeypatch.context() as patch:
            patch.setattr(TrainingLoop, "_look_around", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                weights(f"cut-{backbone}", backbone="test_resnet")
        assert (tmp_path / f"cut-{backbone}" / "boxes-train.json").is_file()
        resumed = weights(f"cut-{backbone}", backbone=backbone, resume=True)
        assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_and_killed_stays_calibrated(birds, tmp_path, monkeypatch):
    words = {"pretrained": False, "image_size": 64, "patch_size": 32, "num_patches": 2}
    words |= {"recipe": Recipe.fine_tuning(epochs=1, batch_size=4), "report": False, **QUIET}
    words |= {"backbone": "test_resnet", "out": tmp_path / "run"}
    first = train(birds, **words)
    assert first.model.temperatures is not None

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(own_pictures, "propose_boxes_for", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(birds, **words, resume=True)
    kept = TwoStreamClassifier.from_pretrained(tmp_path / "run" / "model")
    assert kept.temperatures == first.model.temperatures
    for damaged in ("model.safetensors", "config.json"):
        (tmp_path / "run" / "model" / damaged).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(own_pictures, "propose_boxes_for", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                train(birds, **words, resume=True)
        kept = TwoStreamClassifier.from_pretrained(tmp_path / "run" / "model").state_dict()
        assert all(value.equal(kept[key]) for key, value in first.model.state_dict().items())


def test_a_report_on_a_subset_is_refused(done, tmp_path):
    with pytest.raises(TypeError, match="^Expected `data` to be a TwoStreamDataset, but"):
        write_report(tmp_path / "page.html", done.model, Subset([1, 2], [0]), done.evaluation)


def test_frozen_backbones_see_their_own_size_and_refuse_changing_views_at_once(birds, tmp_path):
    words = {"backbone": "test_resnet", "pretrained": False, "recipe": Recipe.heads_only(epochs=1)}
    with pytest.raises(ValueError, match=r"got crop_scale=\(0\.5, 1\)"):
        train(birds, out=tmp_path / "no", crop_scale=(0.5, 1), **words, **QUIET)
    assert not (tmp_path / "no").exists()
    found = train(birds, out=tmp_path / "yes", report=False, patch_size=32, **words, **QUIET)
    assert found.model.image_size == 160  # as timm says


def test_with_frozen_backbones_training_looks_where_predict_looks(done, birds):
    model = TwoStreamClassifier.from_pretrained(done.folder / "model")
    for name, part in parts_of_folder(birds).by_name().items():
        stored = read_boxes(done.folder / f"boxes-{name}.json", part)
        for picture in part.names[:3]:
            said = model.predict(birds / picture)
            for kept, its in zip(stored[picture], said.boxes, strict=True):
                assert list(its) == pytest.approx(kept.tolist(), abs=1e-2)
    assert all(weight.requires_grad for weight in done.model.global_head.parameters())


def test_the_card_of_the_model_says_how_good_it_is(done):
    card = (done.folder / "model" / "README.md").read_text(encoding="utf-8")
    right = f"both streams are right in {100 * done.evaluation.fused_top1:.1f} ± "
    assert right in card


def test_answers_to_other_pictures_are_refused(done, birds, tmp_path):
    pictures = parts_of_folder(birds).test
    model = done.model
    fit_global_head(model, pictures, recipe=Recipe.heads_only(epochs=1), **QUIET)
    boxes = propose_boxes_for(model, pictures, **QUIET)
    data = TwoStreamDataset.for_model(model, pictures.subset([0, 1]), boxes)
    with pytest.raises(ValueError) as caught:
        write_report(tmp_path / "page.html", model, data, done.evaluation)
    assert str(caught.value) == (
        "Expected `found` to be what evaluate(model, data) returned for these pictures, but got "
        "answers to others."
    )
    assert not (tmp_path / "page.html").exists()
