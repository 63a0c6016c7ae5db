"""What a model must hold and onnx's checker does not look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

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
    for name, kind in _element_types(proto):
        if kind not in _TYPES:
            return f"tensor {name!r} has the element type {kind}, which ONNX does not define"
    return None


def _not_made(names: Iterable[str], given: set[str], nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    made = {name for node in nodes for name in node.output if name}
    yield from (name for name in names if name not in made and name not in given)


def _element_types(proto: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """With the name of every tensor, wherever it is: weights, attributes, and what is written of others."""
    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            yield message.name, message.data_type
        elif isinstance(message, onnx.ValueInfoProto) and message.type.HasField("tensor_type"):
            yield message.name, message.type.tensor_type.elem_type
        else:
            for field, value in message.ListFields():
                if field.message_type is not None:
                    waiting += [value] if hasattr(value, "ListFields") else value
