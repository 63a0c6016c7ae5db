"""ONNX's shape inference, in the memory that a model may take.

Its data propagation writes down the numbers of every vector that Concat, Cast, Add and their like read, and a few bytes
of a file can make a vector of any length. What reads or makes a long one is left out of that: plain inference has said
what there is to say of it. So is what makes a vector of a length that is still to be computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from edgekern.graph.families import QDQ
from edgekern.graph.wide import CONTRIB

# No schema has this domain: inference leaves such a node alone, and goes on from the shape that is written down.
HIDDEN = "edgekern.settled"
_LONG = 1 << 16
# What makes vectors of the length that an operand says, that operand, and its elements where the result is a vector.
_SIZED = {
    "ConstantOfShape": (0, 1),
    "Expand": (1, 1),
    "Pad": (1, 2),
    "Reshape": (1, 1),
    "Resize": (3, 1),
    "Tile": (1, 1),
}
_VECTORS = frozenset({"Range", "OneHot"})


def infer_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shapes that can be known, also where they are computed from others.

    onnxruntime's own QuantizeLinear and DequantizeLinear, which no schema has, are read as ONNX's.
    """
    theirs = [at for at, node in enumerate(model.graph.node) if node.domain == CONTRIB and node.op_type in QDQ]
    if not theirs:
        return _inferred(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for at in theirs:
        copy.graph.node[at].domain = ""
    inferred = _inferred(copy)
    for at in theirs:
        inferred.graph.node[at].domain = CONTRIB
    return inferred


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    plain = onnx.shape_inference.infer_shapes(model)
    shapes = _shapes(plain.graph)
    hidden = [at for at, node in enumerate(model.graph.node) if _is_long(node, shapes)]
    if not hidden:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(plain)
    if all(entry.domain != HIDDEN for entry in copy.opset_import):
        copy.opset_import.add(domain=HIDDEN, version=1)
    for at in hidden:
        copy.graph.node[at].domain = HIDDEN
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    del inferred.opset_import[len(model.opset_import) :]
    for at in hidden:
        inferred.graph.node[at].CopyFrom(model.graph.node[at])
    return inferred


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Sides of what has a rank, -1 where they are free."""
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim]
    return found


def _is_long(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    if node.domain != "":
        return False
    if any(_is_long_vector(shapes.get(name)) for name in (*node.input, *node.output)):
        return True
    if -1 not in shapes.get(node.output[0], [-1]):
        return False
    if node.op_type in _VECTORS:
        return True
    place, elements = _SIZED.get(node.op_type, (0, 0))
    if not elements or len(node.input) <= place or len(shapes.get(node.output[0], [0])) != 1:
        return False
    return shapes.get(node.input[place]) in (None, [elements], [-1])


def _is_long_vector(shape: Iterable[int] | None) -> bool:
    sides = [] if shape is None else list(shape)
    return len(sides) == 1 and sides[0] > _LONG
