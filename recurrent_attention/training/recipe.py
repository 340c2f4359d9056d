"""What a training run is made of: optimiser, learning rates, schedule, precision."""

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from recurrent_attention.classifier import TwoStreamClassifier

# The least and the most of a number, where that is not 0 and infinity.
_LEAST = {"epochs": 1, "batch_size": 1, "accumulation_steps": 1, "seed": -math.inf}
_MOST = {"momentum": 1, "label_smoothing": 1}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train a two-stream classifier; the defaults fine-tune a pretrained backbone.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: pictures in a batch, per process.
        accumulation_steps: batches whose gradients are summed before an update.
        optimizer: "adamw", or "sgd" (with `momentum`).
        lr: learning rate of the backbones.
        head_lr: learning rate of all that is new: convolutions, attention and classifiers.
        weight_decay: of every parameter.
        momentum: of SGD.
        schedule: "cosine" down to 0, or "steps" (times `decay_rate` at each of `decay_epochs`).
        warmup_epochs: epochs of linear warm-up before the cosine.
        decay_epochs: of the step schedule.
        decay_rate: of the step schedule.
        local_weight: lambda of the loss.
        label_smoothing: of both cross-entropies.
        choose_epoch_by: lowest "loss" of both streams on the validation data, or highest "fused"
            top-1. On a few hundred pictures the top-1 of an epoch is chance by some points, and the
            luckiest epoch came too early for the local stream (docs/lab/trials.md).
        freeze: leave the backbones as they are and train the heads on their cached features.
        precision: "fp32", or autocast to "bf16" or "fp16".
        seed: of the data order, patches, crops and dropout.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if something is no number.
    """

    epochs: int = 30
    batch_size: int = 32
    accumulation_steps: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup_epochs: float = 1.0
    decay_epochs: tuple[int, ...] = (30, 60)
    decay_rate: float = 0.1
    local_weight: float = 1.0
    label_smoothing: float = 0.0
    choose_epoch_by: Literal["loss", "fused"] = "loss"
    freeze: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs))
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if get_origin(field.type) is Literal:
                allowed = get_args(field.type)
                if value not in allowed:
                    raise ValueError(
                        f"Expected `{name}` to be one of {', '.join(allowed)}, but got {value!r}."
                    )
            elif field.type is not bool:
                for number in value if name == "decay_epochs" else (value,):
                    _check_number(name, number, whole=field.type is not float)
            elif not isinstance(value, bool):
                raise TypeError(f"Expected `{name}` to be True or False, but got {value!r}.")

    @classmethod
    def paper(cls, *, epochs: int = 90, batch_size: int = 32, seed: int = 0) -> "Recipe":
        """Return the recipe of the authors' code: SGD at 1e-3 everywhere, steps at 30 and 60.

        The epoch of the highest top-1 is kept, as there.
        The number of epochs is not known; 90 gives each of the three learning rates 30.
        """
        return cls(
            epochs=epochs,
            batch_size=batch_size,
            optimizer="sgd",
            lr=1e-3,
            head_lr=1e-3,
            weight_decay=5e-4,
            momentum=0.9,
            schedule="steps",
            warmup_epochs=0.0,
            choose_epoch_by="fused",
            seed=seed,
        )


def _check_number(name: str, value: Any, *, whole: bool) -> None:
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        hint = " YAML reads 1e-3 as text: write 1.0e-3." if isinstance(value, str) else ""
        raise TypeError(
            f"Expected `{name}` to be a {'whole ' if whole else ''}number, but got {value!r}.{hint}"
        )
    least, most = _LEAST.get(name, 0), _MOST.get(name, math.inf)
    if not least <= float(value) <= most or not math.isfinite(value):
        limit = f"in [{least}, {most}]" if most < math.inf else f"at least {least}"
        limit += "" if whole or most < math.inf else " and finite"
        raise ValueError(f"Expected `{name}` to be {limit}, but got {value}.")


def backbone_parameters(model: TwoStreamClassifier) -> list[nn.Parameter]:
    """List the parameters that a frozen run leaves alone."""
    return [*model.global_backbone.parameters(), *model.local_backbone.parameters()]


def check_trainable(model: TwoStreamClassifier) -> None:
    """Refuse weights in float16, of which an optimiser's averages underflow."""
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError(
            "Expected weights in float32, bfloat16 or float64 to train, but got torch.float16, in "
            "which an optimiser's averages underflow. Call model.float(); Recipe(precision='fp16') "
            "trains it in mixed precision."
        )


def build_optimizer(model: TwoStreamClassifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimiser, with one learning rate for the backbones and one for what is new.

    It is over what requires a gradient, with the group of the new layers last; with `freeze` the
    backbones get none. Refuse a model of which nothing is trained.
    """
    backbones = backbone_parameters(model)
    known = {id(parameter) for parameter in backbones}
    new = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups: list[dict[str, Iterable[nn.Parameter] | float]] = []
    for parameters, rate in (
        ([] if recipe.freeze else backbones, recipe.lr),
        (new, recipe.head_lr),
    ):
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if trained:
            groups.append({"params": trained, "lr": rate})
    if not groups:
        raise ValueError(
            "Expected the model to have a parameter that requires a gradient, but all of them are "
            "frozen. Call requires_grad_() on what is to be trained."
        )
    return optimizer_of(groups, recipe)


def optimizer_of(
    groups: list[dict[str, Iterable[nn.Parameter] | float]], recipe: Recipe
) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over groups of parameters, each with its rate."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, updates_per_epoch: int
) -> LambdaLR:
    """Build the learning rate's course; step it after each update of the optimiser."""

    def factor(update: int) -> float:
        return learning_rate_factor(recipe, update / updates_per_epoch, 1 / updates_per_epoch)

    return LambdaLR(optimizer, factor)


def learning_rate_factor(recipe: Recipe, epoch: float, update: float = 0.0) -> float:
    """Return by what the learning rates are multiplied at a point of the training, in [0, 1].

    `epoch` counts the epochs done so far, in [0, epochs]; `update` is the length of one update in
    epochs, so that the warm-up does not begin at 0.

    Example:
        >>> recipe = Recipe(epochs=11, warmup_epochs=1)
        >>> [round(learning_rate_factor(recipe, epoch), 2) for epoch in (0.5, 1, 6, 11)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if recipe.schedule == "steps":
        passed = sum(epoch >= limit - 1e-9 for limit in recipe.decay_epochs)
        return recipe.decay_rate**passed
    warmup = min(recipe.warmup_epochs, recipe.epochs)
    if epoch < warmup:
        return min(1.0, (epoch + update) / warmup)
    progress = (epoch - warmup) / max(recipe.epochs - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
