"""Looks that add up: one head that can answer after each of them."""

from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention._arguments import whole_number
from recurrent_attention.attention.recurrent import RefinedAttentionOutput


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
        """Return the state before the first look, for looks like this one (b c)."""
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
        ValueError: if `input_size` is not a positive integer.

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
            ValueError: if the shape of the look is another.
        """
        look = self._vectors(rearrange(look, "b ... -> b 1 ..."))[:, 0]
        score = self.scorer(look)[:, 0]
        if state is None:
            state = AnytimeState.before(look)
        peak = torch.maximum(state.peak, score)
        before, now = (state.peak - peak).exp(), (score - peak).exp()
        total = einsum(before, state.total, "b, b c -> b c") + einsum(now, look, "b, b c -> b c")
        return AnytimeState(total, before * state.mass + now, peak)

    def _vectors(self, features: Tensor) -> Tensor:
        if features.ndim not in (3, 5) or features.shape[2] != self.input_size:
            raise ValueError(
                f"Expected features of shape (b, t, {self.input_size}) or (b, t, "
                f"{self.input_size}, h, w), but got {tuple(features.shape)}."
            )
        if features.ndim == 5:
            return reduce(features, "b t c h w -> b t c", "mean")
        return features

    def extra_repr(self) -> str:
        """Say how many channels it takes."""
        return f"input_size={self.input_size}"
