"""The stacked LSTM of the paper's head, computed in one of two ways that agree to 1e-6.

Unrolled cells go everywhere: they compile and export without a break, have gradients of every kind
in every mode, and compute the first layer's input product once where all steps see one vector.
torch's own LSTM is one call. On a CPU it is faster for batches, but it cannot be compiled, cast,
batched or differentiated forward, and in eval mode it keeps nothing for a backward pass.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of torch.lstm
FEW = 2  # samples for which the cells are faster in inference; benchmarks/speed.py, section head


def recurrent_states(
    cells: Sequence[nn.LSTMCell], inputs: Tensor, steps: int, *, training: bool
) -> Tensor:
    """Run stacked LSTM layers over time, from a zero state.

    Args:
        cells: one a layer, the lowest first.
        inputs: (b t c), or (b 1 c) for the same vector at every step.
        steps: t.
        training: mode of the module; a backward pass in eval mode goes through the cells.

    Returns:
        (b t d) output of the top layer at each step.
    """
    weights: list[Tensor] = []
    for cell in cells:
        weights += (getattr(cell, name) for name in WEIGHTS)
    states: Tensor
    if _one_call_is_better(weights, inputs, training=training):
        start = inputs.new_zeros(len(cells), inputs.shape[0], cells[0].hidden_size)
        states, *_ = torch.lstm(
            inputs.expand(-1, steps, -1), (start, start), weights,
            has_biases=True, num_layers=len(cells), dropout=0.0, train=training,
            bidirectional=False, batch_first=True,
        )  # fmt: skip
        return states
    states = inputs
    for cell in cells:
        states = _unroll(cell, states, steps)
    return states


def _one_call_is_better(weights: list[Tensor], inputs: Tensor, *, training: bool) -> bool:
    every = [inputs, *weights]
    if not all(
        type(tensor) in (Tensor, nn.Parameter)
        and (tensor.device.type, tensor.dtype) == ("cpu", torch.float32)
        for tensor in every
    ):
        return False
    if torch.compiler.is_compiling() or _is_transformed(inputs):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in every):
        return training
    return inputs.shape[0] > FEW


def _is_transformed(inputs: Tensor) -> bool:
    """Return whether torch batches, casts or differentiates operations, which its LSTM cannot."""
    return (
        torch.is_autocast_enabled(inputs.device.type)
        or torch._C._are_functorch_transforms_active()
        or forward_ad.unpack_dual(inputs).tangent is not None  # type: ignore[no-untyped-call]
    )


def _unroll(cell: nn.LSTMCell, inputs: Tensor, steps: int) -> Tensor:
    """Run one LSTM layer over `inputs` (b t c), or (b 1 c) for the same vector at every step."""
    input_gates = F.linear(inputs, cell.weight_ih, cell.bias_ih + cell.bias_hh)
    # Unbound at once: the backward pass of an index would fill a tensor of all steps at each one.
    by_step = input_gates.expand(-1, steps, -1).unbind(1)
    hidden = memory = input_gates.new_zeros(inputs.shape[0], cell.hidden_size)
    states = []
    for seen in by_step:
        gates = seen + F.linear(hidden, cell.weight_hh)
        write, forget, candidate, read = gates.chunk(4, dim=1)  # i, f, g, o in torch's order
        memory = forget.sigmoid() * memory + write.sigmoid() * candidate.tanh()
        hidden = read.sigmoid() * memory.tanh()
        states.append(hidden)
    return torch.stack(states, dim=1)
