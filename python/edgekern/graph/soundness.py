"""What a model must hold and onnx's checker does not look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import numpy_helper

from edgekern.graph.subgraphs import with_inner

# Attributes that count, and by which somebody divides.
_COUNTS = frozenset({"group", "blocksize", "num_groups", "num_outputs"})
MOST_NODES = 1 << 18
_TYPES = frozenset(onnx.TensorProto.DataType.values())


def what_checker_misses(proto: onnx.ModelProto, weights: Iterable[str]) -> str | None:
    """The first rule that a model breaks, if any; ``weights`` are initializers that stand aside."""
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    given = {value.name for value in graph.input} | stored | set(weights)
    for name in _not_made([value.name for value in graph.output], given, graph.node):
        return f"no node makes the output {name!r}"
    for function in proto.functions:
        if function.domain in ("", "ai.onnx"):
            return f"function {function.name!r} stands in ONNX's own domain, where onnxruntime takes no functions"
        for name in _not_made(function.output, set(function.input), function.node):
            return f"no node of function {function.name!r} makes its output {name!r}"
    functions = [node for function in proto.functions for node in function.node]
    names = [value.name for value in graph.output]
    if len(set(names)) < len(names):
        return f"two outputs are called {max(names, key=names.count)!r}"
    for node in with_inner([*graph.node, *functions]):
        if (reason := _node_reason(node)) is not None:
            return f"{node.op_type} {node.name or next(iter(node.output), '')!r} has {reason}"
    for found in _messages(proto):
        if (undecoded := _undecoded(found)) is not None:
            return f"it holds the text {undecoded!r}, which is not UTF-8"
        if isinstance(found, onnx.TensorProto):
            kind = found.data_type
        elif isinstance(found, onnx.ValueInfoProto) and found.type.HasField("tensor_type"):
            kind = found.type.tensor_type.elem_type
        else:
            continue
        if kind not in _TYPES:
            return f"tensor {found.name!r} has the element type {kind}, which ONNX does not define"
        if isinstance(found, onnx.TensorProto) and (reason := _content_reason(found)) is not None:
            return f"tensor {found.name!r} does not hold what its type and shape say: {reason}"
    return None


def nodes_when_inlined(proto: onnx.ModelProto) -> int:
    """How many nodes a model has once its functions stand where they are called: they double with each level."""
    calls = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in with_inner(function.node)]
        for function in proto.functions
    }
    count: dict[tuple[str, str], int] = {}
    entered: set[tuple[str, str]] = set()
    waiting = list(calls)
    while waiting:
        key = waiting[-1]
        inner = [] if key in entered else [call for call in calls[key] if call in calls and call not in count]
        entered.add(key)  # of those that call themselves the checker tells
        if inner:
            waiting += set(inner) - entered
        else:
            count.setdefault(key, sum(count.get(call, 1) for call in calls[key]))
            waiting.pop()
    return sum(count.get((node.domain, node.op_type), 1) for node in with_inner(proto.graph.node))


def _node_reason(node: onnx.NodeProto) -> str | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name in _COUNTS and attribute.type == onnx.AttributeProto.INT and attribute.i < 1:
            return f"{attribute.name} = {attribute.i}, and it must be at least 1"
        if node.op_type == "If" and len(attribute.g.output) != len(node.output):
            return f"{len(node.output)} results, and its {attribute.name} gives {len(attribute.g.output)}"
    return None


def _not_made(names: Iterable[str], given: set[str], nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    made = {name for node in nodes for name in node.output if name}
    yield from (name for name in names if name not in made and name not in given)


def _undecoded(message: Any) -> bytes | None:
    """A text of a message, a name say, that protobuf could not decode and gives as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if (found := next((text for text in texts if isinstance(text, bytes)), None)) is not None:
                return found
    return None


def _content_reason(tensor: onnx.TensorProto) -> str | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def _messages(proto: onnx.ModelProto) -> Iterator[Any]:
    """The model and every message in it."""
    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else value
