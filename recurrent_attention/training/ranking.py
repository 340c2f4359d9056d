"""The best classes of an output: what evaluation keeps of the logits, however many classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.inference.looking import probabilities_after, temperature_after
from recurrent_attention.training.answers import KEPT


def best_classes(
    output: TwoStreamOutput, temperatures: Sequence[float] | None = None
) -> tuple[Tensor, ...]:
    """Return the best classes of each stream and their probabilities, both (b 3 m), on the CPU.

    For a model that answers after each look also those after 0, 1, ... p looks, (b p + 1). The
    `temperatures` are the model's; the local stream by itself has none. Streams and looks go one by
    one, since with many classes the logits are large.
    """
    first, last = (
        temperature_after(temperatures, looks) for looks in (0, output.step_logits.shape[1])
    )
    streams = ((output.global_logits, first), (output.local_logits, 1.0), (output.logits, last))
    classes, probabilities = [], []
    for answered, heat in streams:
        logits = answered.float() / heat
        order = _largest(logits, KEPT)
        classes.append(order.cpu())
        probabilities.append(logits.softmax(-1).gather(-1, order).cpu())
    found = torch.stack(classes, 1), torch.stack(probabilities, 1)
    if output.prefix_logits is None:
        return found
    by_looks = [output.global_logits, *output.prefix_logits.unbind(1)]
    best = [
        probabilities_after(logits[:, None].float(), temperatures, first=number).max(-1)
        for number, logits in enumerate(by_looks)
    ]
    values, indices = (torch.cat(parts, 1).cpu() for parts in zip(*best, strict=True))
    return (*found, indices, values)


def _largest(logits: Tensor, count: int) -> Tensor:
    """Return the indices (b m) of the m largest of (b k), the first of equals first.

    Sorting all of them takes several times the time and memory of `topk`, which says nothing about
    the order of equals: only rows with such are sorted.
    """
    values, order = logits.topk(min(count, logits.shape[-1]), dim=-1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    tied |= (logits >= values[:, -1:]).sum(1) > values.shape[1]  # another like the last of them
    if bool(tied.any()):
        ranked = logits[tied].sort(dim=-1, descending=True, stable=True).indices
        order[tied] = ranked[:, : values.shape[1]]
    return order
