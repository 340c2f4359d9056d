"""Images that were normalised for one backbone, brought to what another one was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Renormalise(nn.Module):
    """Turn images that are normalised with one mean and deviation into those with another.

    Args:
        scale: factor of each channel.
        shift: what is added to each channel then.
    """

    def __init__(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        super().__init__()
        self.scale, self.shift = tuple(scale), tuple(shift)

    def forward(self, images: Tensor) -> Tensor:
        """Renormalise images (b c h w)."""
        each = zip(images.unbind(1), self.scale, self.shift, strict=True)
        return torch.stack([channel * factor + more for channel, factor, more in each], 1)

    def extra_repr(self) -> str:
        """Name the numbers, which decide what a backbone sees: features are kept by them."""
        return f"scale={self.scale}, shift={self.shift}"


def renormalise_for(backbone: Any, given: Mapping[str, Any]) -> None:
    """Let a backbone take images that are normalised with the mean and std of another one.

    Args:
        backbone: `FeatureBackbone`; nothing changes where both have the same numbers.
        given: `data_config` of the other one.
    """
    own = backbone.data_config
    pairs = [(tuple(given[key]), tuple(own[key])) for key in ("mean", "std")]
    if all(one == other for one, other in pairs):
        return
    (mean, own_mean), (std, own_std) = pairs
    scale = [one / other for one, other in zip(std, own_std, strict=True)]
    shift = [(m - o) / deviation for m, o, deviation in zip(mean, own_mean, own_std, strict=True)]
    backbone.renormalise = Renormalise(scale, shift)
