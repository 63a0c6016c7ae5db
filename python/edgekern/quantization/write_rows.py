"""The products that quantize their rows by themselves: their weights become integers, and the graph says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from edgekern.graph.dynamic import depth_axis, takes_rows, weight_inputs
from edgekern.graph.families import RECURRENT
from edgekern.graph.values import float_constant, label
from edgekern.graph.wide import FIRST_WIDE_OPSET
from edgekern.quantization.choose_encodings import quantize_gates, quantize_matrix, require_finite
from edgekern.quantization.config import Recipe
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.four_bits import Groups, groups_of
from edgekern.quantization.layer_inputs import LayerInputs
from edgekern.quantization.methods import GroupRounding, Method
from edgekern.quantization.rules import has_weights, is_dynamic, recipe_of
from edgekern.quantization.weights import SECOND_MOMENTS, FloatArray
from edgekern.quantization.write_qdq import QdqWriter


@dataclass
class WrittenRows:
    """What was done.

    Attributes
    ----------
    recipes : by the names of nodes
    encodings : of weights, by their names; of a Conv by groups those of its matrix (columns, k)
    without_rows : products that such a recipe was asked for and that stay float32
    eight_bits : those that 4-bit weights were asked for and that have 8-bit ones
    """

    recipes: dict[str, Recipe] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    without_rows: list[ir.Node] = field(default_factory=list)
    eight_bits: list[ir.Node] = field(default_factory=list)


def nodes_of_rows(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of a prepared graph by constant weights whose recipe is one of rows."""
    return [node for node in graph if is_dynamic(node) and has_weights(node)]


def write_rows(
    graph: ir.Graph,
    writer: QdqWriter,
    methods: Sequence[Method],
    group_rounding: GroupRounding,
    *,
    function: str,
    inputs: LayerInputs | None = None,
) -> WrittenRows:
    """Write all nodes of a prepared graph whose recipe is one of rows; ``inputs`` says what they multiply."""
    done = WrittenRows()
    for node in nodes_of_rows(graph):
        if not takes_rows(node):
            done.without_rows.append(node)
            continue
        shown = {} if inputs is None else inputs.statistics(node)
        recipe = recipe_of(node)
        groups = groups_of(recipe)
        if groups is not None and not _takes_groups(node, groups, graph):
            done.eight_bits.append(node)
            recipe, groups = "w8a8-dynamic", None
        done.recipes[label(node)] = recipe
        if groups is None:
            _write_matrices(node, writer, methods, shown, done, function)
        else:
            _write_groups(node, writer, groups, group_rounding, shown, done, function)
    return done


def _takes_groups(node: ir.Node, groups: Groups, graph: ir.Graph) -> bool:
    """Before there are blocks, groups are rows of a matrix, and all of them whole."""
    if node.op_type in RECURRENT:
        return False
    return graph.opset_imports.get("", FIRST_WIDE_OPSET) >= FIRST_WIDE_OPSET or _depth(node) % groups.size == 0


def _depth(node: ir.Node) -> int:
    weights = node.inputs[1]
    assert weights is not None
    assert weights.const_value is not None
    shape = weights.const_value.shape.numpy()
    return int(weights.const_value.size) // shape[1 - depth_axis(node)]


def _write_matrices(
    node: ir.Node,
    writer: QdqWriter,
    methods: Sequence[Method],
    shown: Mapping[str, FloatArray],
    done: WrittenRows,
    function: str,
) -> None:
    """By 8-bit weights with a scale a column, or a row of a gate."""
    quantized = quantize_gates if node.op_type in RECURRENT else partial(quantize_matrix, shown=shown)
    layers = {}
    for at in weight_inputs(node):
        value = node.inputs[at]
        assert value is not None
        layers[at] = quantized(node, value, methods, function=function)
        done.encodings.setdefault(str(value.name), layers[at].encoding)
    writer.write_dynamic(node, layers)


def _write_groups(
    node: ir.Node,
    writer: QdqWriter,
    groups: Groups,
    group_rounding: GroupRounding,
    shown: Mapping[str, FloatArray],
    done: WrittenRows,
    function: str,
) -> None:
    """By 4-bit weights with a scale a group."""
    value, depth = node.inputs[1], depth_axis(node)
    weights = float_constant(value)
    assert value is not None
    assert weights is not None
    require_finite(node, value, weights, function)
    moments = shown.get(SECOND_MOMENTS)
    columns = weights.T if depth == 0 else weights.reshape(len(weights), -1)
    layer = group_rounding(columns, groups.size, None if moments is None else moments[0])
    done.encodings.setdefault(str(value.name), layer.encoding(depth))
    writer.write_groups(node, layer, groups.row_bits)
