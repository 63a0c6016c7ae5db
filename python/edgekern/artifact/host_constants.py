"""Whether opening a host model may compute its constants: dequantized weights alone, whose cost the file bounds.

A weight behind a DequantizeLinear would else be dequantized in every run. Other constants are a stranger's work that
nothing could end: products of products, or a size that was made of nothing but a shape.
"""

from __future__ import annotations

from collections.abc import Iterator

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE, _TENSOR_NAME = 7, 1, 5, 15, 8
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 4, 7
_BYTES, _WIDTH = 2, {1: 8, 5: 4}
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
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _BYTES:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        elif wire in _WIDTH:
            at += _WIDTH[wire]
        else:
            at = _varint(message, at)[1]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
