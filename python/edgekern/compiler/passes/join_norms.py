"""See the normalization in the nodes that exporters write out for it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgekern.graph.families import reduced_axes
from edgekern.graph.values import float_constant, is_constant, known_shape, scalar, shape_of, sole_consumer


def join_norms(graph: ir.Graph) -> None:
    """Rewrite ``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias`` as LayerNormalization, in place, and
    ``x / sqrt(mean(x^2) + epsilon) * scale`` as RMSNormalization.

    Means are over the last axis, scale and bias constants of its length. Both mean the same whatever the opset of the
    model: only kernels see them.
    """
    for kind, join in (("Div", _join), ("Mul", _join_squares)):
        for node in list(graph):
            if node.op_type == kind and node.domain == "" and node.graph is graph:
                join(graph, node)


def _join(graph: ir.Graph, div: ir.Node) -> None:
    deviation, root = div.inputs
    found = _centered(deviation)
    if found is None or deviation is None:
        return
    x, users = found
    epsilon = _epsilon(root, deviation)
    if epsilon is None or users != 2 + (epsilon[1] - 1):
        return
    scaled = sole_consumer(div.outputs[0])
    if scaled is None or scaled.op_type != "Mul" or scaled.domain != "":
        return
    shifted = sole_consumer(scaled.outputs[0])
    if shifted is None or shifted.op_type != "Add" or shifted.domain != "":
        return
    side = known_shape(x)[-1:]
    factors = []
    for node, before in ((scaled, div.outputs[0]), (shifted, scaled.outputs[0])):
        factor = next((value for value in node.inputs if value is not before), None)
        if factor is None or float_constant(factor) is None or shape_of(factor) != side:
            return
        factors.append(factor)
    attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon[0])]
    _replace(graph, shifted, ir.Node("", "LayerNormalization", [x, *factors], attributes, name=div.name))


def _join_squares(graph: ir.Graph, scaled: ir.Node) -> None:
    for at in (0, 1):
        factor, unit = scaled.inputs[at], scaled.inputs[1 - at]
        for x, root in _quotients(unit, scaled):
            epsilon = _epsilon(root, x)
            if epsilon is None or float_constant(factor) is None or shape_of(factor) != known_shape(x)[-1:]:
                continue
            attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon[0])]
            _replace(graph, scaled, ir.Node("", "RMSNormalization", [x, factor], attributes, name=scaled.name))
            return


def _quotients(unit: ir.Value | None, reader: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """``x`` and ``root`` of ``x / root``, ``x * (1 / root)`` or ``x * Reciprocal(root)`` that one node reads."""
    node = None if unit is None or sole_consumer(unit) is not reader else unit.producer()
    if node is None or node.domain != "" or node.op_type not in ("Div", "Mul"):
        return
    x, root = node.inputs
    if node.op_type == "Div":
        if x is not None and root is not None:
            yield x, root
        return
    for value, inverse in ((x, root), (root, x)):
        maker = None if inverse is None or sole_consumer(inverse) is not node else inverse.producer()
        if value is None or maker is None or maker.domain != "":
            continue
        if maker.op_type == "Div" and scalar(maker.inputs[0]) == 1 and maker.inputs[1] is not None:
            yield value, maker.inputs[1]
        elif maker.op_type == "Reciprocal" and maker.inputs[0] is not None:
            yield value, maker.inputs[0]


def _replace(graph: ir.Graph, last: ir.Node, joined: ir.Node) -> None:
    """Put one node in the place of those that end with ``last``."""
    old, new = last.outputs[0], joined.outputs[0]
    graph.insert_before(last, joined)
    name = old.name
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    makers = [value.producer() for value in last.inputs if value is not None]
    graph.remove(last, safe=True)
    new.name = name
    for maker in makers:
        if maker is not None:
            _remove_unread(graph, maker)


def _centered(deviation: ir.Value | None) -> tuple[ir.Value, int] | None:
    """``x`` of ``x - mean(x)``, and how often that is read."""
    sub = None if deviation is None else deviation.producer()
    if deviation is None or sub is None or sub.op_type != "Sub" or deviation.is_graph_output():
        return None
    x, mean = sub.inputs
    reduce = None if mean is None else mean.producer()
    if x is None or reduce is None or reduce.inputs[0] is not x or not _means_rows(reduce, x):
        return None
    return x, len(deviation.uses())


def _epsilon(root: ir.Value | None, deviation: ir.Value) -> tuple[float, int] | None:
    """Epsilon of ``sqrt(mean(deviation^2) + epsilon)``, and how often its square reads the deviation."""
    sqrt = None if root is None or sole_consumer(root) is None else root.producer()
    if sqrt is None or sqrt.op_type != "Sqrt":
        return None
    add = None if sqrt.inputs[0] is None else sqrt.inputs[0].producer()
    if add is None or add.op_type != "Add":
        return None
    at = next((i for i in (0, 1) if is_constant(add.inputs[i])), None)
    epsilon = None if at is None else scalar(add.inputs[at])
    variance = None if at is None else add.inputs[1 - at]
    reduce = None if variance is None else variance.producer()
    square = None if reduce is None or reduce.inputs[0] is None else reduce.inputs[0].producer()
    if epsilon is None or reduce is None or square is None or not _means_rows(reduce, deviation):
        return None
    if square.op_type == "Pow" and square.inputs[0] is deviation and scalar(square.inputs[1]) == 2:
        return epsilon, 1
    if square.op_type == "Mul" and square.inputs[0] is square.inputs[1] is deviation:
        return epsilon, 2
    return None


def _means_rows(node: ir.Node, x: ir.Value) -> bool:
    """Whether a node is a mean over the last axis, which it keeps."""
    shape = shape_of(x)
    if node.op_type != "ReduceMean" or node.domain != "" or shape is None or x.dtype != ir.DataType.FLOAT:
        return False
    keeps = shape_of(node.outputs[0]) == (*shape[:-1], 1)
    return keeps and len(shape) > 0 and reduced_axes(node, len(shape)) == [len(shape) - 1]


def _remove_unread(graph: ir.Graph, last: ir.Node) -> None:
    """Remove a node and those that only it has read."""
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node.graph is not graph or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        makers = {value.producer() for value in node.inputs if value is not None}
        graph.remove(node, safe=True)
        waiting += [maker for maker in makers if maker is not None]
