"""Several processes: what one of them decides, and what each does a share of."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda"]


def join_processes(device: Device = "auto") -> PartialState:
    """Join the processes that `torchrun` or `accelerate launch` started; without them, be alone.

    Args:
        device: "auto" takes an accelerator if there is one.

    Returns:
        Accelerate's `PartialState`: `is_main_process`, `main_process_first()` and more. Later calls
        give the same.
    """
    return PartialState() if PartialState._shared_state else PartialState(cpu=is_cpu(device))


def is_cpu(device: Device) -> bool:
    """Tell whether a device is the CPU.

    Accelerate has to be told: otherwise, where there is no GPU, it lets each of several processes
    train by itself, over the same files.
    """
    found = (
        torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    )
    return device == "cpu" or (device == "auto" and not found)


def from_main(make: Callable[[], T]) -> T:
    """Call `make` in the main process alone.

    Args:
        make: what it returns can be pickled.

    Returns:
        What `make` returned, in every process.

    Raises:
        Exception: what `make` raised, in every process.
    """
    made: list[Any] = [None, None]
    if join_processes().is_main_process:
        try:
            made[0] = make()
        except Exception as error:
            made[1] = error
    value, failure = broadcast_object_list(made)
    if failure is not None:
        raise failure
    return cast(T, value)


def from_all(mine: T) -> list[T]:
    """Give what each process has, in their order, to every process; it must be picklable."""
    found: list[T] = gather_object([mine])
    return found


def share_of_missing(missing: Iterable[int]) -> list[int]:
    """Divide work over the processes: what any of them misses, every n-th from its number on.

    Args:
        missing: indices of what this process has not got.

    Returns:
        The indices that this process has to see to, in order.
    """
    state = PartialState()
    together = sorted(set().union(*from_all(set(missing))))
    return together[state.process_index :: state.num_processes]


def take_over_from_main(module: nn.Module) -> None:
    """Overwrite a module's weights by those that the main process has."""
    if PartialState().num_processes > 1:
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes; gradients are summed as well."""
    total: Tensor = _Sum.apply(tensor)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
