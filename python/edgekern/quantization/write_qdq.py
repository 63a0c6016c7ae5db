"""Write QuantizeLinear and DequantizeLinear into a prepared float graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.dynamic import depth_axis, mark_dynamic
from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import float_constant
from edgekern.graph.wide import CONTRIB, FIRST_WIDE_OPSET
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.four_bits import BITS, GroupedWeights
from edgekern.quantization.place_qdq import Placement
from edgekern.quantization.rules import stays_float
from edgekern.quantization.weights import QuantizedWeights

_YOUNG = frozenset({ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.INT4})


class QdqWriter:
    """Rewrites one graph in place.

    Parameters
    ----------
    graph : ir.Graph
        Prepared by :func:`~edgekern.quantization.prepare.prepare`.
    placement : Placement
    encodings : mapping of the tensors that become 8-bit to their encodings

    Attributes
    ----------
    stands_for : dict
        Of every tensor that nodes read dequantized the name of the float one that it stands for, "" for none.
    """

    def __init__(self, graph: ir.Graph, placement: Placement, encodings: Mapping[ir.Value, Encoding]) -> None:
        self._graph, self._placement, self._encodings = graph, placement, encodings
        self._parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._tables: dict[ir.Value, tuple[ir.Value, ...]] = {}  # by those of floats: one of codes for all who read it
        self.stands_for: dict[str, str] = {}

    def write_weights(self, node: ir.Node, layer: QuantizedWeights) -> None:
        """Let a Conv, Gemm or MatMul read its weights and bias as integers and their DQ."""
        source, weights_value, *rest = node.inputs
        assert source is not None
        assert weights_value is not None
        bias_value = rest[0] if rest else None
        self._parameters_of(source)  # first, so that they stand before the weights in the file
        restored = self._restored_weights(node, str(weights_value.name), layer)
        self.stands_for[str(restored.name)] = str(weights_value.name)
        node.replace_input_with(1, restored)
        if layer.bias is not None:
            name = f"{node.outputs[0].name}_bias" if bias_value is None else str(bias_value.name)
            stored = new_initializer(self._graph, f"{name}_quantized", layer.bias)
            scale = new_initializer(self._graph, f"{stored.name}_scale", layer.bias_scale)
            node.resize_inputs(3)
            restored = self._restored_constant(node, [stored, scale], 0)
            self.stands_for[str(restored.name)] = "" if bias_value is None else str(bias_value.name)
            node.replace_input_with(2, restored)

    def write_dynamic(self, node: ir.Node, layers: Mapping[int, QuantizedWeights]) -> None:
        """Let a product read weights, by its inputs, as integers and their DQ, and quantize its rows by itself."""
        for at, layer in layers.items():
            weights = node.inputs[at]
            assert weights is not None
            restored = self._restored_weights(node, str(weights.name), layer)
            self.stands_for[str(restored.name)] = str(weights.name)
            node.replace_input_with(at, restored)
        mark_dynamic(node)

    def write_groups(self, node: ir.Node, layer: GroupedWeights, row_bits: int) -> None:
        """The same of weights of 4 bits with a scale a group, which are blocks of DequantizeLinear.

        Before it has blocks (opset 21), onnxruntime's own restores groups as rows of a matrix, and a Reshape joins
        those of a column.
        """
        weights = node.inputs[1]
        assert weights is not None
        name, depth, shape = str(weights.name), depth_axis(node), weights.shape
        columns, k = layer.codes.shape
        blocks = self._graph.opset_imports.get("", FIRST_WIDE_OPSET) >= FIRST_WIDE_OPSET
        turned = depth == 0  # the columns of a MatMul are its last axis
        parts: list[npt.NDArray[Any]] = [layer.codes, layer.scale, *([] if layer.zero is None else [layer.zero])]
        if not blocks:
            parts = [layer.codes.reshape(-1, layer.group), *(part.reshape(-1) for part in parts[1:])]
        elif turned:
            parts = [np.ascontiguousarray(part.T) for part in parts]
        ends = ("quantized", "quantized_scale", "quantized_zero_point")
        stored = [
            new_initializer(
                self._graph, f"{name}_{end}", part if end == ends[1] else part.astype(ir.DataType.INT4.numpy())
            )
            for end, part in zip(ends, parts, strict=False)
        ]
        axis = depth if blocks else 0
        restored = self._restored_constant(node, stored, axis, layer.group if blocks else None)
        if not blocks or node.op_type == "Conv":
            sides = (columns, k) if node.op_type != "Conv" or shape is None else tuple(shape.numpy())
            restored = self._reshaped(node, restored, sides)
        if not blocks and turned:
            transpose = self._node(
                "Transpose", [restored], free_name(self._graph, f"{restored.name}_turned"), ir.Shape((k, columns))
            )
            self._graph.insert_before(node, transpose)
            restored = transpose.outputs[0]
        self.stands_for[str(restored.name)] = name
        node.replace_input_with(1, restored)
        mark_dynamic(node, row_bits)

    def write_table(self, node: ir.Node, table: ir.Value, encoding: Encoding) -> None:
        """Let a Gather take codes out of a table, and restore what it took."""
        taken = node.outputs[0]
        if table not in self._tables:
            values = float_constant(table)
            assert values is not None
            codes = new_initializer(self._graph, f"{table.name}_quantized", encoding.quantize(values))
            scale = new_initializer(self._graph, f"{codes.name}_scale", encoding.scale)
            zeros = encoding.zero_point.astype(encoding.dtype)
            self._tables[table] = codes, scale, new_initializer(self._graph, f"{codes.name}_zero_point", zeros)
        stored, scale, zero = self._tables[table]
        name = str(taken.name)
        taken.name = free_name(self._graph, f"{name}_quantized")
        node.replace_input_with(0, stored)
        restored = self._node("DequantizeLinear", [stored, scale, zero], name, taken.shape)
        taken.replace_all_uses_with(restored.outputs[0], replace_graph_outputs=True)
        restored.replace_input_with(0, taken)
        taken.type = ir.TensorType(stored.dtype or ir.DataType.INT16)
        self._graph.insert_after(node, restored)

    def write_activations(self) -> None:
        """Put Q and DQ behind every activation, and codes in the place of constants that arithmetic operators read."""
        for value in self._placement.source:
            if value.is_initializer():
                self._quantize_constant(value)
            else:
                self._quantize_activation(value)

    def _parameters_of(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of a tensor as initializers: one pair for all that share it."""
        owner = self._placement.source[value]
        if owner not in self._parameters:
            encoding = self._encodings[owner]
            scale = new_initializer(self._graph, f"{owner.name}_scale", encoding.scale)
            zero = encoding.zero_point.astype(encoding.dtype)
            self._parameters[owner] = scale, new_initializer(self._graph, f"{owner.name}_zero_point", zero)
        return self._parameters[owner]

    def _quantize_activation(self, value: ir.Value) -> None:
        """Put Q and DQ behind a tensor, and let everybody read the result; a graph output keeps its name.

        Nodes that are to compute in float32 read the tensor as it was before its rounding.
        """
        scale, zero_point = self._parameters_of(value)
        name, producer = str(value.name), value.producer()
        is_output = value.is_graph_output() and producer is not None
        if is_output:
            value.name = free_name(self._graph, f"{name}_float")
        codes = zero_point.dtype or ir.DataType.UINT8
        quantized = free_name(self._graph, f"{name}_quantized")
        quantize = self._node("QuantizeLinear", [value, scale, zero_point], quantized, value.shape, codes)
        restored = self._node(
            "DequantizeLinear",
            [quantize.outputs[0], scale, zero_point],
            name if is_output else free_name(self._graph, f"{name}_dequantized"),
            value.shape,
        )
        self.stands_for[str(restored.outputs[0].name)] = str(value.name)
        for node, index in [use for use in value.uses() if use.node is not quantize and not stays_float(use.node)]:
            node.replace_input_with(index, restored.outputs[0])
        if is_output:  # an input may be one, too: then that is what the caller gave
            for at, output in enumerate(self._graph.outputs):
                if output is value:
                    self._graph.outputs[at] = restored.outputs[0]
        if producer is None:
            self._graph.insert_before(self._graph[0], (quantize, restored))
        else:
            self._graph.insert_after(producer, (quantize, restored))

    def _quantize_constant(self, value: ir.Value) -> None:
        """Replace a float constant, where an arithmetic operator reads it, by an 8-bit one and its DQ."""
        scale, zero_point = self._parameters_of(value)
        values = float_constant(value)
        assert values is not None
        codes = self._encodings[value].quantize(values)
        stored = new_initializer(self._graph, f"{value.name}_quantized", codes)
        name = free_name(self._graph, f"{value.name}_dequantized")
        restored = self._node("DequantizeLinear", [stored, scale, zero_point], name, value.shape)
        self.stands_for[name] = str(value.name)
        for node, index in list(value.uses()):
            if node in self._placement.integer and node not in self._placement.weighted:
                node.replace_input_with(index, restored.outputs[0])
        self._graph.insert_before(self._graph[0], restored)

    def _restored_weights(self, node: ir.Node, name: str, layer: QuantizedWeights) -> ir.Value:
        encoding, values = layer.encoding, layer.values
        scales, zeros, axis = encoding.scale, encoding.zero_point.astype(encoding.dtype), encoding.axis
        by_rows = encoding.group_size is not None
        if by_rows:  # scales along two axes are scales along their product
            values, scales, zeros, axis = values.reshape(-1, values.shape[-1]), scales.reshape(-1), zeros.reshape(-1), 0
        if encoding.bits == BITS:
            values, zeros = (part.astype(ir.DataType.INT4.numpy()) for part in (values, zeros))
        stored = new_initializer(self._graph, f"{name}_quantized", values)
        scale = new_initializer(self._graph, f"{stored.name}_scale", scales)
        zero_point = new_initializer(self._graph, f"{stored.name}_zero_point", zeros)
        restored = self._restored_constant(node, [stored, scale, zero_point], axis)
        return self._reshaped(node, restored, layer.values.shape) if by_rows else restored

    def _reshaped(self, node: ir.Node, restored: ir.Value, sides: tuple[int, ...]) -> ir.Value:
        """A constant in other axes, before a node that reads it so."""
        shape = new_initializer(self._graph, f"{restored.name}_shape", np.array(sides, np.int64))
        reshape = self._node("Reshape", [restored, shape], f"{restored.name}_reshaped", ir.Shape(sides))
        self._graph.insert_before(node, reshape)
        return reshape.outputs[0]

    def _restored_constant(
        self, node: ir.Node, operands: list[ir.Value], axis: int | None, block_size: int | None = None
    ) -> ir.Value:
        name = free_name(self._graph, str(operands[0].name).replace("_quantized", "_dequantized"))
        restored = self._node("DequantizeLinear", operands, name, operands[0].shape, axis=axis, block_size=block_size)
        self._graph.insert_before(node, restored)
        return restored.outputs[0]

    def _node(
        self,
        op: str,
        operands: list[ir.Value],
        name: str,
        shape: ir.Shape | None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        *,
        axis: int | None = None,
        block_size: int | None = None,
    ) -> ir.Node:
        sizes = {"axis": axis, "block_size": block_size}
        attributes = [ir.AttrInt64(key, size) for key, size in sizes.items() if size is not None]
        result = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
        domain = self._domain_of(operands[0].dtype, dtype)
        return ir.Node(domain, op, operands, attributes, outputs=[result], name=free_name(self._graph, f"{name}_{op}"))

    def _domain_of(self, *types: ir.DataType | None) -> str:
        """Whose operator it is: 16 and 4 bits are onnxruntime's own before ONNX has them."""
        imports = self._graph.opset_imports
        if _YOUNG.isdisjoint(types) or imports.get("", FIRST_WIDE_OPSET) >= FIRST_WIDE_OPSET:
            return ""
        imports.setdefault(CONTRIB, 1)
        return CONTRIB
