"""Subcommands that need the extra [train]: train, evaluate."""

import time
from pathlib import Path
from typing import Any

import click

from recurrent_attention._errors import printable
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.cli.options import (
    at_least_one,
    model_argument,
    num_workers_option,
    quiet_option,
)

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps or xpu."
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", default="convnext_tiny", show_default=True, help="Any timm model.")
@click.option("--weights", help="File of its weights, or none.  [default: timm downloads them]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New folder.  [default: runs/train-DATE]"
)
@click.option("--freeze", is_flag=True, help="Train the heads alone, on cached features.")
@click.option("--epochs", type=at_least_one, default=15, show_default=True)
@click.option("--batch-size", type=at_least_one, default=32, show_default=True)
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Of the backbones.")
@click.option(
    "--image-size", type=at_least_one, help="Side in pixels.  [default: 448, or what it takes]"
)
@click.option(
    "--patch-size", type=at_least_one, help="Side in pixels.  [default: 224, or what it takes]"
)
@click.option(
    "--num-patches", type=at_least_one, default=10, show_default=True, help="Of each picture."
)
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@device_option
@num_workers_option
@quiet_option
def train(data: Path, out: Path | None, weights: str | None, quiet: bool, **words: Any) -> None:
    """Train a classifier on DATA, without labels of parts, and measure it.

    DATA has a folder for each class; or train, and val or test or both, with such folders; or it is
    CUB-200-2011 or Stanford Dogs in its official layout.
    """
    from recurrent_attention.training import Recipe, parts_of_folder, train

    if words["resume"] and out is None:
        raise click.UsageError("--resume needs --out DIR, the folder of the run to go on with.")
    if weights not in (None, "none") and not Path(str(weights)).is_file():
        raise FileNotFoundError(f"Expected weights at {printable(weights)}, but there is no file.")
    recipe = Recipe(
        epochs=words.pop("epochs"),
        batch_size=words.pop("batch_size"),
        precision=words.pop("precision"),
        seed=words.pop("seed"),
        freeze=words.pop("freeze"),
        label_smoothing=0.1,
        **({} if (lr := words.pop("lr")) is None else {"lr": lr}),
    )
    parts = parts_of_folder(data, seed=recipe.seed)
    click.echo(f"{parts.found}: {len(parts.train.class_names)} classes")
    click.echo(
        f"{len(parts.train)} pictures to train on, {len(parts.validation)} to choose the epoch by, "
        f"{len(parts.test)} to measure"
    )
    overlay = {"file": weights} if weights not in (None, "none") else {}
    done = train(
        parts,
        out=out or f"runs/train-{time.strftime('%Y%m%d-%H%M%S')}",
        recipe=recipe,
        pretrained=weights != "none",
        backbone_kwargs={"pretrained_cfg_overlay": overlay},
        progress=not quiet,
        **words,
    )
    click.echo(_table(done.evaluation))
    click.echo(f"model in {printable(done.folder / 'model')}")


@click.command()
@model_argument
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--batch-size", type=at_least_one, default=32, show_default=True)
@device_option
@num_workers_option
@quiet_option
def evaluate(
    model: str, data: Path, batch_size: int, device: str, num_workers: int, quiet: bool
) -> None:
    """Measure MODEL on the test part of DATA, or on all of it where it has no parts."""
    from recurrent_attention.data import TwoStreamDataset
    from recurrent_attention.data.checking.layout import find_layout
    from recurrent_attention.training import evaluate, propose_boxes_for

    layout = find_layout(data)
    name = next(name for name in ("test", "val", "all", "train") if name in layout.splits)
    pictures = layout.splits[name]
    click.echo(f"{layout.name}: {len(pictures)} pictures of {name}")
    loaded = TwoStreamClassifier.from_pretrained(model)
    work: dict[str, Any] = {"device": device, "num_workers": num_workers, "progress": not quiet}
    boxes = propose_boxes_for(loaded, pictures, **work)
    views = TwoStreamDataset.for_model(loaded, pictures, boxes)
    click.echo(_table(evaluate(loaded, views, batch_size=batch_size, **work)))


def _table(found: Any) -> str:
    streams = {name: getattr(found, f"{name}_top1") for name in ("global", "local", "fused")}
    shares = "   ".join(f"{name} {100 * share:.2f}" for name, share in streams.items())
    return f"top-1 in % of {found.num_images} pictures:   {shares}"
