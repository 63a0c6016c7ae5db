"""Choose the encodings of a prepared graph: of activations by their ranges, of weights by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekern.calibration import Ranges
from edgekern.calibration.observers.kinds import CHANNEL_MEANS
from edgekern.errors import QuantizationError
from edgekern.graph.families import result_range
from edgekern.graph.values import attribute, float_constant, is_float_constant
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.methods import Method
from edgekern.quantization.place_qdq import Placement, fused_bias
from edgekern.quantization.schemes import encode_range
from edgekern.quantization.weights import FloatArray, QuantizedWeights, WeightLayout, quantize_weights


def encode_activations(
    placement: Placement, ranges: Ranges, config: QuantConfig, *, function: str
) -> dict[ir.Value, Encoding]:
    """The encoding of every tensor that becomes 8-bit; those that share one have the same object."""
    owners = dict.fromkeys(placement.source.values())
    right = {placement.source[value] for value in map(_second, placement.weighted) if value in placement.source}
    encodings = {
        owner: encode_range(*_limits(owner, ranges, function), "s8" if owner in right else config.activations)
        for owner in owners
    }
    return {value: encodings[owner] for value, owner in placement.source.items()}


def _second(node: ir.Node) -> ir.Value | None:
    """What a MatMul multiplies by, where that is an activation: int8, symmetric, as weights are."""
    return node.inputs[1] if node.op_type == "MatMul" and not is_float_constant(node.inputs[1]) else None


def quantize_layer(
    node: ir.Node, inputs: Encoding, ranges: Ranges, methods: Sequence[Method], *, function: str
) -> QuantizedWeights:
    """The constant weights and the bias of a Conv, Gemm or MatMul as integers."""
    source, weights_value, *rest = node.inputs
    assert source is not None
    if node.op_type == "ConvTranspose":
        methods = ()  # a result sees some of the taps alone: neither their sum nor the mean that they shift is its own
    adds_later = node.op_type == "MatMul"  # it has no bias of its own, but may get one in the accumulator
    bias_value = fused_bias(node) if adds_later else rest[0] if rest else None
    weights, bias = float_constant(weights_value), float_constant(bias_value)
    assert weights is not None
    for value, array in ((weights_value, weights), (bias_value, bias)):
        if value is not None and array is not None:
            _require_finite(node, value, array, function)
    layer = quantize_weights(
        weights[:, None] if weights.ndim == 1 else weights,
        _layout(node, max(weights.ndim, 2)),
        inputs,
        methods=methods,
        bias=None if bias is None else bias.reshape(-1),
        takes_bias=not adds_later,
        statistics=_statistics(node, str(source.name), ranges),
    )
    layer = replace(layer, bias=None) if adds_later else layer
    if weights.ndim != 1:
        return layer
    # A MatMul by a vector is one by a matrix of one column, whose one scale is the whole vector's.
    encoding = Encoding(layer.encoding.scale[0], signed=True)
    return replace(layer, values=layer.values[:, 0], encoding=encoding)


def quantize_matrix(node: ir.Node, weights: ir.Value, methods: Sequence[Method], *, function: str) -> QuantizedWeights:
    """The constant weights of a Gemm or MatMul whose rows get their scales as they come; its bias stays float32."""
    values = float_constant(weights)
    assert values is not None
    _require_finite(node, weights, values, function)
    rows = Encoding(1.0, signed=True)
    return quantize_weights(values, _layout(node, 2), rows, methods=methods, takes_bias=False)


def _require_finite(node: ir.Node, value: ir.Value, array: FloatArray, function: str) -> None:
    if not np.isfinite(array).all():
        raise QuantizationError(f"{function}: {node.op_type} {node.outputs[0].name!r}: {value.name!r} holds NaN or Inf")


def _limits(owner: ir.Value, ranges: Ranges, function: str) -> tuple[float, float]:
    values = float_constant(owner)
    if values is not None:
        if not np.isfinite(values).all():
            raise QuantizationError(f"{function}: constant {owner.name!r} holds NaN or Inf; it has no scale")
        return float(values.min(initial=0.0)), float(values.max(initial=0.0))
    name = str(owner.name)
    if name not in ranges:
        raise QuantizationError(
            f"{function}: ranges lack tensor {name!r}, which becomes 8-bit; observe it when calibrating, "
            "with data that reaches it"
        )
    return result_range(owner.producer(), ranges[name].lo, ranges[name].hi)


def _statistics(node: ir.Node, source: str, ranges: Ranges) -> dict[str, FloatArray]:
    """What calibration kept of a layer's input, where its axis 1 is what the weights multiply."""
    by_channel = node.op_type == "Conv" or (node.op_type == "Gemm" and not attribute(node, "transA", 0))
    means = ranges[source].channel_means if by_channel and source in ranges else None
    return {} if means is None else {CHANNEL_MEANS: np.array(means, np.float64)}


def _layout(node: ir.Node, rank: int) -> WeightLayout:
    if node.op_type == "Conv":
        return WeightLayout(0, 1, groups=int(attribute(node, "group", 1)))
    if node.op_type == "ConvTranspose":
        return WeightLayout(1, 0)
    if node.op_type == "Gemm":
        return WeightLayout(0, 1) if attribute(node, "transB", 0) else WeightLayout(1, 0)
    return WeightLayout(rank - 1, rank - 2, taps_are_summed=False)
