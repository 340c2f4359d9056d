"""The device and precision of a run, as Accelerate holds them."""

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from recurrent_attention.training.processes import Device, chosen_device


def make_accelerator(device: Device, precision: str, accumulation_steps: int = 1) -> Accelerator:
    """Set Accelerate up.

    Args:
        device: as in `chosen_device`.
        precision: "fp32", "bf16" or "fp16".
        accumulation_steps: batches per update.

    Returns:
        An `Accelerator`.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    with chosen_device(device) as cpu:
        # Accelerate keeps one state a process; another call's settings need a fresh one.
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(
            cpu=cpu,
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_steps=accumulation_steps,
        )
