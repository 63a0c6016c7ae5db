"""Write onnxruntime's DynamicQuantizeLSTM as an LSTM on dequantized weights that quantizes the rows it multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekern.graph.dynamic import mark_dynamic
from edgekern.graph.skeleton import Skeleton

Array = npt.NDArray[Any]
_NAME, _DOMAIN = "DynamicQuantizeLSTM", "com.microsoft"
_LSTM_INPUTS = 8
_MOST = 127  # of a code


def expand_quantized_lstms(model: Skeleton) -> None:
    """Replace these nodes in place, where their weights are constant.

    onnxruntime quantizes the whole input, and the whole state of each step, by one scale; here every row has its own.
    Weights keep their codes where a zero point leaves them within int8; else the row gets a wider scale.
    """
    graph = model.proto.graph
    if not any(_is_quantized_lstm(node) for node in graph.node):
        return
    small = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        made = _expanded(model, small, node) if _is_quantized_lstm(node) else None
        nodes += [node] if made is None else made
    del graph.node[:]
    graph.node.extend(nodes)


def _is_quantized_lstm(node: onnx.NodeProto) -> bool:
    return node.op_type == _NAME and node.domain == _DOMAIN


def _expanded(model: Skeleton, small: dict[str, onnx.TensorProto], node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    names = [*node.input, *[""] * (12 - len(node.input))]

    def constant(name: str) -> Array | None:
        if name in model.weights:
            return model.weights[name].array()
        return numpy_helper.to_array(small[name]) if name in small else None

    made, inputs = [], names[:_LSTM_INPUTS]
    for at, (scale_at, zero_at) in ((1, (8, 9)), (2, (10, 11))):
        codes, scale, zero = (constant(names[i]) for i in (at, scale_at, zero_at))
        if codes is None or scale is None or (zero is None and names[zero_at]):
            return None
        zero = np.zeros(1, np.int8) if zero is None else zero
        if (
            codes.ndim != 3
            or codes.dtype not in (np.int8, np.uint8)
            or not _fits(codes, scale)
            or not _fits(codes, zero)
        ):
            return None  # onnxruntime says what is wrong about it
        rows, scales = _rows(codes, scale, zero)
        prefix = f"{next(filter(None, node.output))}.edgekern.{'wr'[at - 1]}"
        model.add_constant(rows.reshape(-1, rows.shape[-1]), f"{prefix}.codes")
        model.add_constant(scales.reshape(-1), f"{prefix}.scale")
        model.add_constant(np.array(rows.shape), f"{prefix}.shape")
        dequantized = [f"{prefix}.codes", f"{prefix}.scale"]
        made.append(helper.make_node("DequantizeLinear", dequantized, [f"{prefix}.rows"], axis=0))
        inputs[at] = f"{prefix}.weights"
        made.append(helper.make_node("Reshape", [f"{prefix}.rows", f"{prefix}.shape"], [inputs[at]]))
    while not inputs[-1]:
        inputs.pop()
    lstm = helper.make_node("LSTM", inputs, node.output, name=node.name)
    lstm.attribute.extend(node.attribute)
    mark_dynamic(lstm)
    return [*made, lstm]


def _fits(codes: Array, given: Array) -> bool:
    """Whether there is one for all weights, one a direction, or one a row."""
    return given.size in (1, codes.shape[0], codes.shape[0] * codes.shape[2])


def _rows(codes: Array, scale: Array, zero: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights (directions, k, rows) as int8 (directions, rows, k), and a scale for each direction and row."""
    directions, _, count = codes.shape
    scales, zeros = (
        np.broadcast_to(given.reshape(directions, -1) if given.size > 1 else given.reshape(1, 1), (directions, count))
        for given in (scale.astype(np.float32), zero.astype(np.int32))
    )
    steps = codes.transpose(0, 2, 1).astype(np.int32) - zeros[..., None]
    inside = ((steps >= -_MOST - 1) & (steps <= _MOST)).all(axis=-1)
    factor = np.where(inside, 1.0, np.abs(steps).max(axis=-1, initial=0) / _MOST)
    rows = np.rint(steps / factor[..., None]).astype(np.int8)
    return np.ascontiguousarray(rows), (scales * factor).astype(np.float32)
