"""Two-stream classification with recurrent refined attention, on any timm backbone."""

from recurrent_attention._version import __version__ as __version__
from recurrent_attention.attention import (
    AnytimeAttention,
    RecurrentRefinedAttention,
    RefinedAttentionOutput,
)
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.backbone.check import check_backbone
from recurrent_attention.backbone.report import BackboneReport
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.export.onnx import export_onnx
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput
from recurrent_attention.hub.loading import load_checkpoint
from recurrent_attention.inference.explanation import Explanation
from recurrent_attention.inference.prediction import Prediction
from recurrent_attention.loss import TwoStreamLoss

__all__ = [
    "AnytimeAttention",
    "BackboneReport",
    "Explanation",
    "FeatureBackbone",
    "Prediction",
    "RecurrentRefinedAttention",
    "RefinedAttentionOutput",
    "TwoStreamClassifier",
    "TwoStreamFeatures",
    "TwoStreamLoss",
    "TwoStreamOutput",
    "check_backbone",
    "export_onnx",
    "load_checkpoint",
]
