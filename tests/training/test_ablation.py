"""Variants compared: what is shared, what is kept, and what the table says."""

import csv
import json
import statistics

import pytest
import torch
from helpers.models import make, photo
from PIL import Image

from recurrent_attention.data import Pictures
from recurrent_attention.training import Recipe, ablate, ablation, proposals
from recurrent_attention.training.variants import VARIANTS, ordered

NAMES = ("anytime", "paper", "largest-first", "two-networks", "two-scales")
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
    assert len(rows) == 2 * 6
    assert float(rows[3]["fused_top1"]) == pytest.approx(anytime.fused_top1[1])
    with Image.open(found.folder / "ablation.png") as figure:
        assert figure.width > 800


@pytest.mark.slow
def test_what_is_shared_is_the_same(found):
    """The global stream learns the same whatever the local one is; boxes come from one proposal."""
    for seed in (0, 1):
        tops = {name: result(found, name, seed)["global_top1"] for name in NAMES[:4]}
        assert len(set(tops.values())) == 1, tops
        proposed = found.folder / "boxes" / f"seed-{seed}-test.json"
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
    assert rows["two-networks"].gmacs == pytest.approx(whole + look)
    assert rows["two-scales"].gmacs == pytest.approx(4 * whole + look, rel=0.05)
    for cost, _ in anytime.stopped:
        assert whole <= cost <= anytime.gmacs


@pytest.mark.slow
def test_it_goes_on_where_it_was(found, birds, monkeypatch):
    calls, train = [], ablation.train
    monkeypatch.setattr(ablation, "train", lambda *a, **k: calls.append(k["out"]) or train(*a, **k))
    monkeypatch.setattr(proposals, "fit_global_head", None)
    before = str(found)
    (found.folder / "paper" / "seed-1" / "result.json").unlink()
    again = run(birds, found.folder)
    assert calls == [found.folder / "paper" / "seed-1"]
    assert str(again) == before


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


@pytest.mark.parametrize("changed", [{"names": ("best",)}, {"names": ()}, {"seeds": ()}])
def test_what_is_refused(birds, tmp_path, changed):
    with pytest.raises(ValueError, match="^Expected `variants` to name some of anytime, linear, "):
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
