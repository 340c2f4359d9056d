"""What a call works with: device and precision, other processes, worker processes, cache, bars."""

import hashlib
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from recurrent_attention.training.feature_store import FeatureStore
from recurrent_attention.training.processes import Device, chosen_device


class Resources:
    """The `device`, `num_workers`, `cache_dir` and `progress` of a public call, in one object.

    Args:
        model: goes to the device.
        device: as in `chosen_device`.
        num_workers: processes that read pictures.
        progress: show bars, in the main process.
        cache_dir: folder to keep features and boxes in; None keeps them in memory.
        precision: "fp32", "bf16" or "fp16".
        accumulation_steps: batches per update.

    Attributes:
        accelerator: device, precision and processes, as Accelerate holds them.

    Raises:
        ValueError: if the device is unknown or not there.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: Device,
        num_workers: int,
        progress: bool,
        cache_dir: str | Path | None = None,
        precision: str = "fp32",
        accumulation_steps: int = 1,
    ) -> None:
        with chosen_device(device) as cpu:
            # Accelerate keeps one state a process; another call's settings need a fresh one.
            AcceleratorState._reset_state(reset_partial_state=True)
            self.accelerator = Accelerator(
                cpu=cpu,
                mixed_precision="no" if precision == "fp32" else precision,
                gradient_accumulation_steps=accumulation_steps,
            )
        self.num_workers = num_workers
        self.progress = progress and self.accelerator.is_main_process
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        model.to(self.accelerator.device)

    def store(self, digest: str) -> FeatureStore:
        """Open the part of the cache that holds what was computed with what `digest` names."""
        short = hashlib.sha256(digest.encode()).hexdigest()[:16]
        return FeatureStore(None if self.cache_dir is None else self.cache_dir / short)
