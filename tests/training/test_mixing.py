"""Mixup, cutmix and the weights of classes, against plain loops over pixels."""

import pytest
import torch
from helpers.runs import QUIET, make_data, make_model

from recurrent_attention.training import Recipe, fit, loop
from recurrent_attention.training.mixing import class_weights, mix

BATCH, CLASSES = 5, 4


def make_batch(height=12, width=10, side=6):
    """A batch whose every pixel tells which picture it is of, and three patches of each."""
    of_picture = torch.arange(1.0, BATCH + 1)
    images = of_picture.view(-1, 1, 1, 1).expand(BATCH, 3, height, width).clone()
    patches = of_picture.view(-1, 1, 1, 1, 1).expand(BATCH, 3, 3, side, side).clone()
    return images, patches, torch.tensor([0, 2, 2, 3, 1])


def mixed(seed, **strengths):
    torch.manual_seed(seed)
    return mix(*make_batch(), CLASSES, **strengths)


def targets_by_loop(labels, share):
    """Lambda for a picture's class, 1 - lambda for that of the picture before it in the batch."""
    rows = [[0.0] * CLASSES for _ in labels]
    for place, label in enumerate(labels.tolist()):
        rows[place][label] += share
        rows[place][labels.tolist()[place - 1]] += 1 - share
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_equals_a_loop_over_the_batch(alpha):
    images, patches, labels = make_batch()
    shares = []
    for seed in range(10):
        found = mixed(seed, mixup=alpha)
        torch.manual_seed(seed)
        share = float(torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha)).sample())
        shares.append(share)
        for given, got in ((images, found.images), (patches, found.patches)):
            for place in range(BATCH):
                expected = share * given[place].double() + (1 - share) * given[place - 1].double()
                torch.testing.assert_close(got[place].double(), expected, rtol=0, atol=1e-5)
        expected = targets_by_loop(labels, share)
        torch.testing.assert_close(found.targets.double(), expected, rtol=0, atol=1e-6)
    assert len(set(shares)) == 10


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_pastes_the_share_of_the_targets(alpha):
    """Pixels are counted one by one: each is of the picture itself or of the one before it."""
    images, patches, labels = make_batch()
    boxes = set()
    for seed in range(20):
        found = mixed(seed, cutmix=alpha)
        own = found.images == images
        for place, picture in enumerate(found.images.tolist()):
            values = {value for channel in picture for row in channel for value in row}
            assert values <= {place + 1, (place - 1) % BATCH + 1}
        assert (own == own[:1, :1]).all()  # the same place in all pictures
        share = int(own[0, 0].sum()) / 120
        expected = targets_by_loop(labels, share)
        torch.testing.assert_close(found.targets.double(), expected, rtol=0, atol=1e-6)
        rows, columns = torch.where(~own[0, 0])
        if len(rows):  # one rectangle, and in each patch the same one in its own pixels
            x0, x1 = int(columns.min()), int(columns.max()) + 1
            y0, y1 = int(rows.min()), int(rows.max()) + 1
            assert (x1 - x0) * (y1 - y0) == len(rows)
            boxes.add((x0, y0, x1, y1))
            pasted = found.patches != patches
            assert (pasted == pasted[:1, :1, :1]).all()
            torch.testing.assert_close(
                found.patches[pasted], patches.roll(1, 0)[pasted], rtol=0, atol=0
            )
            rows, columns = torch.where(pasted[0, 0, 0])
            if len(rows):  # rounded to 12, 10 and 6 pixels: half a pixel of each
                edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                relative = torch.tensor([x0 / 10, y0 / 12, x1 / 10, y1 / 12])
                assert (edges / 6 - relative).abs().max() <= 0.5 / 6 + 0.5 / 10 + 1e-6
    assert len(boxes) > 5


@pytest.mark.parametrize("strengths", [{"mixup": 0.4}, {"cutmix": 0.4}, {"mixup": 1, "cutmix": 1}])
def test_targets_sum_to_one_and_inputs_stay(strengths):
    for seed in range(8):
        given = make_batch()
        before = [tensor.clone() for tensor in given]
        torch.manual_seed(seed)
        found = mix(*given, CLASSES, **strengths)
        assert all(torch.equal(some, other) for some, other in zip(given, before, strict=True))
        sums = found.targets.double().sum(1)
        torch.testing.assert_close(sums, torch.ones(BATCH).double(), rtol=0, atol=1e-6)
        assert (found.targets >= 0).all()


def test_a_coin_decides_between_the_two():
    given = make_batch()[0]
    pasted = sum(
        bool(((found == given) | (found == given.roll(1, 0))).all())
        for found in (mixed(seed, mixup=5.0, cutmix=1.0).images for seed in range(100))
    )
    assert 30 < pasted < 70


def test_nothing_is_mixed_unasked():
    given = make_batch()
    state = torch.get_rng_state()
    found = mix(*given, CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.images is given[0]
    assert found.patches is given[1]
    assert found.targets.tolist() == targets_by_loop(given[2], 1.0).tolist()


def test_class_weights_equal_a_loop():
    labels = [0, 2, 2, 2, 4, 4]
    counts = [labels.count(label) for label in range(6)]
    occurring = sum(count > 0 for count in counts)
    expected = [len(labels) / (occurring * count) if count else 0.0 for count in counts]
    found = class_weights(torch.tensor(labels), 6)
    assert found.tolist() == pytest.approx(expected)
    assert sum(found[label].item() for label in labels) / len(labels) == pytest.approx(1)


@pytest.mark.slow
def test_fit_trains_on_what_was_mixed(colored_pictures, monkeypatch):
    """The network sees the mixed views, the loss their targets; validation sees neither."""
    given, seen = [], []

    def noted(*args, **strengths):
        assert strengths == {"mixup": 0.3, "cutmix": 0.0}
        given.append(mix(*args, **strengths))
        return given[-1]

    train_pass = loop.train_pass

    def passed(network, first, second, count):
        seen.append((first, second))
        return train_pass(network, first, second, count)

    monkeypatch.setattr(loop, "mix", noted)
    monkeypatch.setattr(loop, "train_pass", passed)
    batches = []
    recipe = Recipe(epochs=1, batch_size=4, mixup=0.3)
    fit(make_model(), *make_data(colored_pictures), recipe=recipe, on_batch=batches.append, **QUIET)
    assert len(given) == len(seen) == len(batches) == 4
    assert all(g[0] is s[0] and g[1] is s[1] for g, s in zip(given, seen, strict=True))
    assert all(((g.targets > 0) & (g.targets < 1)).any() for g in given)
