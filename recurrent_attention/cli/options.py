"""Arguments and options that several subcommands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from recurrent_attention._devices import device_of
from recurrent_attention.classifier import TwoStreamClassifier

at_least_one = click.IntRange(1)
any_path = click.Path(path_type=Path)
model_argument = click.argument("model", metavar="MODEL")
num_workers_option = click.option(
    "--num-workers",
    type=click.IntRange(0),
    default=0,
    help="Processes that read pictures.",
    show_default=True,
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps or xpu."
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def precision_option_of(default: str) -> Callable[[Any], Any]:
    """Make the option `--precision`, with the default of a subcommand."""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default=default,
        show_default=True,
        help="auto: bf16 on a GPU that has it, else fp32.",
    )


def load_on(device: str, model: str) -> TwoStreamClassifier:
    """Load the MODEL of a subcommand onto its `--device`, which is checked before the model is."""
    chosen = device_of(device)
    return TwoStreamClassifier.from_pretrained(model).to(chosen)
