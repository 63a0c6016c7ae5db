"""Whether opening a host model may compute its constants: dequantized weights alone, whose cost the file bounds.

A weight behind a DequantizeLinear would else be dequantized in every run. Other constants are a stranger's work that
nothing could end: products of products, or a size that was made of nothing but a shape.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekern.artifact.host_model import BYTES, field_at

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE, _TENSOR_NAME = 7, 1, 5, 15, 8
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 4, 7
_OF_SHAPES = frozenset({b"Shape", b"Size"})  # what onnxruntime takes for constants where shapes are fixed


def only_weights_fold(model: bytes) -> bool:
    """Of a model without subgraphs that :func:`~edgekern.artifact.host_model.check_host_model` has passed.

    True where the nodes that read nothing but constants are DequantizeLinears, each of an initializer of its own, and a
    Transpose behind one. So the work is a few times the file's bytes, and the memory too.
    """
    stored: set[bytes] = set()
    nodes: list[dict[int, list[bytes]]] = []
    for number, graph in _fields(model):
        for inner, content in _fields(graph) if number == _MODEL_GRAPH else ():
            if inner == _GRAPH_TENSOR:
                stored.update(name for field, name in _fields(content) if field == _TENSOR_NAME)
            elif inner == _GRAPH_NODE:
                nodes.append(_strings(content))
            elif inner == _GRAPH_SPARSE:  # a few bytes that become as many as they say
                return False
    weights = [node for node in nodes if _is(node, b"DequantizeLinear") and stored.intersection(node[_NODE_INPUT][:1])]
    dequantized = {name for node in weights for name in node[_NODE_OUTPUT]}
    turned = [node for node in nodes if _is(node, b"Transpose") and dequantized.issuperset(node[_NODE_INPUT])]
    sources = [node[_NODE_INPUT][0] for node in (*weights, *turned) if node[_NODE_INPUT]]
    constants = stored | dequantized | {name for node in turned for name in node[_NODE_OUTPUT]}
    constants.update(
        name for node in nodes if not _OF_SHAPES.isdisjoint(node[_NODE_OPERATOR]) for name in node[_NODE_OUTPUT]
    )
    allowed = {id(node) for node in (*weights, *turned)}
    return len(set(sources)) == len(allowed) and all(
        id(node) in allowed or any(name and name not in constants for name in node[_NODE_INPUT]) for node in nodes
    )


def _is(node: dict[int, list[bytes]], operator: bytes) -> bool:
    return set(node[_NODE_OPERATOR]) == {operator} and set(node[_NODE_DOMAIN]) <= {b"", b"ai.onnx"}


def _strings(node: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {n: [] for n in (_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_DOMAIN)}
    for number, content in _fields(node):
        if number in found:
            found[number].append(content)
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Those of a sound message that hold bytes, by number."""
    at, end = 0, len(message)
    while at < end:
        number, wire, _, content, at = field_at(message, at, end)
        if wire == BYTES:
            yield number, message[content:at]
