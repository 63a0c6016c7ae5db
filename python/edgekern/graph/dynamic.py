"""How a QDQ file says that a product is to quantize the rows that it reads by itself, each by its own scale.

ONNX has no operator for that. The file says it beside the node; who does not know the word multiplies float32 rows by
dequantized weights, which is the same but for the rounding of the rows.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekern.graph.values import Weights, float_attribute, int_attribute, quantized_weights, shape_of

_KEY, _VALUE = "edgekern.activations", "dynamic"
# Sums of so many products stay below 2**31: of two signed 8-bit numbers, and of one that is less a zero point by one.
DEEPEST, DEEPEST_SPANS = 2**17 - 1, (2**31 - 1) // (255 * 128)


def mark_dynamic(node: ir.Node) -> None:
    node.metadata_props[_KEY] = _VALUE


def dynamic_weights(node: ir.Node) -> Weights | None:
    """The int8 weights of a product that is marked so, (k, columns) with a scale a column; None for all others."""
    if node.metadata_props.get(_KEY) != _VALUE or not takes_rows(node):
        return None
    weights = quantized_weights(node.inputs[1])
    if isinstance(weights, str) or (weights.scale.size > 1 and weights.axis != 1 - _depth_axis(node)):
        return None
    return Weights(weights.values.T if _depth_axis(node) else weights.values, weights.scale, 1)


def takes_rows(node: ir.Node) -> bool:
    """Whether a node multiplies rows of numbers by a matrix that an int32 accumulator is wide enough for."""
    if node.domain != "" or node.op_type not in ("Gemm", "MatMul") or int_attribute(node, "transA", 0):
        return False
    if float_attribute(node, "alpha", 1.0) <= 0:  # no scale is negative, or zero
        return False
    weights = shape_of(node.inputs[1])
    return weights is not None and len(weights) == 2 and 0 not in weights and weights[_depth_axis(node)] <= DEEPEST


def _depth_axis(node: ir.Node) -> int:
    return 1 if int_attribute(node, "transB", 0) else 0
