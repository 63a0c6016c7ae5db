"""How a QDQ file says that a product is to quantize the rows that it reads by itself, each by its own scale.

ONNX has no operator for that. The file says it beside the node; who does not know the word multiplies float32 rows by
dequantized weights, which is the same but for the rounding of the rows. LSTM, GRU and RNN multiply rows of their input
and, step by step, those of their state.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgekern.graph.families import RECURRENT
from edgekern.graph.values import (
    Weights,
    float_attribute,
    int_attribute,
    known_shape,
    quantized_weights,
    shape_of,
)

_KEY, _VALUE = "edgekern.activations", "dynamic"
# Sums of so many products stay below 2**31: of two signed 8-bit numbers, and of one that is less a zero point by one.
DEEPEST, DEEPEST_SPANS = 2**17 - 1, (2**31 - 1) // (255 * 128)
_PEEPHOLES = 7  # which input of an LSTM


def mark_dynamic(node: ir.Node | onnx.NodeProto) -> None:
    if isinstance(node, ir.Node):
        node.metadata_props[_KEY] = _VALUE
    else:
        node.metadata_props.add(key=_KEY, value=_VALUE)


def weight_inputs(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of a product that may quantize its rows are the weights."""
    return (1, 2) if node.op_type in RECURRENT else (1,)


def takes_rows(node: ir.Node) -> bool:
    """Whether a node multiplies rows of numbers by matrices that an int32 accumulator is wide enough for."""
    if node.domain != "" or node.op_type not in {"Gemm", "MatMul", *RECURRENT} or int_attribute(node, "transA", 0):
        return False
    if float_attribute(node, "alpha", 1.0) <= 0:  # no scale is negative, or zero
        return False
    recurrent = node.op_type in RECURRENT
    if recurrent and len(node.inputs) > _PEEPHOLES and node.inputs[_PEEPHOLES] is not None:
        return False
    for at in weight_inputs(node):
        weights = shape_of(node.inputs[at])
        if weights is None or len(weights) != (3 if recurrent else 2) or 0 in weights:
            return False
        if weights[2 if recurrent else _depth_axis(node)] > DEEPEST:
            return False
    return True


def is_dynamic(node: ir.Node) -> bool:
    """Whether a product is marked so, and its weights are what that needs."""
    return (dynamic_gates if node.op_type in RECURRENT else dynamic_weights)(node) is not None


def dynamic_weights(node: ir.Node) -> Weights | None:
    """The int8 weights of a matrix product that is marked so, (k, columns) with a scale a column; None of others."""
    if node.metadata_props.get(_KEY) != _VALUE or node.op_type in RECURRENT or not takes_rows(node):
        return None
    weights = quantized_weights(node.inputs[1])
    if isinstance(weights, str) or (weights.scale.size > 1 and weights.axis != 1 - _depth_axis(node)):
        return None
    return Weights(weights.values.T if _depth_axis(node) else weights.values, weights.scale, 1)


def dynamic_gates(node: ir.Node) -> tuple[Weights, Weights] | None:
    """The same of an LSTM, GRU or RNN, (directions, rows, k) with a scale a row: of its input, and of its state."""
    if node.metadata_props.get(_KEY) != _VALUE or node.op_type not in RECURRENT or not takes_rows(node):
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


def _depth_axis(node: ir.Node) -> int:
    return 1 if int_attribute(node, "transB", 0) else 0
