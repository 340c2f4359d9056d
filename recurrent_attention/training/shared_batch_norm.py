"""Batch norm over the pictures of all processes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recurrent_attention.training.processes import sum_over_processes


def shared_batch_norm() -> AbstractContextManager[Any]:
    """Let every batch norm in training mode see the pictures of all processes, meanwhile.

    Two processes with 16 pictures each then train as one with 32 does. Torch's own
    `SyncBatchNorm` does it on GPUs only, and its converter drops the activation that timm's batch
    norms hold; here the function is replaced that all of them call.

    Returns:
        A context, which changes nothing where there is one process.
    """
    return _SharedBatchNorm() if PartialState().num_processes > 1 else nullcontext()


class _SharedBatchNorm(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        replaced = _batch_norm if function is F.batch_norm else function
        return replaced(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    # Without any of these four it is a weight that is standardised, the same in all processes.
    alone = running_mean is None and running_var is None and weight is None and bias is None
    if not training or alone:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    others = [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1] + [1] * (input.ndim - 2)
    # Every process has as many pictures: an epoch's last, smaller batch is left out or filled up.
    count = input.numel() // input.shape[1] * PartialState().num_processes
    mean = sum_over_processes(values.sum(others)) / count
    centered = values - mean.view(shape)
    variance = sum_over_processes((centered**2).sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normed = centered * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normed = normed * weight.view(shape)
    if bias is not None:
        normed = normed + bias.view(shape)
    return cast(Tensor, normed.to(input.dtype))
