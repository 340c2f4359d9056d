"""What a recipe's numbers become: groups of parameters, the optimiser, its rates over time."""

from typing import Any

import timm.optim
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from torch import nn

from recurrent_attention._errors import first_line
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.training.recipe import Recipe

OPTIM: Any = timm.optim  # has no types
Groups = list[dict[str, Any]]


def backbone_parameters(model: TwoStreamClassifier) -> list[nn.Parameter]:
    """List the parameters that a frozen run leaves alone."""
    return [*model.global_backbone.parameters(), *model.local_backbone.parameters()]


def check_trainable(model: TwoStreamClassifier) -> None:
    """Refuse weights in float16, of which an optimiser's averages underflow, and without gradients.

    Raises:
        ValueError: if weights are in float16.
        RuntimeError: if weights were made under `torch.inference_mode`.
    """
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError(
            "Expected weights in float32, bfloat16 or float64 to train, but got torch.float16, in "
            "which an optimiser's averages underflow. Call model.float(); Recipe(precision='fp16') "
            "trains it in mixed precision."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "Expected weights that can have gradients, but got some that were made under "
            "torch.inference_mode(). Build or load the model outside of it."
        )


def build_optimizer(model: TwoStreamClassifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimiser over what requires a gradient; with `freeze` the backbones get none.

    timm puts layers into groups with their share of the rate, `lr_scale`, and without weight decay
    for biases, norms and what its models name. The groups of the new layers come last. Refuse a
    model of which nothing is trained.
    """
    of_layers = OPTIM.param_groups_layer_decay(
        model,
        weight_decay=recipe.weight_decay,
        no_weight_decay_list=() if recipe.decay_biases else model.no_weight_decay(),
        weight_decay_exclude_1d=not recipe.decay_biases,
        layer_decay=recipe.layer_decay,
    )
    old = {id(parameter) for parameter in backbone_parameters(model)}
    groups: Groups = []
    for part, rate in (("backbones", recipe.lr), ("heads", recipe.head_lr)):
        if part == "heads" or not recipe.freeze:
            groups += _of_part(of_layers, old, part, rate)
    if not groups:
        raise ValueError(
            "Expected the model to have a parameter that requires a gradient, but all of them are "
            "frozen. Call requires_grad_() on what is to be trained."
        )
    return optimizer_of(groups, recipe)


def _of_part(groups: Groups, of_backbones: set[int], part: str, rate: float) -> Groups:
    """Return the groups with only the parameters of a part, at its learning rate."""
    found = []
    for group in groups:
        chosen = [p for p in group["params"] if (id(p) in of_backbones) == (part == "backbones")]
        if chosen:
            found.append(group | {"params": chosen, "lr": rate, "part": part})
    return found


def optimizer_of(groups: Groups, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over groups of parameters, each with its rate."""
    try:
        optimizer: torch.optim.Optimizer = OPTIM.create_optimizer_v2(
            groups,
            opt=recipe.optimizer,
            lr=recipe.head_lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
        )
    except (AssertionError, ImportError) as error:  # of APEX and bitsandbytes
        raise ValueError(
            f"Expected `optimizer` to work on this machine, but {recipe.optimizer!r} says: "
            f"{first_line(error)}. Take another one, such as adamw."
        ) from error
    return optimizer


class Schedule:
    """The learning rates over the updates of a training: timm's schedules, with our warm-up.

    timm's warm-up begins at a rate of 0, so that a first update would be lost, which of few is
    much; here update t of w has (t + 1) / w of the rate.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, recipe: Recipe, updates_per_epoch: int
    ) -> None:
        self.optimizer = optimizer
        total = recipe.epochs * updates_per_epoch
        self.warmup = min(total, round(recipe.warmup_epochs * updates_per_epoch))
        common: dict[str, Any] = {"warmup_prefix": True, "t_in_epochs": False}
        common |= {"warmup_t": self.warmup, "warmup_lr_init": 0.0}
        self.course: Any
        if recipe.schedule == "cosine":
            self.course = CosineLRScheduler(optimizer, max(2, total - self.warmup), **common)
        else:
            at = [epoch * updates_per_epoch - self.warmup + 1 for epoch in recipe.decay_epochs]
            self.course = MultiStepLRScheduler(optimizer, sorted(at), recipe.decay_rate, **common)
        self.go_to(0)

    def go_to(self, updates: int) -> None:
        """Set the rates of the next update, after so many of them."""
        self.updates = updates
        self.course.step_update(updates + (updates < self.warmup))

    def step(self) -> None:
        """Set the rates of the next update."""
        self.go_to(self.updates + 1)

    def rates(self) -> list[float]:
        """Return the rates of the next update: of the backbones' topmost layer, of the heads."""
        of_parts = {
            group.get("part"): group["lr"] / group.get("lr_scale", 1.0)
            for group in self.optimizer.param_groups
        }
        return list(of_parts.values())
