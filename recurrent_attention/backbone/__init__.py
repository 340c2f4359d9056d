"""Any timm model as a function from images to a feature map: the only place that knows timm."""

from recurrent_attention.backbone.feature_backbone import (
    FACTORY_ARGUMENTS,
    FeatureBackbone,
    native_size,
)

__all__ = ["FACTORY_ARGUMENTS", "FeatureBackbone", "native_size"]
