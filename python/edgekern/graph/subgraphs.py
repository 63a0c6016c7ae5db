"""What the bodies of If, Loop and Scan read of the graphs around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_read(node: onnx.NodeProto) -> set[str]:
    """Names that a node, and the bodies in it, read from outside; what a body names itself hides what is outside."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {tensor.values.name for tensor in body.sparse_initializer}
        own |= {name for inside in body.node for name in inside.output}
        names |= {name for inside in body.node for name in names_read(inside)} - own  # protobuf ends at 100 levels
        names |= {value.name for value in body.output} - own
    return names
