"""Models as ONNX files, and classifiers that run them."""

from recurrent_attention.export.onnx import export_onnx
from recurrent_attention.export.onnx_classifier import OnnxClassifier

__all__ = ["OnnxClassifier", "export_onnx"]
