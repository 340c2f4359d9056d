"""Where a run is followed: Accelerate's trackers, such as TensorBoard."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

Trackers = Any  # names or GeneralTrackers, one or a sequence of them, or None
PROJECT = "recurrent-attention"
_PACKAGES = {"comet_ml": "comet-ml"}


def checked_trackers(trackers: Trackers, folder: Path | None) -> list[Any]:
    """List the trackers that are asked for; refuse what is not installed.

    `folder` is where those write that write files; without it they are refused. Accelerate leaves
    out silently what is not installed.
    """
    if trackers is None:
        return []
    asked = [trackers] if isinstance(trackers, (str, GeneralTracker)) else list(trackers)
    installed = [str(getattr(name, "value", name)) for name in get_available_trackers()]
    for tracker in asked:
        if isinstance(tracker, GeneralTracker):
            continue
        if tracker not in installed:
            raise ValueError(
                f"Expected `trackers` to be installed, but {tracker!r} is not. Install it, such as "
                f"by pip install {_PACKAGES.get(tracker, tracker)}; there is: "
                f"{', '.join(installed) or 'none'}."
            )
        if tracker == "tensorboard" and folder is None:
            raise ValueError(
                "Expected a `run_folder` for the files of TensorBoard, but got None. Pass "
                "RunFolder(path)."
            )
    return asked


def start_tracking(accelerator: Accelerator, config: dict[str, Any]) -> None:
    """Open the trackers of a run; values that they cannot take become text."""
    if accelerator.log_with:
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in config.items()}
        accelerator.init_trackers(PROJECT, config=plain)


def end_tracking(accelerator: Accelerator) -> None:
    """Close the trackers; Accelerate's own `end_training` would part the processes as well."""
    for tracker in accelerator.trackers:
        tracker.finish()


def track_epoch(accelerator: Accelerator, record: dict[str, Any]) -> None:
    """Send the figures of an epoch to the trackers."""
    if not accelerator.log_with:
        return
    values = {name: value for name, value in record.items() if isinstance(value, int | float)}
    rates = zip(("backbones", "heads")[-len(record["lr"]) :], record["lr"], strict=True)
    values |= {f"lr_{name}": rate for name, rate in rates}
    accelerator.log(values, step=record["epoch"])
