"""Looks that add up: against plain loops, look by look, and in the loss."""

import math

import pytest
import torch
from helpers import models

from recurrent_attention import AnytimeAttention, TwoStreamLoss
from recurrent_attention.attention import AnytimeState
from recurrent_attention.heads import TwoStreamFeatures


def attention_of(channels=6, *, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return AnytimeAttention(channels, dtype=dtype)


def by_loops(attention, looks):
    """Return pooled states after each look, and all weights, with Python's own numbers."""
    weight, bias = attention.scorer.weight[0].tolist(), attention.scorer.bias.item()
    states, shares = [], []
    for row in looks.tolist():
        scores = [sum(w * x for w, x in zip(weight, look, strict=True)) + bias for look in row]
        after = []
        for number in range(1, len(row) + 1):
            most = max(scores[:number])
            masses = [math.exp(score - most) for score in scores[:number]]
            alphas = [mass / sum(masses) for mass in masses]
            after.append(
                [
                    sum(alpha * look[c] for alpha, look in zip(alphas, row[:number], strict=True))
                    for c in range(len(row[0]))
                ]
            )
        states.append(after)
        shares.append(alphas)
    return states, shares


def test_against_loops():
    attention, looks = attention_of(), torch.randn(3, 5, 6, dtype=torch.float64)
    found = attention(looks)
    states, shares = by_loops(attention, looks)
    for image in range(3):
        assert found.weights[image].tolist() == pytest.approx(shares[image], abs=1e-10)
        assert found.pooled[image].tolist() == pytest.approx(states[image][-1], abs=1e-10)
        for look in range(5):
            wanted = pytest.approx(states[image][look], abs=1e-10)
            assert found.states[image, look].tolist() == wanted


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_look_by_look_is_the_closed_form(scale, dtype, close):
    """Also where the exponential of a score alone would be infinite, or 0."""
    attention = attention_of(dtype=dtype)
    looks = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.no_grad():
        attention.scorer.weight.mul_(scale)
        states = attention(looks).states
        state, sizes = None, set()
        for number in range(12):
            state = attention.step(state, looks[:, number])
            torch.testing.assert_close(state.pooled, states[:, number], atol=close, rtol=close)
            sizes.add(sum(part.numel() for part in state))
    assert sizes == {4 * (6 + 2)}
    assert torch.isfinite(states).all()


def test_maps_are_averaged():
    attention, maps = attention_of(), torch.randn(2, 3, 6, 4, 5, dtype=torch.float64)
    for got, wanted in zip(attention(maps), attention(maps.mean((3, 4))), strict=True):
        torch.testing.assert_close(got, wanted)
    state = attention.step(attention.step(None, maps[:, 0]), maps[:, 1])
    torch.testing.assert_close(state.pooled, attention(maps).states[:, 1])


def test_gradients_of_the_steps_are_those_of_the_closed_form():
    attention = attention_of()
    looks = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    inputs = (looks, *attention.parameters())
    closed = torch.autograd.grad(attention(looks).states[:, -1].sin().sum(), inputs)
    state = None
    for number in range(4):
        state = attention.step(state, looks[:, number])
    for got, wanted in zip(
        torch.autograd.grad(state.pooled.sin().sum(), inputs), closed, strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 5), (2, 3, 6, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^Expected `features` to have "):
        attention_of()(torch.zeros(shape))


def state_of(batch):
    return AnytimeState.before(torch.zeros(batch, 6))


@pytest.mark.parametrize(
    ("state", "look", "error", "message"),
    [
        (
            None,
            torch.zeros(2, 3, 6),
            ValueError,
            "Expected `look` to have shape (b, 6) or (b, 6, h, w), but got (2, 3, 6).",
        ),
        (
            None,
            torch.zeros(2, 5),
            ValueError,
            "Expected `look` to have 6 channels, but got 5 in shape (2, 5). Build the module with "
            "input_size=5.",
        ),
        (
            None,
            torch.zeros(2, 6, dtype=torch.long),
            TypeError,
            "Expected `look` to be floating point, but got torch.int64. Convert them: "
            "look.float().",
        ),
        (
            state_of(1),
            torch.zeros(3, 6),
            ValueError,
            "Expected `state` to be of looks of shape (3, 6), as `look` is, but got one of looks "
            "of shape (1, 6).",
        ),
        (
            torch.zeros(2, 6),
            torch.zeros(2, 6),
            TypeError,
            "Expected `state` to be an AnytimeState, or None before the first look, but got "
            "Tensor. The state comes first: step(state, look).",
        ),
    ],
)
def test_a_step_refuses_what_does_not_fit_in_one_sentence(state, look, error, message):
    with pytest.raises(error) as caught:
        attention_of(dtype=torch.float32).step(state, look)
    assert str(caught.value) == message


def test_no_looks_and_integers_are_refused():
    with pytest.raises(ValueError, match="^Expected `features` to hold at least one position"):
        attention_of()(torch.zeros(2, 0, 6))
    with pytest.raises(TypeError, match="^Expected `features` to be floating point"):
        attention_of()(torch.zeros(2, 3, 6, dtype=torch.long))


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="^Expected `input_size` to be at least 1, but got 0.$"):
        AnytimeAttention(0)


def features(patches=4):
    generator = torch.Generator().manual_seed(1)
    return TwoStreamFeatures(
        torch.randn(3, 96, 2, 2, generator=generator),
        torch.randn(3, patches, 96, 2, 2, generator=generator),
    )


def test_the_model_answers_after_each_patch_as_if_there_were_no_more():
    model, seen = models.make(patch_weighting="anytime", fusion_weight=2.0).eval(), features()
    with torch.no_grad():
        output = model.classify(seen)
        for number in range(1, 5):
            fewer = seen._replace(local_features=seen.local_features[:, :number])
            alone = model.classify(fewer)
            after = output.prefix_logits[:, number - 1]
            torch.testing.assert_close(after, alone.logits)
            torch.testing.assert_close(
                output.local_prefix_logits[:, number - 1], alone.local_logits
            )
    torch.testing.assert_close(output.prefix_logits[:, -1], output.logits)


def test_it_is_the_linear_weighting_after_all_patches():
    model, seen = models.make(patch_weighting="anytime").eval(), features()
    other = models.make(patch_weighting="linear").eval()
    other.load_state_dict(model.state_dict())
    ours, theirs = model.classify(seen), other.classify(seen)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.patch_weights, theirs.patch_weights)
    assert theirs.prefix_logits is None


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_the_mean_over_the_answers_and_half_that_of_each_patch(soft):
    model, seen = models.make(patch_weighting="anytime", num_classes=5).eval(), features()
    output = model.classify(seen)
    targets = torch.tensor([0, 2, 4])
    given = torch.nn.functional.one_hot(targets, 5).float() if soft else targets
    got = TwoStreamLoss(local_weight=0.3)(output, given).item()

    def entropy(rows):
        return sum(
            math.log(sum(math.exp(v) for v in row)) - row[target]
            for row, target in zip(rows.tolist(), targets.tolist(), strict=True)
        ) / len(targets)

    after = [entropy(output.local_prefix_logits[:, p]) for p in range(4)]
    alone = [entropy(output.step_logits[:, p, 0]) for p in range(4)]
    wanted = entropy(output.global_logits) + 0.3 * (sum(after) / 4 + 0.5 * sum(alone) / 4)
    assert got == pytest.approx(wanted, abs=1e-5)
