"""The moving average of the weights, beside the weights that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from recurrent_attention.classifier import TwoStreamClassifier

BACKBONES = ("global_backbone", "local_backbone")


def trained_weights(model: TwoStreamClassifier, *, freeze: bool) -> dict[str, Tensor]:
    """Return the weights that are trained; those of frozen backbones stay as they are."""
    frozen = tuple(f"{name}." for name in BACKBONES) if freeze else ()
    weights = model.state_dict()
    return {name: weights[name] for name in weights if not name.startswith(frozen)}


class WeightAverage:
    """An exponential moving average of what is trained, by `timm.utils.ModelEmaV3`.

    In its warm-up the average follows the weights more closely, which short trainings need.
    """

    def __init__(self, model: TwoStreamClassifier, decay: float, *, freeze: bool) -> None:
        self.model = model
        self.freeze = freeze
        left_out = BACKBONES if freeze else ()
        parts = {name: part for name, part in model.named_children() if name not in left_out}
        self.parts = nn.ModuleDict(parts)
        is_bfloat16 = next(self.parts.parameters()).dtype == torch.bfloat16
        self.average = ModelEmaV3(
            self.parts,
            decay=decay,
            use_warmup=True,
            # It could be rounded by chance instead, but the state of that chance is not kept.
            dtype=torch.float32 if is_bfloat16 else None,
        )
        self._own: dict[str, Tensor] | None = None  # while the model shows the average

    def update(self, updates: int) -> None:
        """Take the weights after so many updates into the average."""
        self.average.update(self.parts, step=updates)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by the names that the weights have in the model."""
        weights: dict[str, Tensor] = self.average.module.state_dict()
        return weights

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Take an average back."""
        self.average.module.load_state_dict(weights)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average into the model meanwhile."""
        own = {name: tensor.clone() for name, tensor in self.trained().items()}
        self.model.load_state_dict(self.state_dict(), strict=False)
        self._own = own
        try:
            yield
        finally:
            self.model.load_state_dict(own, strict=False)
            self._own = None

    def trained(self) -> dict[str, Tensor]:
        """Return the weights that are trained, also while the model shows their average."""
        if self._own is not None:
            return self._own
        return trained_weights(self.model, freeze=self.freeze)
