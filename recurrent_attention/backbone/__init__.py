"""Any timm model as a function from images to a feature map: the only place that knows timm."""

from recurrent_attention.backbone.creation import FACTORY_ARGUMENTS, native_size
from recurrent_attention.backbone.feature_backbone import FeatureBackbone
from recurrent_attention.backbone.fitting import IMAGE_SIZE, PATCH_SIZE, fitting_backbone

__all__ = [
    "FACTORY_ARGUMENTS",
    "IMAGE_SIZE",
    "PATCH_SIZE",
    "FeatureBackbone",
    "fitting_backbone",
    "native_size",
]
