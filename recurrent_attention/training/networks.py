"""What is trained and evaluated: networks around a classifier, which stays as it is."""

from typing import Any

from torch import Tensor, nn

from recurrent_attention._errors import first_line
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput
from recurrent_attention.training.shared_batch_norm import shared_batch_norm
from recurrent_attention.training.views import cast


class Streams(nn.Module):
    """A classifier as a network of its own, so that what wraps it leaves the classifier alone."""

    def __init__(self, model: TwoStreamClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, patches: Tensor) -> Any:
        """Classify images (b c h w) and patches (b p c h w), in the dtype of the weights."""
        return self.model(*cast(self.model, images, patches))


class Heads(nn.Module):
    """The heads of a classifier as a network of their own, for frozen features."""

    def __init__(self, model: TwoStreamClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, global_features: Tensor, local_features: Tensor) -> Any:
        """Classify features (b c) or (b c h w), and (b p c)."""
        features = cast(self.model.local_head, global_features, local_features)
        return self.model.classify(TwoStreamFeatures(*features))


def train_pass(
    network: nn.Module, first: Tensor, second: Tensor, num_processes: int
) -> TwoStreamOutput:
    """Run a network in training mode on a batch of this process.

    Args:
        network: `Streams` or `Heads`, as Accelerate prepared it.
        first: images, or features of the global stream.
        second: patches, or features of the local stream.
        num_processes: that share the batch.

    Raises:
        ValueError: if the batch is of one picture, and a layer normalises over the batch.
    """
    try:
        with shared_batch_norm():
            output: TwoStreamOutput = network(first, second)
    except ValueError as error:
        if len(first) * num_processes > 1:
            raise
        raise ValueError(
            "Expected batches of several pictures to train on, but got one picture, which the "
            f"model does not take in training mode: {first_line(error)}. Raise `batch_size`, or "
            "add pictures."
        ) from error
    return output
