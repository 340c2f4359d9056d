"""Train and eval mode: a call leaves every module in its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into its own mode.

    Args:
        model: of which some modules may be in training mode and others not.
    """
    modes = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in modes):  # the rest takes 10 ms with 600 modules
        yield
        return
    try:
        model.eval()
        yield
    finally:
        # By `train`, since some timm models drop there what they kept for evaluation; parents
        # first, since it reaches the children.
        for module, training in modes:
            module.train(training)
