"""Several processes: what one of them decides, and what each does a share of."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

T = TypeVar("T")
Device = str | torch.device  # see `chosen_device`
_TORCH_DEVICE = "ACCELERATE_TORCH_DEVICE"  # which Accelerate reads


def join_processes(device: Device = "auto") -> PartialState:
    """Join the processes that `torchrun` or `accelerate launch` started; without them, be alone.

    Args:
        device: as in `chosen_device`.

    Returns:
        Accelerate's `PartialState`: `is_main_process`, `main_process_first()` and more. Later calls
        give the same.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    if PartialState._shared_state:
        return PartialState()
    with chosen_device(device) as cpu:
        return PartialState(cpu=cpu)


@contextmanager
def chosen_device(device: Device) -> Iterator[bool]:
    """Let Accelerate, meanwhile, take a device when it sets itself up.

    Of several processes each has a GPU of its own, so that a number counts for one process alone.

    Args:
        device: "auto" takes an accelerator if there is one; else "cpu", "cuda", "cuda:1", "mps",
            "xpu" or a `torch.device`.

    Yields:
        Whether it is the CPU. Accelerate has to be told: otherwise, where there is no GPU, it lets
        each of several processes train by itself, over the same files.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    kinds = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    if isinstance(device, str) and device == "auto":
        yield not any(module.is_available() for module in kinds.values())
        return
    known = (
        "Expected `device` to be 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu' or a torch.device"
    )
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"{known}, but got {device!r}.") from None
    if wanted.type not in ("cpu", *kinds):
        raise ValueError(f"{known}, but got {device!r}.")
    if wanted.type == "cpu":
        yield True
        return
    module = kinds[wanted.type]
    count = (
        module.device_count() if module.is_available() and hasattr(module, "device_count") else 1
    )
    if not module.is_available() or (wanted.index or 0) >= count:
        found = f"{count} of them" if module.is_available() else "none"
        raise ValueError(
            f"Expected a device for device={str(wanted)!r}, but torch finds {found}. Use "
            "device='cpu'."
        )
    before = os.environ.get(_TORCH_DEVICE)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone:
        os.environ[_TORCH_DEVICE] = str(wanted)
    try:
        yield False
    finally:
        if alone and before is None:
            del os.environ[_TORCH_DEVICE]
        elif alone and before is not None:
            os.environ[_TORCH_DEVICE] = before


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
