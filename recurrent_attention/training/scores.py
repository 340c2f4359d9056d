"""Loss and accuracies, counted batch by batch."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training.answers import STREAMS


class Scores(nn.Module):
    """Loss and accuracies, gathered over batches; its state goes into checkpoints."""

    metrics: Any  # torchmetrics has no types
    num_images: int

    def __init__(self, num_classes: int, device: torch.device) -> None:
        super().__init__()
        accuracies = {
            # Of classes, not of logits, since it knows no data of a single class.
            stream: MulticlassAccuracy(max(num_classes, 2), average="micro", sync_on_compute=False)
            for stream in STREAMS
        }
        self.metrics = nn.ModuleDict({"loss": MeanMetric(sync_on_compute=False), **accuracies})
        for metric in self.metrics.values():
            metric.persistent(True)
        self.to(device)
        self.num_images = 0

    def update(self, output: TwoStreamOutput, targets: Tensor, loss_of: TwoStreamLoss) -> None:
        """Count a batch of all processes.

        Targets are labels (b), or of mixed pictures (b k), of which the larger part counts.
        """
        output = TwoStreamOutput._make(t if t is None else t.detach().float() for t in output)
        weight = _weight_of(targets, loss_of)
        if weight > 0:
            self.metrics["loss"].update(loss_of(output, targets), weight)
        self.num_images += len(targets)
        labels = targets.argmax(dim=1) if targets.is_floating_point() else targets
        for stream, logits in (
            ("global", output.global_logits),
            ("local", output.local_logits),
            ("fused", output.logits),
        ):
            self.metrics[stream].update(logits.argmax(dim=1), labels)

    def compute(self) -> dict[str, float]:
        """Return the loss and the accuracy of each stream so far."""
        return {name: metric.compute().item() for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.metrics.values():
            metric.reset()
        self.num_images = 0

    def get_extra_state(self) -> int:
        """Return what `state_dict` holds beside the metrics."""
        return self.num_images

    def set_extra_state(self, state: int) -> None:
        """Take it back."""
        self.num_images = state


def _weight_of(targets: Tensor, loss_of: TwoStreamLoss) -> float:
    """Return what the loss of a batch was divided by, and counts for in the mean over batches."""
    if loss_of.weight is None or targets.is_floating_point():
        return float(len(targets))
    return float(loss_of.weight[targets].cpu().double().sum())


def show_scores(bar: Any, scores: Scores) -> None:
    """Write loss and accuracy so far behind a progress bar."""
    if not bar.disable:
        values = scores.compute()
        bar.set_postfix(loss=f"{values['loss']:.3f}", top1=f"{100 * values['fused']:.1f}%")
