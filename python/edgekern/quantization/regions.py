"""Regions: what hangs together between the convolutions of a model."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern.graph.dynamic import takes_rows
from edgekern.graph.families import CONVOLUTIONS
from edgekern.graph.values import float_constant


def reads_convolution(node: ir.Node) -> bool:
    """Whether one gives it what could be codes. What cuts a picture into patches does not count: it makes rows."""
    makers = (value.producer() for value in node.inputs if value is not None)
    return any(maker is not None and maker.op_type in CONVOLUTIONS and not _cuts_patches(maker) for maker in makers)


def _cuts_patches(node: ir.Node) -> bool:
    weights = float_constant(node.inputs[1])
    return weights is not None and math.prod(weights.shape[2:]) > 1 and takes_rows(node)


def regions(graph: ir.Graph) -> list[set[ir.Node]]:
    """Nodes that hang together by what they give one another, convolutions left out."""
    left = {node for node in graph if node.op_type not in CONVOLUTIONS}
    regions = []
    for start in graph:
        if start not in left:
            continue
        left.discard(start)
        region, waiting = set[ir.Node](), [start]
        while waiting:
            node = waiting.pop()
            region.add(node)
            makers = {value.producer() for value in node.inputs if value is not None}
            readers = {use.node for value in node.outputs for use in value.uses()}
            near = [other for other in makers | readers if other in left]
            left.difference_update(near)
            waiting += near
        regions.append(region)
    return regions
