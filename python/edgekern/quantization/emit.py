"""Write QuantizeLinear and DequantizeLinear into a prepared float graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgekern.errors import QuantizationError
from edgekern.graph.families import result_range
from edgekern.graph.values import attribute, float_constant, is_float_constant
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.placement import Placement
from edgekern.quantization.prepare import new_initializer
from edgekern.quantization.scales import (
    Affine,
    FloatArray,
    QuantizedWeights,
    WeightLayout,
    affine_s8,
    affine_u8,
    quantize_weights,
)

RangeOf = Callable[[str], tuple[float, float]]


@dataclass
class Emitter:
    """Rewrites one graph in place.

    Parameters
    ----------
    graph : ir.Graph
        Prepared by :func:`~edgekern.quantization.prepare.prepare`.
    placement : Placement
    range_of : callable
        The (lo, hi) of a float tensor by name.
    config : QuantConfig
    means : mapping of tensor name to the mean of each of its channels
        For the inputs of weighted operators; their biases then take back the mean error of the rounded weights.

    Attributes
    ----------
    widened : dict of str to list of int
        Per weighted operator (by the name of its output) the channels whose scale had to grow.
    """

    graph: ir.Graph
    placement: Placement
    range_of: RangeOf
    config: QuantConfig
    means: Mapping[str, FloatArray] = field(default_factory=dict)
    widened: dict[str, list[int]] = field(default_factory=dict)
    _parameters: dict[ir.Value, tuple[Affine, ir.Value, ir.Value]] = field(default_factory=dict)

    def run(self) -> None:
        """Quantize weights and biases, then activations."""
        for node in self.placement.weighted:
            if is_float_constant(node.inputs[1]):
                self._quantize_weights(node)
        for value in list(self.placement.source):
            if value.is_initializer():
                self._quantize_constant(value)
            else:
                self._quantize_activation(value)

    def _parameters_of(self, owner: ir.Value) -> tuple[Affine, ir.Value, ir.Value]:
        """Scale and zero point of a tensor, and the initializers that hold them: one pair for all that share it."""
        if owner not in self._parameters:
            lo, hi = self._limits(owner)
            affine = affine_u8(lo, hi) if self.config.activations == "u8" else affine_s8(lo, hi)
            scale = new_initializer(self.graph, f"{owner.name}_scale", np.array(affine.scale))
            zero = np.array(affine.zero_point, affine.dtype)
            self._parameters[owner] = affine, scale, new_initializer(self.graph, f"{owner.name}_zero_point", zero)
        return self._parameters[owner]

    def _limits(self, owner: ir.Value) -> tuple[float, float]:
        values = float_constant(owner)
        if values is not None:
            if not np.isfinite(values).all():
                raise QuantizationError(f"quantize: constant {owner.name!r} holds NaN or Inf; it has no scale")
            return float(values.min(initial=0.0)), float(values.max(initial=0.0))
        return result_range(owner.producer(), *self.range_of(str(owner.name)))

    def _quantize_activation(self, value: ir.Value) -> None:
        """Put Q and DQ behind a tensor, and let everybody read the result; a graph output keeps its name."""
        _, scale, zero_point = self._parameters_of(self.placement.source[value])
        name, producer = str(value.name), value.producer()
        is_output = value.is_graph_output() and producer is not None
        if is_output:
            value.name = f"{name}_float"
        quantize = self._node("QuantizeLinear", [value, scale, zero_point], f"{name}_quantized", value.shape)
        quantize.outputs[0].dtype = zero_point.dtype or ir.DataType.UINT8
        restored = self._node(
            "DequantizeLinear",
            [quantize.outputs[0], scale, zero_point],
            name if is_output else f"{name}_dequantized",
            value.shape,
        )
        restored.outputs[0].dtype = ir.DataType.FLOAT
        value.replace_all_uses_with(restored.outputs[0], replace_graph_outputs=is_output)
        quantize.replace_input_with(0, value)
        if producer is None:
            self.graph.insert_before(self.graph[0], (quantize, restored))
        else:
            self.graph.insert_after(producer, (quantize, restored))

    def _quantize_constant(self, value: ir.Value) -> None:
        """Replace a float constant, where an arithmetic operator reads it, by an 8-bit one and its DQ."""
        affine, scale, zero_point = self._parameters_of(self.placement.source[value])
        values, info = float_constant(value), np.iinfo(affine.dtype)
        assert values is not None
        ratio = values.astype(np.float64) / float(affine.scale)
        bytes_ = np.clip(np.rint(ratio) + affine.zero_point, info.min, info.max).astype(affine.dtype)
        stored = new_initializer(self.graph, f"{value.name}_quantized", bytes_)
        restored = self._node("DequantizeLinear", [stored, scale, zero_point], f"{value.name}_dequantized", value.shape)
        for node, index in list(value.uses()):
            if node in self.placement.integer and node not in self.placement.weighted:
                node.replace_input_with(index, restored.outputs[0])
        self.graph.insert_before(self.graph[0], restored)

    def _quantize_weights(self, node: ir.Node) -> None:
        source, weights_value, *rest = node.inputs
        assert source is not None
        assert weights_value is not None
        result, bias_value = str(node.outputs[0].name), rest[0] if rest else None
        weights, bias = float_constant(weights_value), float_constant(bias_value)
        assert weights is not None
        for value, array in ((weights_value, weights), (bias_value, bias)):
            if value is not None and array is not None and not np.isfinite(array).all():
                raise QuantizationError(f"quantize: {node.op_type} {result!r}: {value.name!r} holds NaN or Inf")
        layout, means = _layout(node, weights.ndim), self.means.get(str(source.name))
        if bias is None and means is not None and node.op_type != "MatMul":
            bias = np.zeros(weights.shape[layout.axis], np.float32)
        integers = quantize_weights(
            weights,
            layout,
            self._parameters_of(self.placement.source[source])[0],
            bias=bias,
            input_means=means,
            keep_filter_sums=self.config.rounding == "filter_sum",
        )
        if integers.widened:
            self.widened[result] = list(integers.widened)
        node.replace_input_with(1, self._restored_weights(node, str(weights_value.name), layout.axis, integers))
        if integers.bias is not None:
            name = f"{result}_bias" if bias_value is None else str(bias_value.name)
            stored = new_initializer(self.graph, f"{name}_quantized", integers.bias)
            scale = new_initializer(self.graph, f"{stored.name}_scale", integers.bias_scale)
            node.resize_inputs(3)
            node.replace_input_with(2, self._restored_constant(node, [stored, scale], 0))

    def _restored_weights(self, node: ir.Node, name: str, axis: int, integers: QuantizedWeights) -> ir.Value:
        stored = new_initializer(self.graph, f"{name}_quantized", integers.values)
        scale = new_initializer(self.graph, f"{stored.name}_scale", integers.scale)
        zeros = np.zeros(integers.scale.shape, np.int8)
        zero_point = new_initializer(self.graph, f"{stored.name}_zero_point", zeros)
        return self._restored_constant(node, [stored, scale, zero_point], axis)

    def _restored_constant(self, node: ir.Node, operands: list[ir.Value], axis: int) -> ir.Value:
        name = str(operands[0].name).replace("_quantized", "_dequantized")
        restored = self._node("DequantizeLinear", operands, name, operands[0].shape, axis=axis)
        restored.outputs[0].dtype = ir.DataType.FLOAT
        self.graph.insert_before(node, restored)
        return restored.outputs[0]

    def _node(
        self, op: str, operands: list[ir.Value], name: str, shape: ir.Shape | None, axis: int | None = None
    ) -> ir.Node:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        result = ir.Value(name=name, shape=shape)
        return ir.Node("", op, operands, attributes, outputs=[result], name=f"{name}_{op}")


def _layout(node: ir.Node, rank: int) -> WeightLayout:
    if node.op_type == "Conv":
        return WeightLayout(0, 1, groups=int(attribute(node, "group", 1)))
    if node.op_type == "Gemm":
        return WeightLayout(0, 1) if attribute(node, "transB", 0) else WeightLayout(1, 0)
    return WeightLayout(rank - 1, rank - 2, taps_are_summed=False)
