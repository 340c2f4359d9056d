"""Processes: the device of each, what one does for all, and the signals that end them."""

import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState, SharedDict
from accelerate.utils import broadcast_object_list, gather_object, patch_environment
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from recurrent_attention._devices import Device, device_of, pictures_on_cpu, precision_of
from recurrent_attention._errors import first_line
from recurrent_attention._files import make_folder

T = TypeVar("T")
_STATES: tuple[Any, ...] = (PartialState, AcceleratorState, GradientState)
SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


def join_processes(device: Device = "auto") -> PartialState:
    """Join the processes that `torchrun` or `accelerate launch` started, if there are any.

    Args:
        device: "auto" takes an accelerator if there is one; else "cpu", "cuda", "cuda:1", "mps",
            "xpu" or a `torch.device`.

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
    """Make Accelerate take this device while it is set up; yield whether it is the CPU.

    The number in "cuda:1" counts for a single process only; of several, each takes its own GPU.
    Pass what is yielded as `cpu`: without it, several processes on a machine without a GPU would
    not find each other, and each would write the same files.
    """
    wanted = device_of(device)
    if wanted.type == "cpu" or device == "auto":
        yield wanted.type == "cpu"
        return
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    with patch_environment(**({"ACCELERATE_TORCH_DEVICE": str(wanted)} if alone else {})):
        yield False


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Let Accelerate set itself up anew meanwhile, and leave the caller's `Accelerator` as it was.

    New tensors are on the CPU meanwhile, whatever torch's default device is.

    Accelerate keeps its state (device, precision, accumulation) once a process, in dictionaries of
    three classes. Objects that were made before keep theirs.
    """
    before = [(kind, vars(kind)["_shared_state"]) for kind in _STATES]
    try:
        for kind in _STATES:
            kind._shared_state = SharedDict()
        with pictures_on_cpu():
            yield
    finally:
        for kind, state in before:
            kind._shared_state = state


class Resources:
    """The `device`, `num_workers`, `cache_dir` and `progress` of a public call, in one object.

    The model goes to the device. Bars are shown in the main process alone. `accelerator` is device,
    precision and processes, as Accelerate holds them, in `own_accelerate_state`.
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
        trackers: Sequence[Any] = (),
        tracked_in: Path | None = None,
    ) -> None:
        with chosen_device(device) as cpu:
            precision = precision_of(precision, device_of(device))
            # A call within a call has other settings, which need a fresh state.
            AcceleratorState._reset_state(reset_partial_state=True)
            self.accelerator = Accelerator(
                cpu=cpu,
                mixed_precision="no" if precision == "fp32" else precision,
                gradient_accumulation_steps=accumulation_steps,
                log_with=list(trackers) or None,
                project_dir=tracked_in,
            )
        self.num_workers = num_workers
        self.progress = progress and self.accelerator.is_main_process
        self.cache_dir = None if cache_dir is None else Path(cache_dir).absolute()
        if self.cache_dir is not None and self.cache_dir.exists():
            make_folder(self.cache_dir)  # refuses a file before anything is computed
        model.to(self.accelerator.device)


def from_main(make: Callable[[], T]) -> T:
    """Call `make` in the main process alone; return or raise in every process what it did there.

    It goes from process to process as a pickle. If an error cannot, the other processes raise a
    `RuntimeError` with its text.
    """
    made: list[Any] = [None, None]
    if join_processes().is_main_process:
        try:
            made[0] = make()
        except Exception as error:
            made[1] = error
    own = made[1]
    if own is not None and not _can_be_sent(own):
        made[1] = RuntimeError(f"{type(own).__name__}: {first_line(own)}")
    value, failure = broadcast_object_list(made)
    if failure is not None:
        raise own or failure
    return cast(T, value)


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the class of a stranger raises
        return False
    return True


def from_all(mine: T) -> list[T]:
    """Return what each process has, in their order, to every process; it must be picklable."""
    found: list[T] = gather_object([mine])
    return found


def share_of_missing(missing: NDArray[np.int64]) -> list[int]:
    """Return the indices that this process has to see to, in order.

    They are shared out over the processes: what any of them misses, every n-th from its number on.
    """
    state = PartialState()
    together = np.unique(np.concatenate(from_all(missing)))
    share: list[int] = together[state.process_index :: state.num_processes].tolist()
    return share


def take_over_from_main(module: nn.Module) -> None:
    """Overwrite a module's weights by those that the main process has."""
    if PartialState().num_processes > 1:
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


class Termination:
    """Note a SIGTERM or Ctrl-C instead of ending at once, meanwhile; a second Ctrl-C ends at once.

    `asked` is the number of the signal that came, or 0. Signals reach Python's main thread alone;
    in another thread nothing is noted, and they do what they did before.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            # None stands for a handler that was not set from Python, and cannot be set back.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = max(self.asked, number)  # SIGTERM counts, if both come


def end_process(number: int, note: str) -> NoReturn:
    """End with the exit code that the signal would have ended the process with.

    The note, if there is one, goes to the standard error stream, beside the progress bars.
    """
    if note:
        tqdm.write(f"{SIGNALS[signal.Signals(number)]}: {note}", file=sys.stderr)
    sys.exit(128 + number)
