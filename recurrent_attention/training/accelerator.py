"""The device and precision of a run, as Accelerate holds them."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from recurrent_attention.training.processes import Device, is_cpu


def make_accelerator(device: Device, precision: str, accumulation_steps: int = 1) -> Accelerator:
    """Set Accelerate up.

    Args:
        device: "auto" takes an accelerator if there is one.
        precision: "fp32", "bf16" or "fp16".
        accumulation_steps: batches per update.

    Returns:
        An `Accelerator`.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Expected `device` to be 'auto', 'cpu' or 'cuda', but got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "Expected a CUDA device for device='cuda', but torch finds none. Use device='cpu'."
        )
    # Accelerate keeps one state a process; a second call with other settings needs a fresh one.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=is_cpu(device),
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulation_steps,
    )
