"""Write the Einsums of an attention as MatMuls, so that one pair of eyes sees it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgekern.graph.values import is_constant, known_shape, text_attribute

# What stands between the product that gives scores and their Softmax.
_BETWEEN = frozenset({"Add", "Where", "Mul", "Div", "Reshape", "Squeeze", "Unsqueeze"})


def rewrite_einsum(graph: ir.Graph) -> None:
    """Rewrite an Einsum of Softmax's result, and the one that Softmax's scores come from, in place.

    A product of two tensors over one letter, each of which brings one letter of its own, is a MatMul between
    Transposes, which cost nothing where an attention reads and writes through them.
    """
    for node in list(graph):
        softmax = None if node.op_type != "Einsum" or node.inputs[0] is None else node.inputs[0].producer()
        if softmax is None or softmax.op_type != "Softmax":
            continue
        for einsum in (node, *_scores(softmax.inputs[0])):
            _rewrite(graph, einsum)


def _scores(value: ir.Value | None) -> Iterator[ir.Node]:
    """The Einsums that lead to a value."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is not None and node.op_type == "Einsum":
            yield node
        elif node is not None and node.op_type in _BETWEEN:
            waiting += [operand for operand in node.inputs if not is_constant(operand)]


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    left, _, result = text_attribute(node, "equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not "".join([*terms, result]).isalpha() or any(map(is_constant, node.inputs)):
        return
    a, b = terms
    sizes = [
        pair
        for term, value in zip(terms, node.inputs, strict=True)
        for pair in zip(term, known_shape(value), strict=True)
    ]
    size = dict(sizes)
    if len({*sizes}) != len(size) or any(len({*term}) != len(term) for term in (a, b, result)):
        return  # sizes that are broadcast, and diagonals
    batch = "".join(letter for letter in result if letter in a and letter in b)
    summed, row, column = set(a) & set(b) - set(result), set(a) - set(b), set(b) - set(a)
    if not len(summed) == len(row) == len(column) == 1 or set(result) != {*batch} | row | column:
        return
    [k], [m], [n] = summed, row, column
    inputs = [
        _turned(graph, node, value, term, wanted)
        for value, term, wanted in zip(node.inputs, terms, (batch + m + k, batch + k + n), strict=True)
    ]
    product = ir.Node("", "MatMul", inputs, name=node.name)
    graph.insert_before(node, product)
    made, old = product.outputs[0], node.outputs[0]
    made.name, made.type = f"{old.name}/MatMul", old.type
    made.shape = ir.Shape([size[letter] for letter in batch + m + n])
    made = _turned(graph, node, made, batch + m + n, result)
    name = old.name
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = name


def _turned(graph: ir.Graph, before: ir.Node, value: ir.Value | None, letters: str, wanted: str) -> ir.Value:
    """A value with its axes in another order."""
    assert value is not None
    if letters == wanted:
        return value
    perm = [letters.index(letter) for letter in wanted]
    node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", perm)], name=f"{before.name}/{wanted}")
    graph.insert_before(before, node)
    turned = node.outputs[0]
    turned.name, turned.type = f"{before.outputs[0].name}/{wanted}", value.type
    turned.shape = ir.Shape([known_shape(value)[axis] for axis in perm])
    return turned
