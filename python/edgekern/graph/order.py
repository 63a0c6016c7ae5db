"""Nodes in an order in which each reads what others have made: onnxruntime takes any, and its quantizer writes any."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from edgekern.graph.subgraphs import bodies, names_read

if TYPE_CHECKING:
    import onnx


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes of a graph and of its bodies, in place; those of a circle stay where they are.

    Nodes that are in order keep it.
    """
    for node in graph.node:
        for body in bodies(node):
            sort_nodes(body)
    maker = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    needs = [{maker[name] for name in names_read(node) if name in maker} for node in graph.node]
    if all(max(before, default=-1) < at for at, before in enumerate(needs)):
        return
    readers: list[list[int]] = [[] for _ in needs]
    for at, before in enumerate(needs):
        for other in before:
            readers[other].append(at)
    left = [len(before) for before in needs]
    ready = [at for at, count in enumerate(left) if count == 0]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for at in readers[order[-1]]:
            left[at] -= 1
            if left[at] == 0:
                heapq.heappush(ready, at)
    if len(order) == len(needs):
        nodes = type(graph)(node=[graph.node[at] for at in order])
        del graph.node[:]
        graph.node.extend(nodes.node)
