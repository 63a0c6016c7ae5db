"""Quantization: a float ONNX model and the ranges of its activations become a QDQ model.

Needs ``edgekern[toolkit]``.
"""

from edgekern.quantization.config import QuantConfig
from edgekern.quantization.quantize_model import quantize

__all__ = ["QuantConfig", "quantize"]
