"""Subcommands that need the extra [train]: train, evaluate, ablate."""

import time
from pathlib import Path
from typing import Any

import click

from recurrent_attention._devices import device_of
from recurrent_attention._errors import printable
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.cli.options import (
    any_path,
    at_least_one,
    device_option,
    model_argument,
    num_workers_option,
    precision_option_of,
    quiet_option,
)
from recurrent_attention.cli.recipe_options import recipe_of, recipe_options
from recurrent_attention.data.augmentation import NAMED, named_augment

precision_option = precision_option_of("auto")
weights_option = click.option(
    "--weights",
    help="File of the backbone's weights, or none.  [default: timm downloads them]",
)
num_patches_option = click.option(
    "--num-patches", type=at_least_one, default=10, show_default=True, help="Boxes of each picture."
)
train_patches_option = click.option(
    "--train-patches",
    type=at_least_one,
    help="Boxes of a picture in a training step.  [default: all]",
)
VARIANT_NAMES = ("anytime", "linear", "recurrent", "paper", "one-step", "largest-first",
                 "smallest-first", "scattered", "two-networks", "ten-crop", "mirrored",
                 "two-scales", "larger", "largest")  # fmt: skip


@click.command()
@click.argument("data", type=any_path)
@click.option("--backbone", default="convnext_tiny", show_default=True, help="Any timm model.")
@weights_option
@click.option(
    "--out",
    type=any_path,
    help="New folder for the results.  [default: runs/train-DATE]",
)
@click.option("--freeze", is_flag=True, help="Train the heads alone, on cached features.")
@click.option(
    "--image-size",
    type=at_least_one,
    help="Side of the whole picture, in pixels.  [default: 448, or the size that the backbone "
    "takes; with --freeze the size it was made for]",
)
@click.option(
    "--patch-size",
    type=at_least_one,
    help="Side of a patch, in pixels.  [default: 224, or the size that the backbone takes]",
)
@num_patches_option
@train_patches_option
@click.option(
    "--augment",
    type=click.Choice(NAMED),
    default="none",
    show_default=True,
    help="Change the training pictures at random.",
)
@recipe_options
@precision_option
@click.option(
    "--track", multiple=True, help="Log to tensorboard, wandb, mlflow or trackio; repeatable."
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@device_option
@num_workers_option
@quiet_option
def train(
    data: Path,
    out: Path | None,
    weights: str | None,
    freeze: bool,
    augment: str,
    precision: str,
    track: tuple[str, ...],
    quiet: bool,
    **words: Any,
) -> None:
    """Train a classifier on DATA, measure it and write a report.

    It needs no labels of parts. DATA has a folder for each class; or train, and val or test or
    both, with such folders; or it is CUB-200-2011 or Stanford Dogs in its official layout. Several
    GPUs: torchrun --nproc_per_node 8 -m recurrent_attention train DATA.
    """
    from recurrent_attention.training import join_processes, parts_of_folder, train

    if words["resume"] and out is None:
        raise click.UsageError("--resume needs --out DIR, the folder of the run to go on with.")
    begin = _pretrained(weights)
    recipe = recipe_of(words, freeze, precision)
    _keep_memory_of_a_cpu(words["device"])
    is_main = join_processes(words["device"]).is_main_process
    parts = parts_of_folder(data, seed=recipe.seed)
    if is_main:
        click.echo(f"{parts.found}: {len(parts.train.class_names)} classes")
        click.echo(
            f"{len(parts.train)} pictures to train on, {len(parts.validation)} to choose the epoch "
            f"by, {len(parts.test)} to measure"
        )
    folder = out or Path(f"runs/train-{time.strftime('%Y%m%d-%H%M%S')}")
    done = train(
        parts,
        out=folder,
        recipe=recipe,
        augment=named_augment(augment),
        trackers=list(track) or None,
        progress=not quiet,
        **begin,
        **words,
    )
    if is_main:
        click.echo(_table(done.evaluation))
        click.echo(f"model in {printable(folder / 'model')}")
        click.echo(f"report in {printable(folder / done.report.name)}")


@click.command()
@model_argument
@click.argument("data", type=any_path)
@click.option(
    "--report",
    type=any_path,
    default=Path("report.html"),
    show_default=True,
    help="Page with figures, mistakes and explained pictures.",
)
@click.option(
    "--batch-size", type=at_least_one, default=32, show_default=True, help="Pictures a batch."
)
@precision_option
@device_option
@num_workers_option
@quiet_option
def evaluate(model: str, data: Path, report: Path, quiet: bool, **words: Any) -> None:
    """Measure MODEL on the test part of DATA.

    A folder without parts is measured whole. If `train` learned from it, only the pictures that it
    set aside are measured, as long as MODEL is still in the folder of its run.
    """
    from recurrent_attention.training import join_processes
    from recurrent_attention.training.folder_evaluation import (
        evaluate_part,
        part_to_measure,
        set_aside,
    )

    _keep_memory_of_a_cpu(words["device"])
    loaded = TwoStreamClassifier.from_pretrained(model)
    part = set_aside(part_to_measure(data, None), Path(model).parent)
    count = len(part.pictures)
    if join_processes(words["device"]).is_main_process:
        said = {
            "set aside": f"the {count} pictures that the training set aside",
            "all": f"all {count} pictures; those that the model learned from flatter it",
            "train": f"the training pictures ({count}), which flatter the model",
        }.get(part.name, f"the {count} pictures of {part.name!r}")
        click.echo(f"measuring {said}")
    found = evaluate_part(loaded, part, report=report, progress=not quiet, **words)
    if join_processes().is_main_process:
        click.echo(_table(found))
        click.echo(f"report in {printable(report)}")


@click.command()
@click.argument("data", type=any_path)
@click.option("--backbone", default="convnext_tiny", show_default=True, help="Any timm model.")
@weights_option
@click.option(
    "--out",
    type=any_path,
    default=Path("runs/ablation"),
    show_default=True,
    help="Folder for the results; given again, the runs in it go on.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(VARIANT_NAMES),
    help="Kind of classifier; repeatable.  [default: anytime, paper, scattered, two-networks, "
    "ten-crop, mirrored, two-scales, larger]",
)
@click.option("--seeds", type=at_least_one, default=3, show_default=True, help="Runs of each.")
@click.option("--freeze", is_flag=True, help="Train the heads alone, on cached features.")
@click.option(
    "--image-size",
    type=at_least_one,
    default=224,
    show_default=True,
    help="Side of the whole picture, in pixels.",
)
@click.option(
    "--patch-size",
    type=at_least_one,
    default=224,
    show_default=True,
    help="Side of a patch, in pixels.",
)
@num_patches_option
@train_patches_option
@recipe_options
@precision_option
@device_option
@num_workers_option
@quiet_option
def ablate(
    data: Path,
    weights: str | None,
    variants: tuple[str, ...],
    seeds: int,
    freeze: bool,
    precision: str,
    quiet: bool,
    **words: Any,
) -> None:
    """Compare kinds of classifier on DATA, over several seeds.

    Other local streams, other orders of the boxes, and controls without parts; one table, and one
    figure of accuracy over the cost of a picture. A second call goes on where the first stopped.
    """
    from recurrent_attention.training import ablate, join_processes
    from recurrent_attention.training.ablation import DEFAULT

    recipe = recipe_of(words, freeze, precision)
    _keep_memory_of_a_cpu(words["device"])
    found = ablate(
        data,
        variants=variants or DEFAULT,
        seeds=range(recipe.seed, recipe.seed + seeds),
        recipe=recipe,
        progress=not quiet,
        **_pretrained(weights),
        **words,
    )
    if join_processes(words["device"]).is_main_process:
        click.echo(str(found))
        click.echo(f"table and figure in {printable(found.folder)}")


def _keep_memory_of_a_cpu(device: str) -> None:
    """Make the steps of this process faster where the CPU computes them."""
    from recurrent_attention.training import keep_freed_memory

    if device_of(device).type == "cpu":
        keep_freed_memory()


def _pretrained(weights: str | None) -> dict[str, Any]:
    """Return what `train` gets for --weights; refuse a file that is not there."""
    if weights in (None, "none"):
        return {"pretrained": weights is None}
    if not Path(str(weights)).is_file():
        raise FileNotFoundError(f"Expected weights at {printable(weights)}, but there is no file.")
    return {"backbone_kwargs": {"pretrained_cfg_overlay": {"file": weights}}}


def _table(found: Any) -> str:
    """Return the figures of each stream as a table."""
    numbers = found.numbers()
    lines = [f"{found.num_images} pictures, in %   top-1   top-5   mean over classes"]
    for stream in ("global", "local", "fused"):
        values = [100 * numbers[f"{stream}_{name}"] for name in ("top1", "top5", "mean_per_class")]
        pad = len(lines[0]) - len("   top-1   top-5   mean over classes")
        lines.append(f"{stream:<{pad}}{values[0]:8.2f}{values[1]:8.2f}{values[2]:20.2f}")
    if found.answers is not None and found.answers.classes_after is not None:
        after, stopped = found.answers.top1_after(), found.answers.stopping(0.9)
        shown = range(len(after)) if len(after) <= 11 else (0, 1, 2, 3, 5, 10, len(after) - 1)
        each = ", ".join(f"{number}: {100 * after[number]:.2f}" for number in shown)
        lines.append(f"after so many looks {each}")
        lines.append(
            f"stopping when 90 % sure: {100 * stopped.top1:.2f} with {stopped.mean_looks:.1f} looks"
        )
    if found.answers is not None:
        error = 100 * found.answers.calibration_error()
        lines.append(f"probabilities are off by {error:.1f} points on average")
    return "\n".join(lines)
