"""Nodes that give what they get: Identity, Cast to the same type, and Dropout where nothing is trained or dropped."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.graph.values import int_attribute, scalar

_COPIES = frozenset({"Identity", "Dropout", "Cast"})


def eliminate_identities(graph: ir.Graph) -> None:
    """Let whoever reads a copy read what was copied; in bodies of If, Loop and Scan all stays as it is.

    A body has to make what it gives, so an Identity of a value around it is no node too many. A copy that is an output
    of the graph goes where a node's result can take its name.
    """
    for node in list(graph):
        if node.domain != "" or node.op_type not in _COPIES or not _copies(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None:
            continue
        if result.is_graph_output():
            if source.producer() is None or source.is_graph_output() or _read_in_body(source, graph):
                continue
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            source.name = result.name
        else:
            result.replace_all_uses_with(source)
        source.shape = result.shape if source.shape is None else source.shape  # () is one, too
        source.type = result.type if source.type is None else source.type
        graph.remove(node, safe=True)


def _copies(node: ir.Node) -> bool:
    """Whether a Dropout does nothing, and nobody asks for its mask; whether a Cast leads to the type that is there."""
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and source.dtype is not None and source.dtype == int_attribute(node, "to", 0)
    _, ratio, training, *_ = [*node.inputs, None, None]
    idle = training is None or scalar(training) == 0 or (ratio is not None and scalar(ratio) == 0)
    return idle and not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])


def _read_in_body(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a body reads a value; it may have a tensor of its own of any name that is younger."""
    return any(reader.graph is not graph for reader, _ in value.uses())
