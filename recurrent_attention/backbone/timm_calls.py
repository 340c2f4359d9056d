"""What timm's optimisers and training scripts call on a model, for both streams at once."""

import math
from collections.abc import Callable

from torch import nn

from recurrent_attention.backbone import FeatureBackbone


class TimmCalls:
    """The calls of timm that read or set the two backbones, and the two classifiers."""

    global_backbone: FeatureBackbone
    local_backbone: FeatureBackbone
    global_head: nn.Linear
    local_head: nn.Linear

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: backbones compute again what they would keep.

        Args:
            enable: whether to.

        Raises:
            ValueError: if timm's model of a stream cannot.
        """
        self.global_backbone.set_grad_checkpointing(enable)
        self.local_backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Return in which layer a parameter is, for timm's layer decay.

        Args:
            coarse: stages instead of blocks, as in timm.

        Returns:
            From a parameter's name to its layer, as timm's `group_parameters` takes it: both
            streams have the layers of their timm models, counted back from the heads, which come
            last.
        """
        layers = {
            f"{stream}.{name}": layer
            for stream, backbone in (
                ("global_backbone", self.global_backbone),
                ("local_backbone", self.local_backbone),
            )
            for name, layer in backbone.layers_below_head(coarse).items()
        }
        return lambda name: (layers.get(name, math.inf),)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that timm's models want no weight decay for."""
        return {
            f"{stream}.{name}"
            for stream, backbone in (
                ("global_backbone", self.global_backbone),
                ("local_backbone", self.local_backbone),
            )
            for name in backbone.no_weight_decay()
        }

    def get_classifier(self) -> nn.ModuleList:
        """Return both classifiers, that of the global stream first."""
        return nn.ModuleList([self.global_head, self.local_head])
