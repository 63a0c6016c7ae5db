"""How a QDQ file says that a product is to quantize the rows that it reads by itself, each by its own scale.

ONNX has no operator for that. The file says it beside the node; who does not know the word multiplies float32 rows by
dequantized weights, which is the same but for the rounding of the rows. LSTM, GRU and RNN multiply rows of their input
and, step by step, those of their state.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from edgekern.graph.families import RECURRENT
from edgekern.graph.group_weights import GroupWeights, group_weights_behind
from edgekern.graph.values import (
    Weights,
    float_attribute,
    int_attribute,
    ints_attribute,
    known_shape,
    quantized_weights,
    shape_of,
    text_attribute,
)

_KEY = "edgekern.activations"
_VALUES = {8: "dynamic", 16: "dynamic16"}  # by the bits of a row's codes
# Sums of so many products stay below 2**31: of two signed 8-bit numbers, and of one that is less a zero point by one.
DEEPEST, DEEPEST_SPANS = 2**17 - 1, (2**31 - 1) // (255 * 128)
_PEEPHOLES = 7  # which input of an LSTM


def mark_dynamic(node: ir.Node | onnx.NodeProto, bits: int = 8) -> None:
    """Let a product quantize its rows by itself: to 8 bits or, by 4-bit weights alone, to 16."""
    if isinstance(node, ir.Node):
        node.metadata_props[_KEY] = _VALUES[bits]
    else:
        node.metadata_props.add(key=_KEY, value=_VALUES[bits])


def is_marked(node: onnx.NodeProto) -> bool:
    """Whether a node of a file is to quantize its rows by itself; :func:`is_dynamic` knows whether it can."""
    return any(entry.key == _KEY and entry.value in _VALUES.values() for entry in node.metadata_props)


def row_bits(node: ir.Node) -> int:
    """How many bits the rows of a product that is marked so get; 0 of others."""
    value = node.metadata_props.get(_KEY)
    return next((bits for bits, word in _VALUES.items() if word == value), 0)


def weight_inputs(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of a product that may quantize its rows are the weights."""
    return (1, 2) if node.op_type in RECURRENT else (1,)


def takes_rows(node: ir.Node) -> bool:
    """Whether a node multiplies rows of numbers by matrices that an int32 accumulator is wide enough for."""
    if node.domain != "" or node.op_type not in {"Conv", "Gemm", "MatMul", *RECURRENT}:
        return False
    shapes = [shape_of(node.inputs[at]) for at in weight_inputs(node)]
    if any(shape is None or 0 in shape for shape in shapes):
        return False
    weights = [shape or () for shape in shapes]
    if node.op_type in RECURRENT:
        if len(node.inputs) > _PEEPHOLES and node.inputs[_PEEPHOLES] is not None:
            return False
        return all(len(shape) == 3 and shape[2] <= DEEPEST for shape in weights)
    if node.op_type == "Conv":
        return _reads_windows_side_by_side(node, weights[0][2:]) and math.prod(weights[0][1:]) <= DEEPEST
    if int_attribute(node, "transA", 0) or float_attribute(node, "alpha", 1.0) <= 0:  # no scale is negative, or zero
        return False
    return len(weights[0]) == 2 and weights[0][depth_axis(node)] <= DEEPEST


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


def is_dynamic(node: ir.Node) -> bool:
    """Whether a product is marked so, and its weights are what that needs."""
    if node.op_type in RECURRENT:
        return dynamic_gates(node) is not None
    return dynamic_weights(node) is not None or group_weights(node) is not None


def dynamic_weights(node: ir.Node) -> Weights | None:
    """The int8 weights of a matrix product that is marked so, (k, columns) with a scale a column; None of others."""
    if row_bits(node) != 8 or node.op_type in RECURRENT or not takes_rows(node):
        return None
    weights = quantized_weights(node.inputs[1])
    columns = 1 - depth_axis(node)
    if isinstance(weights, str) or (weights.scale.size > 1 and weights.axis != columns):
        return None
    values = weights.values.reshape(len(weights.values), -1)
    return Weights(values.T if columns == 0 else values, weights.scale, 1)


def group_weights(node: ir.Node) -> GroupWeights | None:
    """The 4-bit weights, (k, columns) with a scale a group, of a product that is marked so; None of others."""
    marked = row_bits(node) and node.op_type not in RECURRENT and takes_rows(node)
    return group_weights_behind(node.inputs[1], depth_axis(node)) if marked else None


def dynamic_gates(node: ir.Node) -> tuple[Weights, Weights] | None:
    """The same of an LSTM, GRU or RNN, (directions, rows, k) with a scale a row: of its input, and of its state."""
    if row_bits(node) != 8 or node.op_type not in RECURRENT or not takes_rows(node):
        return None
    of_input, of_state = (_rows_of_gates(node.inputs[at]) for at in weight_inputs(node))
    return None if of_input is None or of_state is None else (of_input, of_state)


def _rows_of_gates(value: ir.Value | None) -> Weights | None:
    """Weights with a scale a row: two directions have theirs in one column, and are told apart by a Reshape."""
    shape = known_shape(value)
    maker = None if value is None else value.producer()
    weights = quantized_weights(maker.inputs[0] if maker is not None and maker.op_type == "Reshape" else value)
    if isinstance(weights, str) or weights.values.shape[-1:] != shape[-1:]:
        return None
    sides = [1] * (weights.values.ndim - 1)
    if weights.scale.size > 1:
        if weights.axis == len(sides):
            return None
        sides[weights.axis] = weights.scale.size
    scale = np.broadcast_to(weights.scale.reshape(sides), weights.values.shape[:-1]).reshape(shape[:-1])
    return Weights(weights.values.reshape(shape), scale, 1)


def depth_axis(node: ir.Node) -> int:
    """Along which axis of its weights a Gemm or MatMul sums; a Conv along all but the first, as one."""
    return 1 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else 0
