"""A Clip with limits of its own for each channel: what becomes of one when channels are divided by factors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.families import limits
from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import label


def bound_channels(node: ir.Node, factors: npt.NDArray[np.float64]) -> None:
    """Write a Clip, whose input is divided by factors, with a limit for each channel."""
    source, old, graph = node.inputs[0], node.outputs[0], node.graph
    between = limits(node)
    assert source is not None
    assert between is not None
    assert isinstance(graph, ir.Graph)
    if (factors == 1).all():
        return
    name, rank = str(old.name), 2 if source.shape is None else len(source.shape)
    last: ir.Value = source
    for limit, op, end in ((between[0], "Max", "lowest"), (between[1], "Min", "highest")):
        if limit == 0 and op == "Max":
            made = ir.Node("", "Relu", [last], name=f"{label(node)}_relu")
        elif math.isfinite(limit):
            bounds = (limit / factors).astype(np.float32).reshape(-1, *[1] * (rank - 2))
            constant = new_initializer(graph, f"{name}_{end}", bounds)
            made = ir.Node("", op, [last, constant], name=f"{label(node)}_{op.lower()}")
        else:
            continue
        last = made.outputs[0]
        last.name, last.shape, last.type = free_name(graph, f"{name}_{op.lower()}"), old.shape, old.type
        graph.insert_before(node, made)
    old.replace_all_uses_with(last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    last.name = name
