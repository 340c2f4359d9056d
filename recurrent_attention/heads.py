"""The classifiers on top of the two streams, initialised as the paper's authors do."""

from torch import nn

GLOBAL_CONV_CHANNELS = 1024  # of the two 1x1 convolutions in the authors' code


def conv_pair(channels: int) -> nn.Sequential:
    """Build the authors' two 1x1 convolutions: Kaiming initialised by fan-out, biases 0.

    Args:
        channels: of the map that they take; they give `GLOBAL_CONV_CHANNELS`.

    Returns:
        The two, each with its ReLU.
    """
    pair = nn.Sequential(
        nn.Conv2d(channels, GLOBAL_CONV_CHANNELS, 1),
        nn.ReLU(),
        nn.Conv2d(GLOBAL_CONV_CHANNELS, GLOBAL_CONV_CHANNELS, 1),
        nn.ReLU(),
    )
    for layer in pair:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return pair


def classifier(channels: int, num_classes: int) -> nn.Linear:
    """Build a classifier initialised as in the authors' code: weights N(0, 0.01), bias 0.

    Args:
        channels: of the pooled features.
        num_classes: k.

    Returns:
        The layer.
    """
    linear = nn.Linear(channels, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear
