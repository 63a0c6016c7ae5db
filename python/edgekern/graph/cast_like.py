"""CastLike, which reads a tensor for its type alone, as the Cast that it is."""

from __future__ import annotations

import onnx
from onnx import helper

from edgekern.graph.infer_types import with_types
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.subgraphs import with_inner


def value_types(model: Skeleton) -> dict[str, int]:
    """The element types of a model's values, also where it leaves them to inference."""
    graph = onnx.shape_inference.infer_shapes(with_types(model).proto).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def write_casts(model: Skeleton) -> Skeleton:
    """Replace each CastLike of a known type, in place."""
    nodes = with_inner(model.proto.graph.node)
    like = [node for node in nodes if node.op_type == "CastLike" and node.domain in ("", "ai.onnx")]
    types = value_types(model) if like else {}
    for node in like:
        if kind := types.get(node.input[1], 0):
            node.op_type = "Cast"
            del node.input[1:]
            node.attribute.append(helper.make_attribute("to", kind))
    return model
