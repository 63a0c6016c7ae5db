"""Recipes by role: attention, embedding tables and all other layers, told apart by what they are connected to.

"mixed", "performance" and "accuracy" give each role its own recipe, and so does a recipe of 4-bit weights, which not
every layer can have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgekern.graph.dynamic import takes_rows
from edgekern.graph.families import (
    ATTENTION,
    CARRIED,
    CONVOLUTIONS,
    LOOKUP,
    OF_ACTIVATIONS,
    PRODUCTS,
    RECURRENT,
    SOFTMAX,
)
from edgekern.graph.values import is_constant, is_float_constant, shape_of
from edgekern.quantization.config import ModelRecipe, Recipe
from edgekern.quantization.four_bits import groups_of
from edgekern.quantization.regions import reads_convolution, regions
from edgekern.quantization.rules import give, has_weights, is_named, recipe_of

_NO_REALS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)  # sizes, places, masks


@dataclass(frozen=True)
class Roles:
    """The recipe of each role.

    Attributes
    ----------
    attention : of what attention multiplies by constants: its queries, keys and values, and its results
    linear : of other products in a region that attention stands in, or that no convolution gives 8-bit codes
    static : of convolutions, and of all that they give codes
    everywhere : whether ``linear`` is that of every product that takes rows, convolutions too
    """

    attention: Recipe
    linear: Recipe
    static: Recipe
    everywhere: bool = False


_BY_NAME = {
    "mixed": Roles("w4a8-g32", "w8a8-dynamic", "w8a8"),
    "performance": Roles("w4a8-g32", "w8a8-dynamic", "w8a8"),
    "accuracy": Roles("w8a8-dynamic", "w8a16", "w8a16"),
}


def choose_by_role(graph: ir.Graph, recipe: ModelRecipe, *, calibrated: bool) -> None:
    """Mark the nodes of a prepared graph by what they are, where ``recipe`` is one of roles or of 4-bit weights.

    Nodes that a rule has named are as it wants. In a region with products of rows what lies between them is float32:
    it would be rounded again. Recurrent layers quantize their rows, as they come, for 8-bit weights. ``calibrated``:
    whether there are ranges, without which a recipe of 4-bit weights leaves what takes no rows float32.
    """
    roles = _BY_NAME.get(recipe)
    if roles is None and groups_of(recipe) is not None:
        of_all: Recipe = recipe  # type: ignore[assignment]
        roles = Roles(of_all, of_all, "w8a8" if calibrated else "float32", everywhere=True)
    if roles is None:
        return
    attention = attention_products(graph)
    free = {node for node in graph if not is_named(node) and recipe_of(node) != "float32"}  # that is a front end
    for node in free:
        if node.op_type in CONVOLUTIONS:
            by_rows = roles.everywhere and has_weights(node) and (takes_rows(node) or not calibrated)
            give(node, roles.linear if by_rows else roles.static)
    for region in regions(graph):
        attends = any(node in attention for node in region)
        rows = {node for node in region if has_weights(node) and node.op_type not in RECURRENT and takes_rows(node)}
        by_rows = attends or (bool(rows) and (roles.everywhere or not any(map(reads_convolution, region))))
        for node in region & free:
            if has_weights(node) and node.op_type in RECURRENT:
                give(node, roles.linear if roles.everywhere else "w8a8-dynamic")
            elif not by_rows:
                give(node, roles.static)
            elif node in rows:
                give(node, roles.attention if node in attention else roles.linear)
            else:
                give(node, "float32")


def attention_products(graph: ir.Graph) -> set[ir.Node]:
    """The products by constants whose results attention multiplies, and the first ones that read what it gives.

    Attention is a Softmax between two products of activations, whatever lies between them, or an operator that is
    called so.
    """
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type in ATTENTION:
            operands, ends = list(node.inputs), [node]
        elif node.domain == "" and node.op_type in SOFTMAX:
            scores, ends = _scores_before(node), _mixes_behind(node)
            if not scores or not ends:
                continue
            operands = [value for product in scores for value in product.inputs]
            operands += [value for product in ends for value in product.inputs if not _comes_from(value, node)]
        else:
            continue
        found.update(_products_before(graph, operands))
        found.update(_products_behind(ends))
    return found


def embedding_tables(graph: ir.Graph) -> Iterator[ir.Node]:
    """Gathers that take rows of a constant table of floats, by indices that come at run time."""
    for node in graph:
        table = node.inputs[0] if node.op_type == LOOKUP and node.domain == "" else None
        rows = node.attributes.get("axis")
        if table is None or (rows is not None and rows.as_int() not in (0, -2)) or is_constant(node.inputs[1]):
            continue
        if is_float_constant(table) and len(shape_of(table) or ()) == 2:
            yield node


def _multiplies_activations(node: ir.Node) -> bool:
    return (
        node.op_type in OF_ACTIVATIONS
        and sum(value is not None and not is_constant(value) for value in node.inputs) > 1
    )


def _scores_before(softmax: ir.Node) -> list[ir.Node]:
    """The nearest products of activations that a Softmax is computed from."""
    return [node for node in _walk_back(softmax.inputs) if _multiplies_activations(node)]


def _mixes_behind(softmax: ir.Node) -> list[ir.Node]:
    """The nearest products of activations that read a Softmax."""
    found, seen, waiting = [], {softmax}, [softmax]
    while waiting:
        for reader in _readers(waiting.pop()):
            if reader in seen:
                continue
            seen.add(reader)
            if _multiplies_activations(reader):
                found.append(reader)
            elif not _is_product(reader):
                waiting.append(reader)
    return found


def _products_before(graph: ir.Graph, values: Sequence[ir.Value | None]) -> Iterator[ir.Node]:
    yield from (node for node in _walk_back(values) if node.graph is graph and has_weights(node))


def _products_behind(nodes: list[ir.Node]) -> Iterator[ir.Node]:
    """The first products that read what nodes give, moved but not computed with."""
    seen, waiting = set(nodes), list(nodes)
    while waiting:
        for reader in _readers(waiting.pop()):
            if reader in seen:
                continue
            seen.add(reader)
            if has_weights(reader):
                yield reader
            elif reader.op_type in CARRIED:
                waiting.append(reader)


def _walk_back(values: Sequence[ir.Value | None]) -> Iterator[ir.Node]:
    """The nodes that real values are computed from, up to the nearest product of each way, which is one of them."""
    seen: set[ir.Node] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        node = None if value is None or value.dtype in _NO_REALS else value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if not _is_product(node):
            waiting += node.inputs


def _comes_from(value: ir.Value | None, node: ir.Node) -> bool:
    return any(before is node for before in _walk_back([value]))


def _is_product(node: ir.Node) -> bool:
    return node.op_type in PRODUCTS | RECURRENT | OF_ACTIVATIONS | ATTENTION


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]
