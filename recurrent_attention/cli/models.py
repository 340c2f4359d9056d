"""Subcommands for models: backbone, export."""

import sys
from pathlib import Path

import click

from recurrent_attention._errors import printable
from recurrent_attention._files import check_new_file
from recurrent_attention.backbone.check import check_backbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.cli.options import any_path, at_least_one, model_argument
from recurrent_attention.export.onnx import KINDS, export_onnx


@click.command()
@click.argument("name")
@click.option(
    "--image-size",
    type=at_least_one,
    help="Side of the whole picture, in pixels.  [default: 448, or the size that it takes]",
)
@click.option(
    "--patch-size",
    type=at_least_one,
    help="Side of a patch, in pixels.  [default: 224, or the size that it takes]",
)
@click.option(
    "--classes", type=at_least_one, default=200, show_default=True, help="Classes of the model."
)
@click.option(
    "--patches", type=at_least_one, default=1, show_default=True, help="Patches of each image."
)
@click.option(
    "--batch-size",
    type=at_least_one,
    default=32,
    show_default=True,
    help="Images in a training step.",
)
def backbone(
    name: str,
    image_size: int | None,
    patch_size: int | None,
    classes: int,
    patches: int,
    batch_size: int,
) -> None:
    """Say whether the timm model NAME works as both streams.

    And what it costs: maps, parameters, multiply-adds, memory of a training step. Nothing is
    downloaded. The exit status is 1 if it does not work.
    """
    report = check_backbone(
        name,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=classes,
        num_patches=patches,
        batch_size=batch_size,
    )
    click.echo(str(report))
    sys.exit(0 if report.ok else 1)


@click.command()
@model_argument
@click.argument("out", type=any_path)
@click.option(
    "--graph",
    type=click.Choice(KINDS),
    default="predict",
    show_default=True,
    help="What the command predict runs; or, for your own programs: the whole network; the network "
    "with patches as inputs; what proposes boxes; the answer without a look; one more look.",
)
def export(model: str, out: Path, graph: str) -> None:
    """Write MODEL into the ONNX file OUT, which is faster on a CPU.

    The command predict takes the file in place of MODEL. Other graphs run without Python.
    """
    check_new_file(out)
    built = TwoStreamClassifier.from_pretrained(model)
    click.echo(f"Writing {printable(out)}, which takes up to a few minutes", err=True)
    export_onnx(built, out, graph=graph)  # type: ignore[arg-type]
    click.echo(f"{printable(out)}: {out.stat().st_size / 1e6:.1f} MB", err=True)
