"""How a QDQ file says that a product is to quantize the rows that it reads by itself, each by its own scale.

ONNX has no operator for that. The file says it beside the node; who does not know the word multiplies float32 rows by
dequantized weights, which is the same but for the rounding of the rows.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern.graph.values import (
    Weights,
    float_attribute,
    int_attribute,
    ints_attribute,
    quantized_weights,
    shape_of,
    text_attribute,
)

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
    columns = 0 if node.op_type == "Conv" else 1 - _depth_axis(node)
    if isinstance(weights, str) or (weights.scale.size > 1 and weights.axis != columns):
        return None
    values = weights.values.reshape(len(weights.values), -1)
    return Weights(values.T if columns == 0 else values, weights.scale, 1)


def takes_rows(node: ir.Node) -> bool:
    """Whether a node multiplies rows of numbers by a matrix that an int32 accumulator is wide enough for."""
    weights = shape_of(node.inputs[1]) if node.domain == "" and node.op_type in ("Conv", "Gemm", "MatMul") else None
    if weights is None or 0 in weights:
        return False
    if node.op_type == "Conv":
        return _reads_windows_side_by_side(node, weights[2:]) and math.prod(weights[1:]) <= DEEPEST
    if int_attribute(node, "transA", 0) or float_attribute(node, "alpha", 1.0) <= 0:  # no scale is negative, or zero
        return False
    return len(weights) == 2 and weights[_depth_axis(node)] <= DEEPEST


def _reads_windows_side_by_side(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether a Conv reads each number once, for all its channels: its windows are rows of a matrix."""
    ones, image = [1] * len(kernel), node.inputs[0]
    if int_attribute(node, "group", 1) != 1 or text_attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if any(ints_attribute(node, "pads", [])) or ints_attribute(node, "strides", ones) != list(kernel):
        return False
    if image is not None and image.shape is not None:
        sides = image.shape[2:]
        if len(sides) != len(kernel):
            return False
        if any(isinstance(side, int) and side % size != 0 for side, size in zip(sides, kernel, strict=True)):
            return False
    return bool(kernel) and (ints_attribute(node, "dilations", ones) == ones or set(kernel) == {1})


def _depth_axis(node: ir.Node) -> int:
    return 1 if int_attribute(node, "transB", 0) else 0
