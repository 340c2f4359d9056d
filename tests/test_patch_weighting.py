"""Learned weights over distinct patches, whose features are classified."""

import math

import pytest
import torch
from helpers import models

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput

WAYS = ["linear", "recurrent", "anytime"]


def make(way="recurrent", **kwargs):
    return models.make(patch_weighting=way, **kwargs).double()


def features(patches=4):
    generator = torch.Generator().manual_seed(1)
    wide = torch.float64
    return TwoStreamFeatures(
        torch.randn(3, 96, 2, 2, generator=generator, dtype=wide),
        torch.randn(3, patches, 96, 2, 2, generator=generator, dtype=wide),
    )


@pytest.mark.parametrize("way", WAYS)
def test_against_loops(way):
    model = make(way, fusion_weight=0.5)
    seen = features()
    with torch.no_grad():
        output = model.classify(seen)
        weight, bias = model.attention.scorer.weight[0].tolist(), model.attention.scorer.bias.item()
        matrix, offset = model.local_head.weight.tolist(), model.local_head.bias.tolist()
        for image in range(3):
            pooled = [
                [seen.local_features[image, p, c].sum().item() / 4 for c in range(96)]
                for p in range(4)
            ]
            states = pooled
            if way == "recurrent":
                lstm = model.attention.to_lstm()
                states = lstm(torch.tensor([pooled], dtype=torch.float64))[0][0].tolist()
            scores = [
                sum(w * s for w, s in zip(weight, state, strict=True)) + bias for state in states
            ]
            total = sum(math.exp(score) for score in scores)
            alphas = [math.exp(score) / total for score in scores]
            mixed = [
                sum(alpha * x[c] for alpha, x in zip(alphas, pooled, strict=True))
                for c in range(96)
            ]
            logits = [
                sum(w * x for w, x in zip(row, mixed, strict=True)) + add
                for row, add in zip(matrix, offset, strict=True)
            ]
            assert output.patch_weights[image].tolist() == pytest.approx(alphas, abs=1e-10)
            assert output.local_logits[image].tolist() == pytest.approx(logits, abs=1e-10)
    torch.testing.assert_close(output.logits, output.global_logits + 0.5 * output.local_logits)
    answers = model.local_head(seen.local_features.mean((3, 4)))
    torch.testing.assert_close(output.step_logits[:, :, 0], answers)
    assert torch.equal(output.step_weights, torch.ones(3, 4, 1, dtype=torch.float64))
    # The means over h w answer the same.
    again = model.classify(TwoStreamFeatures(*(f.mean((-1, -2)) for f in seen)))
    torch.testing.assert_close(again.local_logits, output.local_logits)


def test_equal_patches_have_no_weights_of_their_own():
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 5, image_size=64, patch_size=32, hidden_size=16)
    assert model.classify(TwoStreamFeatures(*(f.float() for f in features()))).patch_weights is None


def test_the_loss_is_that_of_the_weighted_patches_and_half_that_of_each():
    generator = torch.Generator().manual_seed(0)
    global_logits = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    local_logits = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    patch_logits = torch.randn(2, 4, 1, 3, generator=generator, dtype=torch.float64)
    unused, ones = torch.full((2, 3), math.nan), torch.ones(2, 4, 1, dtype=torch.float64)
    output = TwoStreamOutput(
        unused, global_logits, local_logits, patch_logits, ones, torch.full((2, 4), 0.25)
    )
    got = TwoStreamLoss(local_weight=0.3)(output, torch.tensor([0, 2])).item()
    expected = 0.0
    each = [(0.3 * 0.5 / 4, patch_logits[:, patch, 0]) for patch in range(4)]
    for weight, logits in ((1.0, global_logits), (0.3, local_logits), *each):
        for row, target in zip(logits.tolist(), (0, 2), strict=True):
            expected -= weight / 2 * (row[target] - math.log(sum(math.exp(v) for v in row)))
    assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_every_parameter_learns_to_weigh(way):
    model = make(way).train()
    images, patches = torch.randn(3, 3, 64, 64), torch.randn(3, 4, 3, 32, 32)
    output = model(images.double(), patches.double())
    TwoStreamLoss()(output, torch.tensor([0, 1, 2])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.attention.scorer.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_saved_and_loaded(tmp_path, way):
    model = make(way, num_patches=4).float()
    model.save_pretrained(tmp_path)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path).eval()
    seen = TwoStreamFeatures(*(f.float() for f in features()))
    torch.testing.assert_close(loaded.classify(seen).logits, model.classify(seen).logits)


def test_unknown_weighting():
    message = (
        "Expected `patch_weighting` to be one of equal, linear, recurrent, anytime, but got 'best'."
    )
    with pytest.raises(ValueError) as caught:
        TwoStreamClassifier("test_resnet", 5, patch_weighting="best")
    assert str(caught.value) == message


@pytest.mark.parametrize("way", WAYS)
def test_explained_patch_by_patch(way):
    """One look at each patch: its map speaks for the target in the answer of that patch alone."""
    model = make(way).float()
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 4, 3, 32, 32)
    found = model.explain(images, patches=patches, target=1)
    maps = model.encode(images, patches).local_features
    expected = torch.einsum("c, b p c h w -> b p h w", model.local_head.weight[1], maps).relu()
    cells = maps[0, 0, 0].numel()
    torch.testing.assert_close(found.step_maps[:, :, 0], expected.detach() / cells)
    torch.testing.assert_close(found.patch_weights, model(images, patches).patch_weights.detach())
