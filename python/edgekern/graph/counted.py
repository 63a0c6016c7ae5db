"""Nodes whose results ONNX's inference and onnxruntime may count differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from edgekern.graph.families import COUNTED_BY_ATTRIBUTES, COUNTED_BY_OPERANDS, PRODUCTS
from edgekern.graph.subgraphs import bodies, with_inner

Types = Mapping[str, tuple[int, tuple[int, ...]]]  # element type and shape by name, where both are known


def known_types(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type and shape of every tensor that has both in full."""
    known = {}
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(side.HasField("dim_value") for side in kind.shape.dim):
            known[value.name] = kind.elem_type, tuple(side.dim_value for side in kind.shape.dim)
    return known


def is_doubtful(node: onnx.NodeProto, types: Types) -> bool:
    """Whether onnxruntime may give another shape than inference does, given what inference says of the node."""
    if node.domain != "":
        return False
    if node.op_type in COUNTED_BY_ATTRIBUTES | PRODUCTS and 0 in types.get(node.output[0], (0, ()))[1]:
        return True  # most often there is no place for a window
    if node.op_type in COUNTED_BY_OPERANDS:
        return True
    given = {attribute.name: attribute for attribute in node.attribute}
    automatic = "auto_pad" in given and given["auto_pad"].s != b"NOTSET"
    if node.op_type in COUNTED_BY_ATTRIBUTES:
        return automatic or "output_shape" in given or ("ceil_mode" in given and given["ceil_mode"].i != 0)
    # they agree on a Conv, but there is one that onnxruntime does not take
    return node.op_type in PRODUCTS and automatic and "dilations" in given and set(given["dilations"].ints) != {1}


def counts_within(node: onnx.NodeProto) -> bool:
    """Whether a body of a node has one whose results onnxruntime may count otherwise than ONNX's inference."""
    return any(
        is_doubtful(inside, known_types((*body.value_info, *body.output))) or counts_within(inside)
        for body in bodies(node)
        for inside in body.node
    )


def is_open_within(node: onnx.NodeProto) -> bool:
    """The same, where running a body can settle it. What onnxruntime infers of a Slice in a body's body is believed."""
    inner = [inside for body in bodies(node) for inside in body.node]
    if not any(any(bodies(inside)) for inside in inner):
        return counts_within(node)
    counted = [inside for inside in with_inner(inner) if inside.op_type not in COUNTED_BY_OPERANDS]
    return any(is_doubtful(inside, {}) for inside in counted)


def forget_sizes(graph: onnx.GraphProto) -> None:
    """Leave types and ranks: onnxruntime fills a result of a body as it was inferred, and fails where it is not."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        for side in value.type.tensor_type.shape.dim:
            side.Clear()
    for node in graph.node:
        for body in bodies(node):
            forget_sizes(body)
