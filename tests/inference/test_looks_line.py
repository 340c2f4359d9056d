"""The line of answers under a figure: its numbers are of `predict`, and it says where to stop."""

import pytest
import torch
from helpers.models import make, photo

from recurrent_attention.inference.looks_line import SURE, answers_after

NAMES = ["auk", "emu", "owl"]


def made(scale, **settings):
    model = make(num_classes=3, class_names=NAMES, num_patches=4, **settings).eval()
    with torch.no_grad():
        model.global_head.weight.mul_(scale)
        model.local_head.weight.mul_(scale)
    return model


def texts(figure):
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("temperatures", [None, (0.5, 2.0)])
def test_the_numbers_are_those_of_predict(temperatures):
    model = made(10, patch_weighting="anytime", temperatures=temperatures)
    picture = photo(1)
    wanted = model.predict(picture).after
    found = model.explain(picture)
    target = int(found.target[0])
    got = answers_after(found.global_logits[0], found.prefix_logits[0], target, found.temperatures)
    assert [NAMES[best] for best in got.best] == [name for name, _ in wanted]
    for share, best, (_, probability) in zip(got.shares, got.best, wanted, strict=True):
        if best == target:
            assert share == pytest.approx(probability, abs=1e-4)
        else:
            assert share < probability
    sure = [looks for looks, (_, probability) in enumerate(wanted) if probability >= SURE]
    assert got.stop == (sure[0] if sure else None)


@pytest.mark.parametrize(
    ("scale", "said"), [(0.1, "never 90 % sure"), (2000, "sure: would stop here")]
)
def test_the_figure_says_where_it_would_stop(scale, said):
    model = made(scale, patch_weighting="anytime")
    shown = texts(model.explain(photo(1)).figure())
    assert said in shown
    assert "0 looks" in shown
    assert [text for text in shown if text.isdecimal()] == ["1", "2", "3", "4"]


def test_the_figure_names_the_class_that_it_would_stop_for():
    model = made(2000, patch_weighting="anytime")
    said = model.predict(photo(1), confidence=SURE)
    other = next(name for name in NAMES if name != said.class_names[0])
    shown = texts(model.explain(photo(1), target=other).figure())
    assert f"sure of {said.class_names[0]}: would stop here" in shown


def test_patches_stand_in_the_order_of_the_looks_and_the_others_heaviest_first():
    kinds = {}
    for way in ("anytime", "linear"):
        model = made(10, patch_weighting=way)
        with torch.no_grad():
            model.attention.scorer.weight.mul_(40)
        found = model.explain(photo(1))
        axes = [axes for axes in found.figure().axes if axes.containers]
        bars = [t.get_text() for one in axes for t in one.texts]
        kinds[way] = [int(text.split()[0]) for text in bars if text.endswith("%")]
        weights = [round(100 * share) for share in found.patch_weights[0].tolist()]
        if way == "anytime":
            assert kinds[way] == weights
    assert kinds["linear"] == sorted(kinds["anytime"], reverse=True) != kinds["anytime"]


def test_other_models_have_no_line():
    shown = texts(made(1, patch_weighting="linear").explain(photo(1)).figure())
    assert not [text for text in shown if "look" in text]
