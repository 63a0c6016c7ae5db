"""BatchNormalization on 8-bit operands: into the Conv before it, or a depthwise Conv of its own.

Other tools leave it behind a DequantizeLinear, or between a Conv on integer weights and the QuantizeLinear.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.families import batch_norm_affine
from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import (
    Quant,
    Weights,
    float_constant,
    quantization,
    quantized_weights,
    sole_consumer,
)

_LARGEST = 127
# A bias may be so many steps of the accumulator: the sum stays far below 2**31.
_MOST_BIAS_STEPS = 2.0**28
_IMAGE = 4  # axes

Vector = npt.NDArray[np.float64]


@np.errstate(divide="ignore", invalid="ignore")  # what is not finite stays as it is
def fold_norms(graph: ir.Graph) -> None:
    """Rewrite each BatchNormalization that kernels can compute, in place; shapes are known."""
    for node in list(graph):
        found = batch_norm_affine(node)
        if found is None:
            continue
        source, factor, shift = found
        producer = source.producer()
        if producer is None or source.shape is None or len(source.shape) != _IMAGE:
            continue
        if producer.op_type == "DequantizeLinear":
            _as_depthwise(graph, node, source, producer, factor, shift)
        elif producer.op_type == "Conv" and producer.domain == "" and sole_consumer(source) is node:
            _into_conv(graph, node, producer, factor, shift)


def _as_depthwise(
    graph: ir.Graph, node: ir.Node, source: ir.Value, producer: ir.Node, factor: Vector, shift: Vector
) -> None:
    """Weights of 127 or -127 with a scale for each channel are exact."""
    quant = quantization(producer)
    if isinstance(quant, str):
        return
    ones = Weights(np.full((factor.size, 1, 1, 1), _LARGEST, np.int8), np.full(1, 1 / _LARGEST, np.float32), 0)
    weights = _scaled(ones, factor, shift, quant)
    if weights is not None:
        group = ir.AttrInt64("group", factor.size)
        _replace(graph, node, [source, *_constants(graph, node, weights, shift)], [group])


def _into_conv(graph: ir.Graph, node: ir.Node, conv: ir.Node, factor: Vector, shift: Vector) -> None:
    found, data = quantized_weights(conv.inputs[1]), conv.inputs[0]
    bias_value = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = np.zeros(1, np.float32) if bias_value is None else float_constant(bias_value)
    dequantize = None if data is None else data.producer()
    if isinstance(found, str) or bias is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return
    quant = quantization(dequantize)
    if isinstance(quant, str) or (found.scale.size > 1 and found.axis != 0):
        return
    shift = bias.astype(np.float64).reshape(-1) * factor + shift
    weights = _scaled(found, factor, shift, quant)
    if weights is not None:
        _replace(graph, node, [data, *_constants(graph, node, weights, shift)], list(conv.attributes.values()))


def _scaled(weights: Weights, factor: Vector, shift: Vector, x: Quant) -> Weights | None:
    """Weights times a factor for each channel; None where -128 would have to become 128.

    Codes stay as they are but for their sign, unless a channel is so weak beside its bias that the accumulator could
    not hold that in steps of its scale.
    """
    ideal = weights.scale.astype(np.float64) * np.abs(factor)
    scale = np.maximum(ideal, np.abs(shift) / (x.scale * _MOST_BIAS_STEPS)).astype(np.float32)
    scale = np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))
    ratio = np.sign(factor) * np.where(scale == ideal.astype(np.float32), 1.0, ideal / scale)
    codes = np.rint(weights.values * ratio.reshape(-1, *[1] * (weights.values.ndim - 1)))
    return None if codes.max(initial=0) > _LARGEST else Weights(codes.astype(np.int8), scale, 0)


def _constants(graph: ir.Graph, node: ir.Node, weights: Weights, shift: Vector) -> list[ir.Value]:
    """Dequantized weights and the bias."""
    name = str(node.outputs[0].name)
    stored = new_initializer(graph, f"{name}_weight", weights.values)
    scale = new_initializer(graph, f"{name}_weight_scale", weights.scale)
    restored = ir.Node("", "DequantizeLinear", [stored, scale], [ir.AttrInt64("axis", 0)])
    restored.outputs[0].name = free_name(graph, f"{stored.name}_dequantized")
    restored.outputs[0].type, restored.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), stored.shape
    graph.insert_before(node, restored)
    return [restored.outputs[0], new_initializer(graph, f"{name}_bias", shift.astype(np.float32))]


def _replace(graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], attributes: list[ir.Attr]) -> None:
    """Let a Conv give what the node gave, under its name."""
    old = node.outputs[0]
    conv = ir.Node("", "Conv", inputs, attributes, name=node.name)
    graph.insert_before(node, conv)
    made = conv.outputs[0]
    made.type, made.shape, name = old.type, old.shape, old.name
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = name
