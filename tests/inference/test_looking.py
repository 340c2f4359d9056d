"""Looks in sequence: what is answered, when it stops, and that batches stay full."""

from itertools import pairwise

import pytest
import torch
from helpers.models import make, photo

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.inference import looking
from recurrent_attention.inference.looking import temperature_after

NAMES = ["auk", "emu", "owl"]


@pytest.fixture(scope="module")
def model():
    """A model that is sure of some pictures after few looks, and of others never."""
    settings = {"class_names": NAMES, "num_patches": 5, "fusion_weight": 2.0}
    model = make(num_classes=3, patch_weighting="anytime", **settings).eval()
    with torch.no_grad():
        model.attention.scorer.weight.mul_(20)
        for head, scale in ((model.global_head, 12), (model.local_head, 12)):
            head.weight.mul_(scale)
    return model


@pytest.fixture(scope="module")
def pictures():
    return [photo(seed, (60 + 5 * seed, 50)) for seed in range(9)]


def when_sure(after, confidence):
    """Return after how many looks the first answer is sure; all where none is."""
    sure = [number for number, (_, share) in enumerate(after) if share >= confidence]
    return sure[0] if sure else len(after) - 1


@pytest.mark.parametrize("room", [1, 4])
@pytest.mark.parametrize("temperatures", [None, (0.5, 2.0, 1.5)])
def test_it_stops_after_the_first_look_that_is_sure(
    model, pictures, monkeypatch, room, temperatures
):
    monkeypatch.setattr(looking, "PICTURES_LOOKED_AT", room)
    monkeypatch.setattr(looking, "pictures_per_pass", lambda _: room)
    monkeypatch.setattr(model, "temperatures", temperatures)
    everything = model.predict(pictures)
    shares = sorted(share for full in everything for _, share in full.after)
    between = [(low + high) / 2 for low, high in pairwise(shares) if high - low > 1e-3]

    def looks_at(confidence):
        return [when_sure(full.after, confidence) for full in everything]

    confidence = max(between, key=lambda share: len(set(looks_at(share))))
    stopped, taken = model.predict(pictures, confidence=confidence), looks_at(confidence)
    assert len(set(taken)) > 2, taken  # else nothing is tested
    for full, found, looks in zip(everything, stopped, taken, strict=True):
        assert found.looks == looks
        assert found.boxes == full.boxes[:looks]
        for (name, share), (wanted, other) in zip(found.after, full.after, strict=False):
            assert (name, share) == (wanted, pytest.approx(other, abs=1e-4))
        assert found.class_names[0] == full.after[looks][0]
        assert found.probabilities[0] == pytest.approx(full.after[looks][1], abs=1e-4)
        assert found.global_class == full.global_class
        assert (found.local_class is None) == (looks == 0)


def test_one_that_is_never_sure_takes_all_looks_and_answers_the_same(model, pictures):
    for full, found in zip(
        model.predict(pictures), model.predict(pictures, confidence=1.0), strict=True
    ):
        assert found.looks == full.looks == 5
        assert found.class_names == full.class_names
        assert found.probabilities == pytest.approx(full.probabilities, abs=1e-4)
        assert found.local_class == full.local_class


def test_what_is_sure_at_first_sight_is_not_looked_into(model, pictures, monkeypatch):
    def fail(*_):
        raise AssertionError("nothing is to be proposed")

    monkeypatch.setattr(model, "propose", fail)
    found = model.predict(pictures[0], confidence=0.0)
    assert (found.looks, found.boxes, found.local_class) == (0, (), None)
    assert "local stream alone: not asked" in str(found)
    assert "not asked" in found._repr_html_()


def test_batches_stay_full(model, pictures, monkeypatch):
    room, sizes = 4, []
    monkeypatch.setattr(looking, "PICTURES_LOOKED_AT", room)
    hook = model.local_backbone.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    try:
        found = model.predict(iter(pictures), confidence=0.9)
    finally:
        hook.remove()
    assert sum(sizes) == sum(one.looks for one in found)
    assert max(sizes) == room
    started = 0  # pictures that have come so far
    for size in sizes[:-5]:  # while there are more, at most half of the room is empty
        assert size > room // 2 or started >= len(pictures)
        started += size


def test_fewer_looks_are_the_first_ones(model, pictures):
    full = model.predict(pictures[0])
    for given in ({}, {"confidence": 1.0}):
        found = model.predict(pictures[0], looks=2, **given)
        assert found.boxes == full.boxes[:2]
        assert len(found.after) == 3
        for (name, share), (wanted, other) in zip(found.after, full.after, strict=False):
            assert (name, share) == (wanted, pytest.approx(other, abs=1e-4))


def test_boxes_of_different_number_and_ready_patches(model, pictures):
    boxes = [[[0, 0, 20, 20], [10, 5, 40, 45], [30, 10, 50, 50]], [[5, 5, 30, 30]]]
    found = model.predict(pictures[:2], boxes=boxes, confidence=1.0)
    for one, own, picture in zip(found, boxes, pictures, strict=False):
        assert one.looks == len(own)
        full = model.predict(picture, boxes=own)
        assert one.probabilities == pytest.approx(full.probabilities, abs=1e-4)
    patches = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = model.predict(pictures[:2], patches=patches, confidence=1.0)
    full = model.predict(pictures[:2], patches=patches)
    for one, other in zip(found, full, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert (one.boxes, one.looks) == (None, 3)


def test_nothing_changes_in_training_mode(model, pictures):
    model.train()
    state = torch.get_rng_state()
    try:
        found = model.predict(pictures[:3], confidence=0.9)
        assert model.training
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        model.eval()
    assert found == model.predict(pictures[:3], confidence=0.9)


def test_the_other_weightings_cannot_stop(pictures):
    for way in ("equal", "linear", "recurrent"):
        model = make(patch_weighting=way)
        with pytest.raises(ValueError, match="^Expected a model with patch_weighting='anytime'"):
            model.predict(pictures[0], confidence=0.9)
        assert model.predict(pictures[0]).looks is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"confidence": 1.5}, "Expected `confidence` to be in [0, 1], but got 1.5."),
        ({"confidence": "high"}, "Expected `confidence` to be a number, but got 'high'."),
        ({"looks": 0}, "Expected `looks` to be at least 1, but got 0."),
        ({"looks": 1.5}, "Expected `looks` to be a whole number, but got 1.5."),
    ],
)
def test_what_is_refused(model, pictures, given, sentence):
    with pytest.raises((ValueError, TypeError)) as caught:
        model.predict(pictures[0], **given)
    assert str(caught.value) == sentence


def test_a_temperature_for_each_number_of_looks():
    assert temperature_after(None, 3) == 1.0
    assert [temperature_after((0.5, 2.0), looks) for looks in range(4)] == [0.5, 2.0, 2.0, 2.0]


def test_temperatures_are_kept_with_the_model(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "temperatures", (0.7, 1.3))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.temperatures == (0.7, 1.3)
    assert again.predict(pictures[0]) == model.predict(pictures[0])


def test_new_classifiers_have_no_temperatures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "temperatures", (0.7, 1.3))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="classifiers of both streams are new"):
        other = type(model).from_pretrained(tmp_path, num_classes=model.num_classes + 1)
    assert other.temperatures is None
    again = type(model).from_pretrained(tmp_path)
    again.reset_classifier(5)
    assert again.temperatures is None
    with pytest.raises(ValueError, match="^Expected `temperatures` to hold a number at least, or"):
        TwoStreamClassifier("test_resnet", 2, image_size=64, temperatures=())
