"""The options of `train` and `ablate` that are a recipe."""

from typing import Any

import click

from recurrent_attention.cli.options import at_least_one

positive = click.FloatRange(0, min_open=True)
share = click.FloatRange(0, 1)
# Each is an attribute of `Recipe`, which has the default.
RECIPE = ("epochs", "batch_size", "lr", "head_lr", "layer_decay", "weight_decay", "ema_decay",
          "clip_grad", "label_smoothing", "mixup", "cutmix", "class_balance", "patience",
          "grad_checkpointing", "compile", "seed")  # fmt: skip
RECIPE_OPTIONS = (
    click.option("--epochs", type=at_least_one, help="Passes over the pictures.  [default: 15]"),
    click.option(
        "--batch-size", type=at_least_one, help="Pictures a batch, per process.  [default: 32]"
    ),
    click.option("--lr", type=positive, help="Learning rate of the backbones.  [default: 1e-4]"),
    click.option(
        "--head-lr", type=positive, help="Learning rate of the new layers.  [default: 2e-3]"
    ),
    click.option(
        "--layer-decay",
        type=click.FloatRange(0, 1, min_open=True),
        help="Factor on the learning rate, for each layer above.  [default: 1]",
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(0), help="Decay of the weights.  [default: 0.05]"
    ),
    click.option(
        "--ema-decay",
        type=share,
        help="Decay of the averaged weights.  [default: 0.9998; with --freeze none]",
    ),
    click.option(
        "--clip-grad",
        type=positive,
        help="Largest norm of the gradients.  [default: 1; with --freeze none]",
    ),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        help="Smoothing of the labels in the loss.  [default: 0.1]",
    ),
    click.option(
        "--mixup", type=click.FloatRange(0), help="Alpha of mixup; 0 is none.  [default: 0]"
    ),
    click.option(
        "--cutmix", type=click.FloatRange(0), help="Alpha of cutmix; 0 is none.  [default: 0]"
    ),
    click.option(
        "--class-balance",
        type=click.Choice(["none", "loss", "sampler"]),
        help="Count rare classes more in the loss, or draw them more often.  [default: none]",
    ),
    click.option(
        "--patience", type=at_least_one, help="End after so many epochs without a better one."
    ),
    click.option(
        "--grad-checkpointing", is_flag=True, default=None, help="Take less memory, a third slower."
    ),
    click.option(
        "--compile", is_flag=True, default=None, help="Run the network through torch.compile."
    ),
    click.option("--seed", type=int, help="Seed of all that is drawn at random.  [default: 0]"),
)


def recipe_options(command: Any) -> Any:
    """Add the options that are a recipe."""
    for option in reversed(RECIPE_OPTIONS):
        command = option(command)
    return command


def recipe_of(words: dict[str, Any], freeze: bool, precision: str) -> Any:
    """Take the options of the recipe out of those of a command, and build it."""
    from recurrent_attention.training import Recipe

    given = {name: value for name in RECIPE if (value := words.pop(name)) is not None}
    make = Recipe.heads_only if freeze else Recipe.fine_tuning
    return make(precision=precision, **given)
