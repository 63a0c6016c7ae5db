"""Quantization: a float ONNX model and the ranges of its activations become a QDQ model.

Needs ``edgekern[toolkit]``.
"""

from edgekern.quantization.config import QuantConfig
from edgekern.quantization.encodings import Encoding, Encodings, FloatEncoding
from edgekern.quantization.methods.awq_layers import awq
from edgekern.quantization.methods.equalization import equalize
from edgekern.quantization.methods.rotate import rotate
from edgekern.quantization.methods.smooth import smooth
from edgekern.quantization.methods.sparsify import sparsify, sparsity_of
from edgekern.quantization.plan import Choice, Plan, plan_of
from edgekern.quantization.quantize_model import compute_encodings, quantize
from edgekern.quantization.try_methods import choose_ranges

__all__ = [
    "Choice",
    "Encoding",
    "Encodings",
    "FloatEncoding",
    "Plan",
    "QuantConfig",
    "awq",
    "choose_ranges",
    "compute_encodings",
    "equalize",
    "plan_of",
    "quantize",
    "rotate",
    "smooth",
    "sparsify",
    "sparsity_of",
]
