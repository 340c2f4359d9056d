"""Temperatures, against a search over many of them, and what they change."""

import math

import pytest
import torch
from helpers.models import make
from helpers.runs import make_data
from torch.utils.data import ConcatDataset, Subset
from torchmetrics.functional.classification import multiclass_calibration_error

from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.training import calibrate, calibration, evaluate
from recurrent_attention.training.answers import Answers, _calibration_error
from recurrent_attention.training.calibration import temperature_of
from recurrent_attention.training.ranking import best_classes

QUIET = {"device": "cpu", "progress": False}


def entropy(logits, labels, heat, smoothing):
    """Return the smoothed cross-entropy of answers (n p k), in plain loops."""
    total = 0.0
    for rows, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for row in rows:
            scaled = [value / heat for value in row]
            log_sum = math.log(sum(math.exp(value) for value in scaled))
            odds = [log_sum - value for value in scaled]
            total += (1 - smoothing) * odds[label] + smoothing * sum(odds) / len(odds)
    return total / (logits.shape[0] * logits.shape[1])


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_the_temperature_has_the_least_loss(scale):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (40,), generator=generator)
    logits = torch.randn(40, 3, 4, generator=generator, dtype=torch.float64)
    logits = scale * (logits + torch.nn.functional.one_hot(labels, 4)[:, None])
    found = temperature_of(logits, labels)
    best = entropy(logits, labels, found, 1 / 42)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2):
        assert entropy(logits, labels, factor * found, 1 / 42) > best
    either = [entropy(logits, labels, (1 + d) * found, 1 / 42) for d in (-1e-4, 1e-4)]
    assert abs(either[1] - either[0]) < 0.01 * (sum(either) - 2 * best)  # within 1e-6 of it


def test_few_answers_at_once_give_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (40,), generator=generator)
    logits = torch.randn(40, 3, 4, generator=generator, dtype=torch.float64)
    logits += torch.nn.functional.one_hot(labels, 4)[:, None]
    wanted = temperature_of(logits, labels)
    monkeypatch.setattr(calibration, "CHUNK", 28)  # seven answers
    assert temperature_of(logits, labels) == pytest.approx(wanted, rel=1e-9)


def test_of_many_logits_evenly_spaced_pictures_are_taken(colored_pictures, monkeypatch):
    _, data = make_data(colored_pictures)
    model = make(num_classes=2, patch_weighting="anytime", image_size=32, patch_size=32)
    with torch.no_grad():
        model.local_head.weight.mul_(30)
    count, of_each = len(data), 2 * (1 + data.num_patches)
    wanted = calibrate(model, Subset(data, range(0, count, 3)), **QUIET)
    assert calibrate(model, data, **QUIET) != wanted
    monkeypatch.setattr(calibration, "MOST_LOGITS", count * of_each // 3 + 1)
    assert calibrate(model, data, **QUIET) == wanted
    assert model.temperatures == wanted.temperatures


def test_of_many_logits_some_of_each_data_set_are_taken(colored_pictures, monkeypatch):
    _, data = make_data(colored_pictures)
    model = make(num_classes=2, patch_weighting="anytime", image_size=32, patch_size=32)
    with torch.no_grad():
        model.local_head.weight.mul_(30)
    wanted = calibrate(model, Subset(data, range(0, len(data), 4)), **QUIET)
    joined = ConcatDataset([Subset(data, range(8)), Subset(data, range(8, len(data)))])
    assert calibrate(model, joined, **QUIET) != wanted
    most = len(data) * 2 * (1 + data.num_patches) // 4
    monkeypatch.setattr(calibration, "MOST_LOGITS", most)
    assert calibrate(model, joined, **QUIET) == wanted


def test_few_right_answers_make_nobody_certain():
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]], dtype=torch.float64)
    found = temperature_of(logits, torch.tensor([0, 1]))
    assert float((logits[0, 0] / found).softmax(0)[0]) == pytest.approx(1 - 1 / 8, abs=1e-4)


def test_answers_that_are_mostly_wrong_become_as_flat_as_can_be():
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]], dtype=torch.float64)
    assert temperature_of(logits, torch.tensor([1, 0])) == 100.0


def test_it_is_found_under_inference_mode():
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]], dtype=torch.float64)
    wanted = temperature_of(logits, torch.tensor([0, 1]))
    with torch.inference_mode():
        assert temperature_of(logits + 0, torch.tensor([0, 1])) == wanted


@pytest.mark.parametrize("way", ["anytime", "linear"])
def test_it_is_kept_in_the_model_and_changes_no_answer(colored_pictures, way):
    _, data = make_data(colored_pictures)
    model = make(num_classes=2, patch_weighting=way, image_size=32, patch_size=32).train()
    with torch.no_grad():
        model.global_head.weight.mul_(30)
    before = evaluate(model, data, **QUIET)
    found = calibrate(model, data, **QUIET)
    assert model.temperatures == found.temperatures
    assert len(found.temperatures) == 2
    assert found.loss_after < found.loss_before
    assert model.training
    after = evaluate(model, data, **QUIET)
    assert torch.equal(before.answers.classes[..., 0], after.answers.classes[..., 0])
    for place, heat in ((0, found.temperatures[0]), (2, found.temperatures[1])):
        odds = [e.answers.probabilities[:, place].log() for e in (before, after)]
        steps = [o[:, 0] - o[:, 1] for o in odds]
        torch.testing.assert_close(steps[1], steps[0] / heat, atol=1e-3, rtol=1e-3)


def output_of(whole, by_looks):
    """Return an output with given logits: (b k), and (b p k) after each look."""
    steps = by_looks[:, :, None]
    return TwoStreamOutput(
        by_looks[:, -1], whole, by_looks[:, -1], steps, torch.ones(steps.shape[:3]), None, None,
        by_looks, by_looks,
    )  # fmt: skip


def answers_of(whole, by_looks, labels, temperatures=None):
    kept = best_classes(output_of(whole, by_looks), temperatures)
    count = len(labels)
    return Answers(
        tuple(map(str, range(count))), ("a", "b", "c"), labels, *kept[:2],
        tuple(torch.zeros(1, 4) for _ in range(count)), *kept[2:],
    )  # fmt: skip


def test_top1_after_each_look_and_where_it_stops():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(30, 3, generator=generator)
    by_looks = 2 * torch.randn(30, 4, 3, generator=generator)
    labels = torch.randint(3, (30,), generator=generator)
    heats = (0.5, 2.0)
    answers = answers_of(whole, by_looks, labels, heats)
    right, looks, correct = [0] * 5, [], 0
    for image in range(30):
        stopped = None
        for number in range(5):
            logits = whole[image] if number == 0 else by_looks[image, number - 1]
            scaled = [value / heats[min(number, 1)] for value in logits.tolist()]
            shares = [math.exp(v) / sum(map(math.exp, scaled)) for v in scaled]
            hit = shares.index(max(shares)) == labels[image]
            right[number] += int(hit)
            if stopped is None and (max(shares) >= 0.8 or number == 4):
                stopped = number
                correct += int(hit)
        looks.append(stopped)
    assert answers.top1_after() == pytest.approx([count / 30 for count in right])
    found = answers.stopping(0.8)
    assert found.looks.tolist() == looks
    assert len(set(looks)) > 3
    assert (found.top1, found.mean_looks) == pytest.approx((correct / 30, sum(looks) / 30))


def test_a_model_that_answers_once_has_no_answers_after_looks():
    whole, by_looks = torch.randn(2, 3), torch.randn(2, 1, 3)
    answers = answers_of(whole, by_looks, torch.tensor([0, 1]))
    answers = Answers(*(getattr(answers, name) for name in answers.__dataclass_fields__
                        if not name.endswith("after")))  # fmt: skip
    for ask in (answers.top1_after, lambda: answers.stopping(0.9)):
        with pytest.raises(ValueError, match="^Expected answers of a model with patch_weighting"):
            ask()


def test_the_calibration_error_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 1, 3, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    shares = logits[:, 0].softmax(1)
    wanted = multiclass_calibration_error(shares, labels, num_classes=3, n_bins=15, norm="l1")
    answers = answers_of(logits[:, 0], logits, labels)
    assert answers.calibration_error() == pytest.approx(wanted.item(), abs=1e-6)
    assert _calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([1, 0])) == 0.5


def test_answers_that_are_no_numbers_are_not_calibrated(colored_pictures):
    _, data = make_data(colored_pictures)
    model = make(num_classes=2, patch_weighting="anytime", image_size=32, patch_size=32)
    with torch.no_grad():
        model.local_head.weight[1, 0] = torch.nan
    with pytest.raises(ValueError, match="^Expected the model to answer with finite numbers"):
        calibrate(model, data, **QUIET)
    assert model.temperatures is None
