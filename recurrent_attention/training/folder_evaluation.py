"""Measure a saved model on a folder of pictures."""

import json
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from recurrent_attention._devices import Device
from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_new_file
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.training.evaluation import Evaluation, Precision, evaluate
from recurrent_attention.training.parts import listing_of, splits_of_folder
from recurrent_attention.training.processes import from_main
from recurrent_attention.training.proposals import propose_boxes_for
from recurrent_attention.training.report import write_report
from recurrent_attention.training.samples import labels_for


def evaluate_folder(
    model: TwoStreamClassifier,
    data: str | PathLike[str],
    *,
    only: Collection[str] | None = None,
    report: str | PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure a model on a folder of pictures: on its `test` part, if it has one.

    Args:
        model: proposes the boxes by itself; it stays as it is, but for the device.
        data: a folder as in `parts_of_folder`; of the parts it has, `test` is taken, else `val`,
            else all pictures, else `train`.
        only: relative names of the pictures to measure, where there is no part but `train`; names
            of other folders are ignored. `train` keeps those that it set aside in
            `boxes-test.json`.
        report: of the page that `write_report` writes; None writes none.
        batch_size: pictures at once.
        precision: "auto", "fp32", "bf16" or "fp16", as in `Recipe`.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.

    Returns:
        `Evaluation`.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it.
        ValueError: if there are classes that the model has not.
        OSError: if the page cannot be written.
    """
    part = part_to_measure(data, only)
    return evaluate_part(
        model,
        part,
        report=report,
        batch_size=batch_size,
        precision=precision,
        device=device,
        num_workers=num_workers,
        progress=progress,
    )


def evaluate_part(
    model: TwoStreamClassifier,
    part: "PartToMeasure",
    *,
    report: str | PathLike[str] | None,
    batch_size: int,
    precision: Precision,
    device: Device,
    num_workers: int,
    progress: bool,
) -> Evaluation:
    """Measure a model on what `part_to_measure` found; the other arguments: `evaluate_folder`."""
    if report is not None:
        check_new_file(Path(report))
    pictures = part.pictures
    labels_for(model, pictures)  # before minutes of work
    work: dict[str, Any] = {"device": device, "num_workers": num_workers, "progress": progress}
    boxes = propose_boxes_for(model, pictures, **work)
    views = TwoStreamDataset.for_model(model, pictures, boxes)
    found = evaluate(model, views, batch_size=batch_size, precision=precision, **work)
    if report is not None:
        said = {"found": part.found, "part": part.name, "pictures": len(pictures)}
        page, settings = Path(report), {"data": said}
        from_main(lambda: write_report(page, model, views, found, settings=settings))
    return found


class PartToMeasure(NamedTuple):
    """What a folder is, in words, the name of the part of it to measure, and its pictures."""

    found: str
    name: str
    pictures: Pictures


def set_aside(part: PartToMeasure, run: Path) -> PartToMeasure:
    """Keep of the folder that a run of `train` split what that set aside; of others all.

    Args:
        part: of `part_to_measure`.
        run: the folder of the run, which need not be one.
    """
    if part.name not in ("all", "train"):
        return part
    try:
        listing = json.loads((run / "result.json").read_text(encoding="utf-8"))["pictures"]
        boxes = json.loads((run / "boxes-test.json").read_text(encoding="utf-8"))["boxes"]
        wanted = set(boxes)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, RecursionError):
        return part
    except OSError as error:  # without it, pictures of the training would be measured
        raise OSError(
            f"Expected to read which pictures {printable(run)} set aside, but got: "
            f"{first_line(error)}. Allow reading it, or evaluate a folder of other pictures."
        ) from error
    if listing != listing_of(part.pictures, by_name=True):
        return part
    return _only(part, wanted)


def _only(part: PartToMeasure, wanted: Collection[str]) -> PartToMeasure:
    kept = [index for index, name in enumerate(part.pictures.names) if name in wanted]
    return part._replace(name="set aside", pictures=part.pictures.subset(kept))


def part_to_measure(data: str | PathLike[str], only: Collection[str] | None) -> PartToMeasure:
    """Find the pictures of a folder that `evaluate_folder` measures.

    Args:
        data: as in `evaluate_folder`.
        only: as in `evaluate_folder`; the part is then called "set aside".
    """
    found, splits = splits_of_folder(Path(data))
    name = next(name for name in ("test", "val", "all", "train") if name in splits)
    part = PartToMeasure(found, name, splits[name]())
    if only is not None and name in ("all", "train"):
        chosen = _only(part, set(only))
        if len(chosen.pictures) == len(set(only)) > 0:
            return chosen
    return part
