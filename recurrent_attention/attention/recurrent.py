"""The paper's head: look at the same features for T steps, keep what the steps found, weighted."""

from typing import NamedTuple, cast

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention._arguments import whole_number
from recurrent_attention.attention.checks import check_features
from recurrent_attention.attention.recurrence import WEIGHTS, recurrent_states

CHANNELS_AT = {4: 1, 2: 1, 3: 2}  # by the number of axes
INPUT_GAIN = 2.0  # of the initial input weights; 1 and 4 learned more slowly, on one seed


class RefinedAttentionOutput(NamedTuple):
    """The output of `RecurrentRefinedAttention` and `AnytimeAttention`.

    Attributes:
        pooled: (b d) the weighted sum of the states, A in the paper; of `AnytimeAttention` the last
            state.
        states: (b t d) the recurrence's output at each step, phi(F^t) in the paper.
        weights: (b t) the temporal attention, positive, sums to 1 over t.
    """

    pooled: Tensor
    states: Tensor
    weights: Tensor


class RecurrentRefinedAttention(nn.Module):
    r"""Look at features for T steps with a stacked LSTM and weigh the steps by a learned attention.

    With x_t in R^c the features at step t and phi_t in R^d the top LSTM layer's output,

        phi_1 .. phi_T = LSTM(x_1 .. x_T)          zero initial state
        e_t            = w . phi_t + b             one w in R^d, one b, shared by all steps
        alpha          = softmax_t(e)
        pooled         = sum_t alpha_t phi_t

    A feature map is average-pooled to one vector, and that vector is the input of every step, as in
    the paper. The recurrence equals `torch.nn.LSTM`; `to_lstm` and `from_lstm` convert the weights.
    It is one call of torch's LSTM where that is faster, on a CPU in float32, and unrolled cells
    elsewhere: they compile without a graph break, and their backward pass also works in eval mode
    on CUDA, which cuDNN's does not.

    Args:
        input_size: c, channels of the features.
        hidden_size: d, size of a state. 512 in the authors' code.
        num_steps: T, how often a map or a pooled vector is looked at. 10 in the paper.
        num_layers: stacked LSTM layers. 2 in the authors' code.
        device: of the parameters, as in `torch.nn.Linear`.
        dtype: of the parameters, as in `torch.nn.Linear`.

    Raises:
        ValueError: if one of the sizes is less than 1.
        TypeError: if one of the sizes is no integer.

    Example:
        >>> attention = RecurrentRefinedAttention(32, 16, num_steps=4)
        >>> found = attention(torch.randn(2, 32, 7, 7))
        >>> found.pooled.shape, found.states.shape, found.weights.shape
        (torch.Size([2, 16]), torch.Size([2, 4, 16]), torch.Size([2, 4]))

    Differences from the paper:
        Only the start: see `reset_parameters`.

    References:
        Shroff et al., "Focus Longer to See Better", CVPRW 2020, arXiv:2005.10979, local stream.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        *,
        num_steps: int = 10,
        num_layers: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_steps": num_steps,
            "num_layers": num_layers,
        }
        input_size, hidden_size, num_steps, num_layers = (
            whole_number(size, name) for name, size in sizes.items()
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_steps = num_steps
        self.cells = nn.ModuleList(
            nn.LSTMCell(
                input_size if layer == 0 else hidden_size, hidden_size, device=device, dtype=dtype
            )
            for layer in range(num_layers)
        )
        self.scorer = nn.Linear(hidden_size, 1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the recurrence so that it learns from the first epochs on.

        Torch's uniform default for LSTMs weakens the features by an order of magnitude over two
        layers, and from scratch the local stream then hardly learns (docs/lab/trials.md). Here each
        gate's weights are orthogonal, those of the input with gain 2, and the forget gates open
        with bias 1. Each cell's own `reset_parameters` restores torch's default, as in the authors'
        code.
        """
        for cell in self.cells:
            for gate in range(4):
                rows = slice(gate * self.hidden_size, (gate + 1) * self.hidden_size)
                for name, gain in (("weight_ih", INPUT_GAIN), ("weight_hh", 1.0)):
                    weights = cell.get_parameter(name).data[rows]
                    wide = torch.promote_types(weights.dtype, torch.float32)  # QR knows no bfloat16
                    drawn = torch.empty_like(weights, dtype=wide)
                    weights.copy_(nn.init.orthogonal_(drawn, gain=gain))
            bias = cell.get_parameter("bias_ih")
            nn.init.zeros_(bias)
            nn.init.zeros_(cell.get_parameter("bias_hh"))
            nn.init.ones_(bias.data[self.hidden_size : 2 * self.hidden_size])
        self.scorer.reset_parameters()

    def forward(self, features: Tensor) -> RefinedAttentionOutput:
        """Look at `features` step by step and weigh what was seen.

        Args:
            features: floating point; a map (b c h w), a pooled vector (b c), which are looked at
                `num_steps` times, or one vector per step (b t c), whose own t is then the number of
                steps. Tokens of a transformer are no steps: pass their mean (b c), or the map that
                `FeatureBackbone` makes of them.

        Returns:
            `RefinedAttentionOutput` with pooled (b d), states (b t d) and weights (b t).

        Raises:
            ValueError: if the shape is none of the three, or c is not `input_size`.
            TypeError: if `features` is no floating-point tensor.
        """
        check_features(
            features, self.input_size, CHANNELS_AT, shapes="(b, c, h, w), (b, c) or (b, t, c)"
        )
        if features.ndim == 4:
            features = reduce(features, "b c h w -> b c", "mean")
        if features.ndim == 2:
            steps = self.num_steps
            features = rearrange(features, "b c -> b 1 c")
        else:
            steps = features.shape[1]
        cells = [cast(nn.LSTMCell, cell) for cell in self.cells]
        states = recurrent_states(cells, features, steps, training=self.training)
        scores = rearrange(self.scorer(states), "b t 1 -> b t")
        weights = scores.softmax(dim=1)
        pooled = einsum(weights, states, "b t, b t d -> b d")
        return RefinedAttentionOutput(pooled, states, weights)

    def to_lstm(self) -> nn.LSTM:
        """Copy the recurrence into a new `nn.LSTM` (batch first), on the same device.

        Returns:
            An LSTM whose outputs equal `states` for the input (b t c).
        """
        weight = self.scorer.weight
        lstm = nn.LSTM(
            self.input_size,
            self.hidden_size,
            len(self.cells),
            batch_first=True,
            device="meta",  # nothing is drawn
            dtype=weight.dtype,
        ).to_empty(device=weight.device)
        lstm.load_state_dict(
            {
                f"{name}_l{layer}": getattr(cell, name)
                for layer, cell in enumerate(self.cells)
                for name in WEIGHTS
            }
        )
        return lstm.train(self.training)

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM, *, num_steps: int = 10) -> "RecurrentRefinedAttention":
        """Start from a trained `nn.LSTM`; the scorer over the steps is new.

        Args:
            lstm: a unidirectional LSTM with biases, without projections and without dropout.
            num_steps: T of the new module.

        Returns:
            A module whose states equal the LSTM's outputs.

        Raises:
            ValueError: if the LSTM has something that the paper's recurrence does not have.
        """
        if lstm.bidirectional or lstm.proj_size or lstm.dropout or not lstm.bias:
            raise ValueError(
                "Expected `lstm` to be unidirectional, with biases, without projection and dropout,"
                f" but got {lstm}. Build it as nn.LSTM(input_size, hidden_size, num_layers)."
            )
        attention = cls(
            lstm.input_size, lstm.hidden_size, num_steps=num_steps, num_layers=lstm.num_layers
        ).to(cast(Tensor, lstm.weight_ih_l0))
        parameters = lstm.state_dict()
        for layer, cell in enumerate(attention.cells):
            cell.load_state_dict(
                {name: parameters[f"{name}_l{layer}"] for name, _ in cell.named_parameters()}
            )
        return attention.train(lstm.training)

    def extra_repr(self) -> str:
        """Name the sizes in `print(module)`."""
        return (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"num_steps={self.num_steps}, num_layers={len(self.cells)}"
        )
