"""Subcommands for pictures: predict, explain, boxes, check."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from recurrent_attention._devices import autocast_to, device_of
from recurrent_attention._errors import printable
from recurrent_attention._files import check_new_file, kind_of, make_folder, whole_file
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.cli.failures import sentence_of
from recurrent_attention.cli.options import (
    any_path,
    at_least_one,
    device_option,
    load_on,
    model_argument,
    num_workers_option,
    precision_option_of,
    quiet_option,
)
from recurrent_attention.data import Pictures, check_pictures, write_boxes
from recurrent_attention.data.listing import files_under
from recurrent_attention.export import OnnxClassifier
from recurrent_attention.images.reading import open_picture, picture_suffixes
from recurrent_attention.images.views import mode_of
from recurrent_attention.inference.many import FileAnswer, predict_files
from recurrent_attention.inference.target_class import class_indices, readable

LONGEST_STEM = 200  # bytes of a picture's name that a figure's name has
pictures_argument = click.argument(
    "pictures", nargs=-1, required=True, type=any_path, metavar="PICTURES..."
)


def files_of(given: tuple[Path, ...]) -> list[Path]:
    """Return the picture files among files and folders, at any depth, in the order given.

    What is called like a picture and is none, such as a link to nothing, is among them.
    """
    files: list[Path] = []
    for path in given:
        found = [path]
        if path.is_dir():
            pictures, others = files_under(path)
            broken = [file for file, _ in others if file.suffix.lower() in picture_suffixes()]
            found = sorted([*pictures, *broken], key=lambda file: file.parts)
            if not found and len(given) > 1:
                click.echo(f"No pictures in {printable(path)}.", err=True)
        files += found
    if not files:
        names = ", ".join(map(printable, given))
        raise FileNotFoundError(f"Expected pictures in {names}, but found none.")
    return files


@click.command()
@model_argument
@pictures_argument
@click.option("--top-k", type=at_least_one, default=5, help="Classes to name.", show_default=True)
@click.option(
    "--csv",
    "table",
    type=any_path,
    help="Write a table here instead of printing: a row for each picture, or the reason why not.",
)
@click.option("--looks", type=at_least_one, help="Boxes to look at, at most.  [default: all]")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    help="Look at one more box only until the answer has this probability.  [default: all looks]",
)
@precision_option_of("fp32")
@device_option
@num_workers_option
@quiet_option
def predict(
    model: str,
    pictures: tuple[Path, ...],
    table: Path | None,
    precision: str,
    device: str,
    quiet: bool,
    **words: Any,
) -> None:
    """Name what is on PICTURES, files or folders of them.

    MODEL is a folder that save_pretrained wrote, a repository on the Hub, or a file of "export
    MODEL FILE", which onnxruntime runs. A file that cannot be read is named with its reason, and
    stops nothing; the exit status is then 1. Folders are read at any depth.
    """
    files = files_of(pictures)
    if table is not None:
        check_new_file(table)
    loaded = _load(model, device, precision)
    shown = not quiet and (table is not None or len(files) > 1)
    answers = predict_files(loaded, files, progress=shown, **words)
    with autocast_to(precision, next(loaded.parameters()).device):
        if table is None:
            bad = 0
            for answer in answers:
                bad += answer.prediction is None
                click.echo(f"{printable(answer.path)}\n{_in_words(answer)}")
        else:
            rows = list(answers)
            bad = sum(answer.prediction is None for answer in rows)
            with whole_file(table) as beside:
                text = _as_csv(rows, words["top_k"])  # a name that is no UTF-8 is escaped
                beside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
            click.echo(f"{len(rows) - bad} of {len(rows)} pictures in {printable(table)}", err=True)
    sys.exit(1 if bad else 0)


def _load(model: str, device: str, precision: str) -> TwoStreamClassifier:
    if not Path(model).is_file():
        return load_on(device, model)
    known = device == "auto" or device_of(device).type == "cpu"
    if not known or precision not in ("auto", "fp32"):
        raise ValueError(
            f"Expected --device cpu and --precision fp32 for the ONNX file {printable(model)}, but "
            f"got {device} and {precision}. Give the folder of the model instead."
        )
    return OnnxClassifier(model).network


def _in_words(answer: FileAnswer) -> str:
    text = answer.reason if answer.prediction is None else str(answer.prediction)
    return "\n".join(f"    {line}" for line in text.splitlines())


def _as_csv(answers: list[FileAnswer], top_k: int) -> str:
    """Return a table: path, the best classes, what each stream says alone, looks, the reason."""
    places = range(
        1, 1 + max((len(a.prediction.indices) for a in answers if a.prediction), default=top_k)
    )
    text = io.StringIO()
    writer = csv.writer(text)
    best = [name for place in places for name in (f"class_{place}", f"probability_{place}")]
    writer.writerow(["path", *best, "global_class", "local_class", "looks", "reason"])
    for path, prediction, reason in answers:
        if prediction is None:
            writer.writerow([path, *[""] * (len(best) + 3), reason])
            continue
        pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
        values = [value for name, share in pairs for value in (name, f"{share:.6f}")]
        alone = (prediction.global_class, prediction.local_class, prediction.looks)
        writer.writerow([path, *values, *alone, ""])
    return text.getvalue()


@click.command()
@model_argument
@pictures_argument
@click.option(
    "--out", type=any_path, default=Path("explained"), show_default=True,
    help="Folder for the figures, one a picture.",
)  # fmt: skip
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Class to explain, a name or an index; repeatable.  [default: its own answer]",
)
@click.option("--against", help="Class to compare it with, in a second colour.")
@device_option
def explain(
    model: str,
    pictures: tuple[Path, ...],
    out: Path,
    targets: tuple[str, ...],
    against: str | None,
    device: str,
) -> None:
    """Draw what in PICTURES speaks for a class, in both streams.

    MODEL is a folder that save_pretrained wrote, or a repository on the Hub. PICTURES are files, or
    folders of them at any depth. Figures are numbered in their order: 1-NAME.png. A file that
    cannot be read is named with its reason, and stops nothing, nor does a picture whose answer is
    the class of --against; the exit status is then 1.
    """
    files = files_of(pictures)
    loaded = load_on(device, model)
    known = (1, loaded.num_classes, loaded.class_names)
    wanted: list[str | int | None] = [_class_of(target, loaded.class_names) for target in targets]
    wanted = wanted or [None]
    other = None if against is None else _class_of(against, loaded.class_names)
    others = class_indices(other, *known, argument="against")
    for one in wanted:  # before any picture is read
        if (index := class_indices(one, *known)) is not None and index == others:
            raise ValueError(
                f"Expected --against to name another class than --target, but got {against!r} for "
                "both."
            )
    mode = mode_of(loaded.global_backbone.in_chans)
    make_folder(out)
    bad = 0
    for number, file in enumerate(files, 1):
        try:
            picture = open_picture(file, mode=mode)
        except (OSError, ValueError) as error:
            click.echo(sentence_of(error), err=True)
            bad += 1
            continue
        for place, one in enumerate(wanted, 1):
            which = f"-{place}" if len(wanted) > 1 else ""
            stem = file.stem
            while len(os.fsencode(stem)) > LONGEST_STEM:  # a system allows 255 bytes in all
                stem = stem[:-1]
            figure = out / f"{number:0{len(str(len(files)))}d}-{stem}{which}.png"
            try:
                found = loaded.explain(picture, target=one, against=other)
            except ValueError as error:  # the answer is the class of --against
                click.echo(f"{printable(file)}: {sentence_of(error)}", err=True)
                bad += 1
                continue
            found.save(figure)
            click.echo(f"{printable(file)}: {printable(figure)}")
    sys.exit(1 if bad else 0)


def _class_of(text: str, class_names: Sequence[str] | None) -> str | int:
    """Return the name or the index that a text on the command line means; a name comes first."""
    names = {*(class_names or ()), *map(readable, class_names or ())}
    return int(text) if text.isdecimal() and text not in names else text


@click.command()
@model_argument
@click.argument("folder", type=any_path)
@click.option(
    "--out", type=any_path, default=Path("boxes.json"), show_default=True,
    help="File for the boxes: .json, or .safetensors for many pictures.",
)  # fmt: skip
@click.option("--num-patches", type=at_least_one, help="Boxes a picture.  [default: the model's]")
@device_option
@num_workers_option
@quiet_option
def boxes(
    model: str,
    folder: Path,
    out: Path,
    num_patches: int | None,
    quiet: bool,
    num_workers: int,
    **words: Any,
) -> None:
    """Write a file of boxes to look at in the pictures of FOLDER.

    MODEL proposes them; no labels are read. FOLDER is read at any depth. A file that cannot be read
    is named with its reason, and stops nothing; the exit status is then 1.
    """
    from recurrent_attention.training import propose_boxes_for

    check_new_file(out)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of pictures at {printable(folder)}, but it is {kind_of(folder)}."
        )
    names = [file.relative_to(folder).as_posix() for file in files_of((folder,))]
    loaded = TwoStreamClassifier.from_pretrained(model)
    if num_patches is not None:
        loaded.num_patches = num_patches
    listed = Pictures(folder, names, [0] * len(names), ["unknown"])
    listed, bad = listed.readable(num_workers=num_workers, progress=not quiet)
    for picture in bad:
        click.echo(str(picture), err=True)
    if len(listed) == 0:
        raise ValueError(
            f"Expected pictures that can be read in {printable(folder)}, but found none."
        )
    words |= {"num_workers": num_workers, "progress": not quiet}
    found = propose_boxes_for(loaded, listed, **words)
    write_boxes(out, found)
    click.echo(f"boxes of {len(listed)} of {len(names)} pictures in {printable(out)}", err=True)
    sys.exit(1 if bad else 0)


@click.command()
@click.argument("data", type=any_path)
@click.option(
    "--all", "everything", is_flag=True, help="List everything, not the first five of each kind."
)
@num_workers_option
@quiet_option
def check(data: Path, everything: bool, num_workers: int, quiet: bool) -> None:
    """Decode every picture of DATA, and list what is wrong.

    DATA is a folder with a folder for each class, with train and test (and val) folders of these,
    or CUB-200-2011 or Stanford Dogs in its official layout. The exit status is 1 if anything is
    wrong, and 2 if there is nothing to check.
    """
    report = check_pictures(data, num_workers=num_workers, progress=not quiet)
    click.echo(report.describe(most=None if everything else 5))
    sys.exit(0 if report.ok else 1)
