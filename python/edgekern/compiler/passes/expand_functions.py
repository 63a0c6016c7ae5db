"""Write operators that ONNX defines by others as those others."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
from onnx import defs, helper

from edgekern.compiler.floats.attention import is_plain
from edgekern.graph.opset import opset_of
from edgekern.graph.skeleton import Skeleton

# Those that have no kernel of their own, or none for all that they may be asked, and whose definition needs no loop.
EXPANDED = frozenset(
    {"AffineGrid", "Attention", "CastLike", "CausalConvWithState", "CenterCropPad", "NegativeLogLikelihoodLoss"}
    | {"RotaryEmbedding", "SoftmaxCrossEntropyLoss", "SwiGLU"}
)
_DOMAIN = "edgekern.expanded"


def expand_functions(model: Skeleton) -> bool:
    """Replace these operators in place; whether any was.

    Those that read what has no type yet stay: their definitions ask for it.
    """
    graph, opset = model.proto.graph, opset_of(model.proto)
    if EXPANDED.isdisjoint(node.op_type for node in graph.node):
        return False
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type for value in values if value.type.WhichOneof("value")}
    types |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    for at, node in enumerate(whole.graph.node):
        if node.domain != "" or node.op_type not in EXPANDED or not all(name in types for name in node.input if name):
            continue
        if node.op_type == "Attention" and is_plain(node):
            continue
        schema = defs.get_schema(node.op_type, opset, "")
        given = {attribute.name for attribute in node.attribute}
        node.attribute.extend(
            attribute.default_value
            for name, attribute in schema.attributes.items()
            if name not in given and attribute.default_value.name
        )
        function = _definition(schema, node, types, opset)
        if function is None:
            continue
        function.domain, function.name = _DOMAIN, f"{node.op_type}_{at}"
        del function.opset_import[:]
        function.opset_import.extend(model.proto.opset_import)
        whole.functions.append(function)
        node.domain, node.op_type = function.domain, function.name
    if not whole.functions:
        return False
    whole.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    inlined = onnx.inliner.inline_local_functions(whole)
    graph.CopyFrom(inlined.graph)
    return True


def _definition(
    schema: Any, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], opset: int
) -> onnx.FunctionProto | None:
    """The newest that is no newer than the model, which ONNX gives for every opset up to the next of them."""
    fixed = [version for version in schema.function_opset_versions if version <= opset]
    made = [version for version in schema.context_dependent_function_opset_versions if version <= opset]
    content = b""
    if fixed:
        content = schema.get_function_with_opset_version(max(fixed))
    elif made:
        kinds = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        content = schema.get_context_dependent_function_with_opset_version(max(made), node.SerializeToString(), kinds)
    function = onnx.FunctionProto()
    function.ParseFromString(content)
    _give_scalars(function)
    return function if content else None


def _give_scalars(function: onnx.FunctionProto) -> None:
    """The definition of AffineGrid asks Range for numbers by lists of one, which Range itself does not take."""
    made = []
    for node in function.node:
        if node.op_type == "Range":
            for at, name in enumerate(node.input):
                node.input[at] = f"{name}_of_{node.output[0]}"
                made.append(helper.make_node("Squeeze", [name], [node.input[at]]))
        made.append(node)
    del function.node[:]
    function.node.extend(made)
