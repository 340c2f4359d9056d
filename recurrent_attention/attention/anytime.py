"""Looks that add up: one head that can answer after each of them."""

from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention._arguments import whole_number
from recurrent_attention.attention.checks import check_features
from recurrent_attention.attention.recurrent import RefinedAttentionOutput

LOOKS_AT, LOOK_AT = {3: 2, 5: 2}, {2: 1, 4: 1}  # where channels are, by the number of axes


class AnytimeState(NamedTuple):
    """The state of `AnytimeAttention` after some looks; its size does not grow with them.

    Attributes:
        total: (b c) sum of e^(score - peak) * features over the looks.
        mass: (b) sum of e^(score - peak) over the looks, at least 1.
        peak: (b) the largest score, which keeps the exponentials in range.
    """

    total: Tensor
    mass: Tensor
    peak: Tensor

    @classmethod
    def before(cls, look: Tensor) -> "AnytimeState":
        """Return the state before the first look.

        Its `pooled` is NaN: nothing has been seen.

        Args:
            look: (b c) like those to come.
        """
        nothing = torch.zeros_like(look[:, 0])
        return cls(torch.zeros_like(look), nothing, torch.full_like(nothing, -torch.inf))

    @property
    def pooled(self) -> Tensor:
        """Return the looks so far as one vector: (b c)."""
        return self.total / rearrange(self.mass, "b -> b 1")


class AnytimeAttention(nn.Module):
    r"""Weigh looks by a learned score, so that there is an answer after every look.

    With x_i in R^c the features of look i,

        s_i      = w . x_i + b                                         w in R^c, b
        phi_p    = sum_{i<=p} e^{s_i} x_i / sum_{i<=p} e^{s_i}         state after look p
        pooled   = phi_T                                               after all of them

    It is a recurrence: phi_p follows from phi_{p-1}, the mass of the weights so far and look p
    (`step`), with a state of c + 2 numbers. An affine classifier of phi_p is what the first p looks
    answer. Trained on the answers after every look (`TwoStreamLoss`), one head was better at every
    number of looks than a head for just that number (docs/lab/trials.md).

    Args:
        input_size: c, channels of the features.
        device: of the parameters, as in `torch.nn.Linear`.
        dtype: of the parameters, as in `torch.nn.Linear`.

    Raises:
        ValueError: if `input_size` is less than 1.
        TypeError: if `input_size` is no integer.

    Example:
        >>> attention = AnytimeAttention(32)
        >>> looks = torch.randn(2, 5, 32)
        >>> found = attention(looks)
        >>> found.pooled.shape, found.states.shape, found.weights.shape
        (torch.Size([2, 32]), torch.Size([2, 5, 32]), torch.Size([2, 5]))
        >>> state = attention.step(None, looks[:, 0])
        >>> state = attention.step(state, looks[:, 1])
        >>> torch.allclose(state.pooled, found.states[:, 1], atol=1e-6)
        True
    """

    def __init__(
        self,
        input_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = whole_number(input_size, "input_size")
        self.scorer = nn.Linear(self.input_size, 1, device=device, dtype=dtype)

    def forward(self, features: Tensor) -> RefinedAttentionOutput:
        """Weigh all looks at once.

        Args:
            features: (b t c) of t looks in their order, or their maps (b t c h w), whose means over
                h w are taken.

        Returns:
            `RefinedAttentionOutput`: the state after all looks, the states after each, and the
            weights of all looks together.

        Raises:
            ValueError: if the shape is another.
            TypeError: if `features` is no floating-point tensor.
        """
        features = self._vectors(features)
        weights = self.prefix_weights(features)
        states = einsum(weights, features, "b p t, b t c -> b p c")
        return RefinedAttentionOutput(states[:, -1], states, weights[:, -1])

    def prefix_weights(self, features: Tensor) -> Tensor:
        """Return the weight of each look after 1, 2, ... looks.

        Args:
            features: as in `forward`.

        Returns:
            (b p t) for p = 1 .. t looks: positive for the first p, 0 for the others; sums to 1
            over t.

        Raises:
            ValueError: if the shape is another.
            TypeError: if `features` is no floating-point tensor.
        """
        scores: Tensor = rearrange(self.scorer(self._vectors(features)), "b t 1 -> b 1 t")
        looks = scores.shape[2]
        later = torch.ones(looks, looks, dtype=torch.bool, device=scores.device).triu(1)
        return scores.expand(-1, looks, -1).masked_fill(later, -torch.inf).softmax(dim=2)

    def step(self, state: AnytimeState | None, look: Tensor) -> AnytimeState:
        """Add one more look to the state.

        Args:
            state: after the looks so far; None before the first.
            look: its features (b c), or its map (b c h w).

        Returns:
            The state after it, of the same size.

        Raises:
            ValueError: if the shape of the look is another, or the state is of another batch.
            TypeError: if `look` is no floating-point tensor, or `state` no state.
        """
        c = self.input_size
        check_features(look, c, LOOK_AT, name="look", shapes=f"(b, {c}) or (b, {c}, h, w)")
        if look.ndim == 4:
            look = reduce(look, "b c h w -> b c", "mean")
        _check_state(state, look)
        score = self.scorer(look)[:, 0]
        if state is None:
            state = AnytimeState.before(look)
        peak = torch.maximum(state.peak, score)
        before, now = (state.peak - peak).exp(), (score - peak).exp()
        total = einsum(before, state.total, "b, b c -> b c") + einsum(now, look, "b, b c -> b c")
        return AnytimeState(total, before * state.mass + now, peak)

    def _vectors(self, features: Tensor) -> Tensor:
        c = self.input_size
        check_features(features, c, LOOKS_AT, shapes=f"(b, t, {c}) or (b, t, {c}, h, w)")
        if features.ndim == 5:
            return reduce(features, "b t c h w -> b t c", "mean")
        return features

    def extra_repr(self) -> str:
        """Say how many channels it takes."""
        return f"input_size={self.input_size}"


def _check_state(state: Any, look: Tensor) -> None:
    """Refuse a state that is none, or that is of looks of another shape than this one (b c)."""
    if state is None:
        return
    if not isinstance(state, AnytimeState):
        raise TypeError(
            f"Expected `state` to be an AnytimeState, or None before the first look, but got "
            f"{type(state).__name__}. The state comes first: step(state, look)."
        )
    if state.total.shape != look.shape:
        raise ValueError(
            f"Expected `state` to be of looks of shape {tuple(look.shape)}, as `look` is, but got "
            f"one of looks of shape {tuple(state.total.shape)}."
        )
