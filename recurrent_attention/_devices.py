"""Devices and precisions by the names that users give."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

Device = str | torch.device


def device_of(device: Any) -> torch.device:
    """Return the device that is meant.

    Args:
        device: "auto" takes an accelerator if there is one; else "cpu", "cuda", "cuda:1", "mps",
            "xpu" or a `torch.device`.

    Returns:
        The device, which is there.

    Raises:
        ValueError: if it is unknown or not there.
    """
    kinds = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    if isinstance(device, str) and device == "auto":
        there = (kind for kind, module in kinds.items() if module.is_available())
        return torch.device(next(there, "cpu"))
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
        return wanted
    module = kinds[wanted.type]
    count = 0
    if module.is_available():
        count = module.device_count() if hasattr(module, "device_count") else 1
    if (wanted.index or 0) >= count:
        found = f"{count} of them" if count else "none"
        raise ValueError(
            f"Expected a device for device={str(wanted)!r}, but torch finds {found}. Use "
            "device='cpu'."
        )
    return wanted


@contextmanager
def pictures_on_cpu() -> Iterator[None]:
    """Make new tensors on the CPU meanwhile, whatever `torch.set_default_device` has set.

    Pictures are read and cut there, and their boxes have to be beside them.
    """
    if torch.get_default_device().type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield


def precision_of(precision: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16"; "auto" is "bf16" on a GPU that has it, "fp32" elsewhere."""
    if precision != "auto":
        return precision
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if has_it else "fp32"


def autocast_to(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in a precision where torch has it, and in float32 where numbers need it.

    Args:
        precision: "fp32", "bf16", "fp16" or "auto" (`precision_of`).
        device: where it is computed.

    Returns:
        A context manager.
    """
    chosen = precision_of(precision, device)
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=chosen != "fp32")
