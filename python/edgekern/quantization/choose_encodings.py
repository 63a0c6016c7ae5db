"""Choose the encodings of a prepared graph: of activations by their ranges, of weights by their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekern.calibration import Ranges
from edgekern.calibration.observers.kinds import CHANNEL_MEANS
from edgekern.errors import QuantizationError
from edgekern.graph.families import read_range, result_range
from edgekern.graph.values import attribute, float_constant, is_float_constant
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.methods import Method
from edgekern.quantization.place_qdq import Placement, fused_bias
from edgekern.quantization.rules import is_wide, weight_bits
from edgekern.quantization.schemes import affine_signed, encode_range
from edgekern.quantization.weights import FloatArray, QuantizedWeights, WeightLayout, quantize_weights


def encode_activations(
    placement: Placement, ranges: Ranges, config: QuantConfig, *, function: str
) -> dict[ir.Value, Encoding]:
    """The encoding of every tensor that becomes integers; those that share one have the same object."""
    bits = _bits(placement)
    right = {placement.source[value] for value in map(_second, placement.weighted) if value in placement.source}
    signs = {owner: "s8" if owner in right and bits[owner] == 8 else config.activations for owner in bits}
    limits = {owner: _limits(owner, ranges, bits[owner], function) for owner in bits}
    steps = {
        value: (limits[owner][1] - limits[owner][0]) / 2 ** bits[owner] for value, owner in placement.source.items()
    }
    shared = Counter(placement.source.values())
    for owner, (lo, hi) in limits.items():
        if shared[owner] == 1 and not owner.is_graph_output():
            limits[owner] = _seen([use.node for use in owner.uses()], steps, lo, hi)
    encodings = {owner: encode_range(*limits[owner], signs[owner], bits[owner]) for owner in limits}
    return {value: encodings[owner] for value, owner in placement.source.items()}


def _bits(placement: Placement) -> dict[ir.Value, int]:
    """Of every tensor that gives others its parameters: 16 where a node that makes or reads one of them wants so."""
    bits: dict[ir.Value, int] = {}
    for value, owner in placement.source.items():
        nodes = [use.node for use in value.uses()]
        nodes += [] if (maker := value.producer()) is None else [maker]
        wide = any(is_wide(node) for node in nodes)
        bits[owner] = 16 if wide else bits.get(owner, 8)
    return bits


def _second(node: ir.Node) -> ir.Value | None:
    """What a MatMul multiplies by, where that is an activation: int8, symmetric, as weights are."""
    return node.inputs[1] if node.op_type == "MatMul" and not is_float_constant(node.inputs[1]) else None


def quantize_layer(
    node: ir.Node,
    inputs: Encoding,
    ranges: Ranges,
    methods: Sequence[Method],
    *,
    function: str,
    shown: Mapping[str, FloatArray] | None = None,
) -> QuantizedWeights:
    """The constant weights and the bias of a Conv, Gemm or MatMul as integers; ``shown`` is what samples show."""
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
            require_finite(node, value, array, function)
    layer = quantize_weights(
        weights[:, None] if weights.ndim == 1 else weights,
        layout_of(node, max(weights.ndim, 2)),
        inputs,
        methods=methods,
        bias=None if bias is None else bias.reshape(-1),
        takes_bias=not adds_later,
        statistics={**_statistics(node, str(source.name), ranges), **(shown or {})},
        bits=weight_bits(node),
    )
    layer = replace(layer, bias=None) if adds_later else layer
    if weights.ndim != 1:
        return layer
    # A MatMul by a vector is one by a matrix of one column, whose one scale is the whole vector's.
    encoding = Encoding(layer.encoding.scale[0], signed=True, bits=layer.encoding.bits)
    return replace(layer, values=layer.values[:, 0], encoding=encoding)


def quantize_matrix(
    node: ir.Node,
    weights: ir.Value,
    methods: Sequence[Method],
    *,
    function: str,
    shown: Mapping[str, FloatArray] | None = None,
) -> QuantizedWeights:
    """The constant weights of a product whose rows get their scales as they come; its bias stays float32."""
    values = float_constant(weights)
    assert values is not None
    require_finite(node, weights, values, function)
    rows = Encoding(1.0, signed=True)
    layout = layout_of(node, values.ndim)
    return quantize_weights(values, layout, rows, methods=methods, takes_bias=False, statistics=shown)


def quantize_gates(node: ir.Node, weights: ir.Value, methods: Sequence[Method], *, function: str) -> QuantizedWeights:
    """The same of an LSTM, GRU or RNN: of every direction, each row of each gate has a scale."""
    values = float_constant(weights)
    assert values is not None
    require_finite(node, weights, values, function)
    directions, rows, k = values.shape
    inputs = Encoding(1.0, signed=True)
    layer = quantize_weights(values.reshape(-1, k), WeightLayout(0, 1), inputs, methods=methods, takes_bias=False)
    scale = layer.encoding.scale
    if directions == 1:
        encoding = Encoding(scale, signed=True, axis=1)
    else:  # a row as a group of all that is in it
        encoding = Encoding(scale.reshape(directions, rows, 1), signed=True, axis=2, group_size=k)
    return replace(layer, values=layer.values.reshape(values.shape), encoding=encoding)


def encode_table(node: ir.Node, *, function: str) -> tuple[ir.Value, Encoding]:
    """The constant table of floats that a Gather takes rows out of, and one scale for all of it, of 16 bits."""
    table = node.inputs[0]
    values = float_constant(table)
    assert table is not None
    assert values is not None
    require_finite(node, table, values, function)
    return table, affine_signed(float(values.min(initial=0)), float(values.max(initial=0)), 16)


def require_finite(node: ir.Node, value: ir.Value, array: FloatArray, function: str) -> None:
    """Raise a QuantizationError where a weight or bias is none."""
    if not np.isfinite(array).all():
        raise QuantizationError(f"{function}: {node.op_type} {node.outputs[0].name!r}: {value.name!r} holds NaN or Inf")


def _limits(owner: ir.Value, ranges: Ranges, bits: int, function: str) -> tuple[float, float]:
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
    return result_range(owner.producer(), ranges[name].lo, ranges[name].hi, bits)


def _seen(readers: Sequence[ir.Node], steps: Mapping[ir.Value, float], lo: float, hi: float) -> tuple[float, float]:
    """A range without what none of its readers tells apart in 8-bit steps of its result: it needs no codes."""
    if not readers:
        return lo, hi
    told = [read_range(node, steps.get(node.outputs[0], 0.0)) for node in readers]
    least, most = min(low for low, _ in told), max(high for _, high in told)
    return min(max(lo, least), most), max(min(hi, most), least)


def _statistics(node: ir.Node, source: str, ranges: Ranges) -> dict[str, FloatArray]:
    """What calibration kept of a layer's input, where its axis 1 is what the weights multiply."""
    by_channel = node.op_type == "Conv" or (node.op_type == "Gemm" and not attribute(node, "transA", 0))
    means = ranges[source].channel_means if by_channel and source in ranges else None
    return {} if means is None else {CHANNEL_MEANS: np.array(means, np.float64)}


def layout_of(node: ir.Node, rank: int) -> WeightLayout:
    """The axes of the weights of a Conv, ConvTranspose, Gemm or MatMul, which have so many."""
    if node.op_type == "Conv":
        return WeightLayout(0, 1, groups=int(attribute(node, "group", 1)))
    if node.op_type == "ConvTranspose":
        return WeightLayout(1, 0)
    if node.op_type == "Gemm":
        return WeightLayout(0, 1) if attribute(node, "transB", 0) else WeightLayout(1, 0)
    return WeightLayout(rank - 1, rank - 2, taps_are_summed=False)
