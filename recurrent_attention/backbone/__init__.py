"""Any timm model as a function from images to a feature map: the only place that knows timm."""

from recurrent_attention.backbone.creation import FACTORY_ARGUMENTS, native_size
from recurrent_attention.backbone.feature_backbone import FeatureBackbone

__all__ = ["FACTORY_ARGUMENTS", "FeatureBackbone", "native_size"]
