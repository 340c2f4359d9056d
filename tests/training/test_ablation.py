"""Variants compared: what is shared, what is kept, and what the table says."""

import csv
import json
import statistics

import pytest
import torch
from helpers.models import make, photo
from PIL import Image

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.backbone.cost import cost_of_step
from recurrent_attention.data import PictureItems, Pictures
from recurrent_attention.training import Recipe, ablate, ablation, parts_of_folder, proposals
from recurrent_attention.training.ablation_folder import claim, is_done
from recurrent_attention.training.ablation_rows import rows_of
from recurrent_attention.training.ablation_table import lead_of
from recurrent_attention.training.averaged_views import answers_over_views
from recurrent_attention.training.parts import listing_of
from recurrent_attention.training.reading import WholePictures
from recurrent_attention.training.variants import VARIANTS, ordered

NAMES = ("anytime", "paper", "scattered", "two-networks", "ten-crop", "mirrored", "two-scales",
         "larger")  # fmt: skip
SETTINGS = {"backbone": "test_resnet", "pretrained": False, "image_size": 64, "patch_size": 32}
SETTINGS |= {"num_patches": 3, "hidden_size": 8, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    root = tmp_path_factory.mktemp("birds")
    for place, (name, color) in enumerate((("auk", (40, 40, 200)), ("emu", (200, 40, 40)))):
        (root / name).mkdir()
        for number in range(10):
            picture = photo(10 * place + number, (90, 70))
            dyed = Image.blend(picture, Image.new("RGB", picture.size, color), 0.5)
            dyed.save(root / name / f"{number}.png")
    return root


def run(birds, out, names=NAMES, **changed):
    recipe = Recipe.heads_only(epochs=2, batch_size=4)
    given = {"variants": names, "seeds": (0, 1), "recipe": recipe} | changed
    return ablate(birds, out=out, **given, **SETTINGS)


@pytest.fixture(scope="module")
def found(birds, tmp_path_factory):
    return run(birds, tmp_path_factory.mktemp("ablation") / "out")


def result(found, name, seed):
    return json.loads((found.folder / name / f"seed-{seed}" / "result.json").read_text())


@pytest.mark.slow
def test_the_table_is_of_the_results(found):
    assert [row.name for row in found.rows] == ["global", *NAMES]
    for row in found.rows[1:]:
        if row.name in ("ten-crop", "mirrored", "larger"):
            continue  # answers of another variant's training
        for stream in ("global", "local", "fused"):
            wanted = [100 * result(found, row.name, seed)[f"{stream}_top1"] for seed in (0, 1)]
            assert getattr(row, f"{stream}_top1") == pytest.approx(wanted)
    first, anytime = found.rows[0], found.rows[1]
    assert first.fused_top1 == first.global_top1 == anytime.global_top1
    (line,) = [line for line in str(found).splitlines() if line.startswith("| anytime |")]
    mean, spread = statistics.fmean(anytime.fused_top1), statistics.stdev(anytime.fused_top1)
    assert f"| {mean:.2f} ± {spread:.2f} |" in line
    assert (found.folder / "table.md").read_text() == str(found) + "\n"
    rows = list(csv.DictReader((found.folder / "table.csv").open(newline="")))
    assert len(rows) == 2 * (1 + len(NAMES))
    assert float(rows[3]["fused_top1"]) == pytest.approx(anytime.fused_top1[1])
    with Image.open(found.folder / "ablation.png") as figure:
        assert figure.width > 800


@pytest.mark.slow
def test_what_is_shared_is_the_same(found):
    """The global stream learns the same whatever the local one is; boxes come from one proposal."""
    for seed in (0, 1):
        tops = {name: result(found, name, seed)["global_top1"] for name in NAMES[:4]}
        assert not (found.folder / "ten-crop").exists()
        assert len(set(tops.values())) == 1, tops
        proposed = found.folder / "boxes" / "test.json"
        used = found.folder / "anytime" / f"seed-{seed}" / "boxes-test.json"
        assert json.loads(used.read_text()) == json.loads(proposed.read_text())


@pytest.mark.slow
def test_a_picture_costs_what_its_passes_cost(found):
    rows = {row.name: row for row in found.rows}
    whole, anytime = rows["global"].gmacs, rows["anytime"]
    costs = [cost for cost, _ in anytime.after]
    look = costs[2] - costs[1]
    assert costs[0] == whole
    assert costs[3] == anytime.gmacs
    assert costs[3] - costs[2] == pytest.approx(look)
    proposal = costs[1] - costs[0] - look
    assert proposal == pytest.approx(whole * 4, rel=0.05)  # at twice the side
    assert look == pytest.approx(whole / 4, rel=0.05)  # at half of it
    assert rows["paper"].gmacs == pytest.approx(whole + proposal + look)
    assert rows["scattered"].gmacs == pytest.approx(whole + 3 * look)  # nothing is proposed
    assert rows["two-networks"].gmacs == pytest.approx(whole + look)
    assert rows["ten-crop"].gmacs == pytest.approx(10 * whole)
    assert rows["mirrored"].gmacs == pytest.approx(2 * whole)
    assert rows["larger"].gmacs == pytest.approx(4 * whole, rel=0.05)
    assert rows["two-scales"].gmacs == pytest.approx(4 * whole + look, rel=0.05)
    for one in anytime.stopped:
        assert whole <= one.gmacs <= anytime.gmacs
        assert 0 <= one.looks <= 3


@pytest.mark.slow
def test_controls_answer_with_the_global_stream_alone(found, birds):
    rows = {row.name: row for row in found.rows}
    assert rows["larger"].fused_top1 == rows["two-scales"].global_top1 == rows["larger"].global_top1
    run = found.folder / "two-networks" / "seed-1"
    model = TwoStreamClassifier.from_pretrained(run / "model").eval()
    (path,) = (found.folder / "two-networks" / "seed-1").glob("boxes-test.json")
    names = list(json.loads(path.read_text())["boxes"])
    pictures = ablation.parts_of_folder(birds).test
    assert sorted(names) == sorted(pictures.names)
    # By hand: the picture at 8/7 of 64 pixels, four corners and the middle; or the whole picture.
    places = {
        "ten-crop": (73, [(0, 0), (0, 9), (9, 0), (9, 9), (4, 4)]),
        "mirrored": (64, [(0, 0)]),
    }
    for name, (side, corners) in places.items():
        shares = []
        for index in range(len(pictures)):
            shown = WholePictures(model, pictures, side)[index][1]
            views = [shown[None, :, y : y + 64, x : x + 64] for y, x in corners]
            views += [view.flip(-1) for view in views]
            with torch.no_grad():
                logits = [model.classify_global(model.global_backbone(view)) for view in views]
            shares.append(torch.stack([row.softmax(-1) for row in logits]).mean((0, 1)))
        wanted = torch.stack(shares)
        found_shares = answers_over_views(model, pictures, name, device="cpu", progress=False)
        torch.testing.assert_close(found_shares, wanted)
        classes = wanted.argmax(1).tolist()
        assert json.loads((run / f"{name}.json").read_text()) == {name: classes}
        right = [a == b for a, b in zip(classes, pictures.labels, strict=True)]
        assert rows[name].fused_top1[1] == pytest.approx(100 * statistics.fmean(right))


def test_the_lead_of_a_variant_is_paired():
    first = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 0, 1, 0, 1]], dtype=torch.bool)
    other = torch.tensor([[1, 0, 1, 0, 0, 1], [1, 0, 1, 0, 0, 0]], dtype=torch.bool)
    by_picture = [0.0, 1.0, -0.5, 1.0, 0.0, 0.5]
    lead = lead_of(first, other)
    error = statistics.stdev(by_picture) / 6**0.5
    assert lead.mean == pytest.approx(100 * statistics.fmean(by_picture))
    assert lead.error == pytest.approx(100 * error)
    z = statistics.fmean(by_picture) / error
    assert lead.p_value == pytest.approx(2 * (1 - statistics.NormalDist().cdf(z)))
    assert lead_of(first, first) == (0, 0, 1)
    assert lead_of(other, first).mean == pytest.approx(-lead.mean)


@pytest.mark.slow
def test_it_goes_on_where_it_was(found, birds, monkeypatch):
    calls, train = [], ablation.train
    monkeypatch.setattr(ablation, "train", lambda *a, **k: calls.append(k["out"]) or train(*a, **k))
    monkeypatch.setattr(proposals, "fit_global_head", None)
    before = str(found)
    (found.folder / "paper" / "seed-1" / "answers.json").unlink()
    (found.folder / "two-networks" / "seed-0" / "ten-crop.json").unlink()
    again = run(birds, found.folder)
    assert calls == [found.folder / "paper" / "seed-1"]
    assert str(again) == before


def test_pictures_without_files_have_a_name_as_well():
    """What `ablate` compares a folder's runs by; items of a list have no path."""
    items = PictureItems([(photo(seed), seed % 2) for seed in range(4)], class_names=["auk", "emu"])
    turned = items.subset([1, 0, 2, 3])
    assert listing_of(items) == listing_of(items) != listing_of(turned)
    assert listing_of(items, by_name=True) == listing_of(turned, by_name=True)
    halves = items.subset([0, 3]), items.subset([2, 1])
    assert listing_of(items, by_name=True) == listing_of(*halves, by_name=True)


def test_orders_of_boxes(tmp_path):
    photo(0, (60, 40)).save(tmp_path / "a.png")
    pictures = Pictures(tmp_path, ["a.png"], [0], ["auk"])
    corners = [[0, 0, 20, 10], [0, 0, 40, 30], [5, 5, 15, 10], [0, 0, 10, 20]]
    boxes = {"a.png": torch.tensor(corners)}

    def rows(order):
        return ordered(boxes, pictures, order)["a.png"].tolist()

    assert rows("best") == boxes["a.png"].tolist()
    assert rows("largest") == [boxes["a.png"].tolist()[i] for i in (1, 0, 3, 2)]
    assert rows("smallest") == [boxes["a.png"].tolist()[i] for i in (2, 0, 3, 1)]
    assert rows("whole") == [[0, 0, 60, 40]]
    scattered = ordered(boxes, pictures, "scattered")["a.png"]
    assert scattered.tolist() == rows("scattered")  # the same again
    sides = torch.tensor([[20.0, 10], [40, 30], [10, 5], [10, 20]])
    torch.testing.assert_close(scattered[:, 2:] - scattered[:, :2], sides)
    assert bool((scattered >= 0).all())
    assert bool((scattered[:, 2:] <= torch.tensor([60, 40])).all())
    assert bool((scattered[:, :2] != boxes["a.png"][:, :2]).all())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"backbone": "test_vit"}, "the arguments backbone of {}, 'test_resnet', but got 'test_v"),
        ({"num_patches": 2}, "the arguments num_patches of {}, 3, but got 2"),
        (
            {"recipe": Recipe.heads_only(epochs=3, batch_size=4)},
            "the recipe epochs of {}, 2, but got 3",
        ),
        ({"seeds": (1,)}, "the pictures train of {}, '"),  # another split
    ],
)
def test_a_folder_of_another_ablation_is_refused(found, birds, changed, sentence, monkeypatch):
    monkeypatch.setattr(ablation, "train", None)
    before = {path: path.read_bytes() for path in found.folder.rglob("*.md")}
    given = {"recipe": Recipe.heads_only(epochs=2, batch_size=4), "seeds": (0, 1)}
    with pytest.raises(ValueError) as caught:
        ablate(birds, out=found.folder, **(SETTINGS | {"variants": NAMES} | given | changed))
    said = str(caught.value)
    assert said.startswith("Expected to resume with the ")
    assert sentence.format(found.folder / "ablation.json") in said
    assert {path: path.read_bytes() for path in before} == before


SHARED = {name: SETTINGS[name] for name in ("backbone", "image_size", "patch_size", "num_patches")}


def test_what_is_left_out_later_is_not_the_same(birds, tmp_path):
    parts, recipe = parts_of_folder(birds), Recipe()
    claim(tmp_path, parts, recipe, SHARED | {"fusion_weight": 7.0})
    claim(tmp_path, parts, recipe, SHARED)  # nothing was done with the other
    (tmp_path / "boxes").mkdir()
    for same in ({}, {"fusion_weight": 2.0, "pretrained": True, "augment": None}):
        claim(tmp_path, parts, recipe, SHARED | same)
    before = (tmp_path / "ablation.json").read_text()
    with pytest.raises(ValueError, match=r"arguments fusion_weight of .*, 2\.0, but got 7\.0"):
        claim(tmp_path, parts, recipe, SHARED | {"fusion_weight": 7.0})
    assert (tmp_path / "ablation.json").read_text() == before
    (tmp_path / "ablation.json").unlink()
    claim(tmp_path, parts, recipe, SHARED | {"fusion_weight": 7.0})  # boxes of another folder
    with pytest.raises(ValueError, match=r"arguments fusion_weight of .*, 7\.0, but got 2\.0"):
        claim(tmp_path, parts, recipe, SHARED)


def test_runs_of_other_lengths_are_not_compared(birds, tmp_path):
    parts, recipe = parts_of_folder(birds), Recipe(epochs=1, schedule="steps")
    claim(tmp_path, parts, recipe, SHARED)
    (tmp_path / "boxes").mkdir()
    with pytest.raises(ValueError, match="the recipe epochs of .*, 1, but got 3"):
        claim(tmp_path, parts, Recipe(epochs=3, schedule="steps"), SHARED)


def test_a_folder_that_does_not_say_what_it_is_of_is_refused(birds, tmp_path):
    parts = parts_of_folder(birds)
    (tmp_path / "anytime" / "seed-0").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"^Expected ablation\.json in .* but found none"):
        claim(tmp_path, parts, Recipe(), SHARED)
    for text, got in (("[]", "an object, but got list"), ("{", "be JSON, but got: Expecting")):
        (tmp_path / "ablation.json").write_text(text)
        with pytest.raises(ValueError, match=f"^Expected .*ablation\\.json to (hold )?{got}"):
            claim(tmp_path, parts, Recipe(), SHARED)


@pytest.mark.parametrize("damage", [None, "", "{", "[]", "{}"])
def test_a_run_with_a_damaged_file_is_not_done(tmp_path, damage):
    numbers = {"global_top1": 0.5, "local_top1": 0.5, "fused_top1": 0.5}
    answers = {"labels": [1], "global": [1], "local": [0], "fused": [1]}
    whole = {"result.json": numbers, "answers.json": answers, "ten-crop.json": {"ten-crop": [1]}}
    for name, found in whole.items():
        (tmp_path / name).write_text(json.dumps(found))
    assert is_done(tmp_path, *whole)
    for name, found in whole.items():
        if damage is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_text(damage)
        assert not is_done(tmp_path, *whole), name
        (tmp_path / name).write_text(json.dumps(found))


@pytest.mark.slow
def test_a_run_with_a_damaged_file_is_done_again(birds, tmp_path):
    first = run(birds, tmp_path / "out", ("anytime", "ten-crop"), seeds=(0,))
    wanted = (tmp_path / "out" / "table.csv").read_text()
    of_run = tmp_path / "out" / "anytime" / "seed-0"
    for damaged in (of_run / "result.json", of_run / "answers.json"):
        damaged.write_text("{")
        again = run(birds, tmp_path / "out", ("anytime", "ten-crop"), seeds=(0,))
        assert again.rows == first.rows
        assert (tmp_path / "out" / "table.csv").read_text() == wanted


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"local_backbone": "test_vit", "image_size": 64, "patch_size": 63}, "Expected .*63"),
        ({"train_patches": 99}, "Expected at least num_patches=99 boxes"),
        ({"hidden_size": "big"}, "Expected `hidden_size` to be a whole number, but got 'big'"),
        ({"boxes": "boxes.json"}, "Expected no `boxes`, which the variants of an ablation set"),
        ({"patch_weighting": "linear"}, "Expected no `patch_weighting`, which the variants"),
        ({"crop_scale": (0.5, 1)}, "Expected "),  # with frozen backbones
    ],
)
def test_nothing_is_written_before_the_arguments_are_checked(birds, tmp_path, changed, message):
    given = {"variants": ("paper", "anytime"), "recipe": Recipe.heads_only(epochs=1)}
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        ablate(birds, out=tmp_path / "out", **(SETTINGS | given | changed))
    assert not (tmp_path / "out").exists()


def test_costs_are_of_the_backbones_as_they_are_built():
    right = torch.tensor([True, False])
    result = {"global_top1": 0.5, "local_top1": 0.5, "right": right}
    result |= {"global": [1, 1], "labels": [1, 0]}
    kwargs = {"output_stride": 8}

    def cost(image_size, **given):
        sizes = {"num_classes": 2, "image_size": image_size, "patch_size": 32}
        with torch.device("meta"):
            model = TwoStreamClassifier("test_resnet", **sizes, **given)
        return model.proposal_size, cost_of_step(model.train(), batch_size=2, num_patches=1)

    for name in ("backbone_kwargs", "local_backbone_kwargs"):
        given = {name: kwargs}
        rows = rows_of([VARIANTS["linear"]], {"linear": [result]}, SHARED | given, 2)
        finer, own = cost(64, **given)
        wanted = own.global_macs + cost(finer, **given)[1].global_macs + 3 * own.local_macs
        assert rows[0].gmacs == pytest.approx(own.global_macs / 1e9)
        assert rows[1].gmacs == pytest.approx(wanted / 1e9)
        assert own.local_macs > 1.5 * cost(64)[1].local_macs  # which a finer map costs


def test_one_picture_says_nothing_of_others():
    alone = torch.tensor([[True], [False]])
    lead = lead_of(alone, torch.zeros_like(alone))
    assert (lead.mean, lead.error, lead.p_value) == (50, float("inf"), 1)


@pytest.mark.slow
def test_other_pictures_under_the_same_names_are_refused(found, birds, tmp_path):
    for path in birds.rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        photo(99, (20, 30)).save(tmp_path / path.parent.name / path.name)
    with pytest.raises(ValueError, match="^Expected to resume with the pictures train of "):
        run(tmp_path, found.folder)


@pytest.mark.parametrize("changed", [{"names": ("best",)}, {"names": ()}, {"seeds": ()}])
def test_what_is_refused(birds, tmp_path, changed):
    with pytest.raises(ValueError, match="^Expected `variants` to name some of anytime, linear, "):
        run(birds, tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"names": ("anytime",) * 2}, ValueError, "Expected `variants` to name each once, but got"),
        ({"seeds": (1, 1)}, ValueError, r"Expected `seeds` to name each once, but got \[1, 1\]"),
        ({"seeds": 3}, TypeError, "Expected `variants` and `seeds` to be lists, "),
        ({"names": "anytime"}, TypeError, "Expected `variants` and `seeds` to be lists, "),
        ({"seeds": (0.5,)}, TypeError, "Expected `seeds` to be a whole number, but got 0.5"),
    ],
)
def test_runs_that_would_count_twice_are_refused(birds, tmp_path, changed, error, message):
    with pytest.raises(error, match=f"^{message}"):
        run(birds, tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


def test_each_variant_can_be_built():
    for variant in VARIANTS.values():
        settings = {"num_patches": 3, "fusion_weight": 2.0} | dict(variant.settings)
        settings = {"patch_weighting": "anytime"} | settings
        assert make(**settings).num_patches in (1, 3)


def test_the_command_offers_all_variants():
    from recurrent_attention.cli.training import VARIANT_NAMES

    assert set(VARIANT_NAMES) == set(VARIANTS)
