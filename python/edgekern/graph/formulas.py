"""Which nodes are a function of one tensor, element by element."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgekern.graph.families import UNARY, WITH_CONSTANT, is_scalar, limits
from edgekern.graph.values import shape_of


def elementwise_operands(node: ir.Node) -> list[ir.Value] | None:
    """The operands of an element-wise function of one tensor, constants left out; None for any other operator."""
    found, shape = _operands(node), shape_of(node.outputs[0])
    if not found or shape is None:
        return None
    return found if node.op_type in UNARY or all(shape_of(value) == shape for value in found) else None


def _operands(node: ir.Node) -> list[ir.Value] | None:
    """The same, where nothing is known of the shapes but their number of axes."""
    if node.domain != "" or len(node.outputs) != 1:
        return None
    if node.op_type in UNARY:
        if node.op_type == "Clip" and limits(node) is None:
            return None
        return [value for value in node.inputs[:1] if value is not None]
    if node.op_type not in WITH_CONSTANT:
        return None
    shape = node.outputs[0].shape
    rank = 0 if shape is None else len(shape)
    return [value for value in node.inputs if value is not None and not is_scalar(value, rank)] or None


@dataclass(frozen=True)
class Formula:
    """Nodes that together compute a function of one tensor, element by element.

    Attributes
    ----------
    root : what it is a function of
    nodes : in the order of the graph; the last one gives the result
    """

    root: ir.Value
    nodes: tuple[ir.Node, ...]


def formulas(graph: ir.Graph, borders: Iterable[ir.Value] = ()) -> dict[ir.Node, Formula]:
    """Every function of one tensor, whether one node computes it or several, by its last node.

    What lies within one is read by its own nodes only: a result that others read as well ends one, and begins the next.

    Parameters
    ----------
    borders : results that end a formula in any case
    """
    elementwise = {node: found for node in graph if (found := _operands(node))}
    roots = _Roots(elementwise, set(borders))
    asked = roots.settle(elementwise)
    while mixed := [node for node in asked if roots.is_mixed(node)]:
        roots.ends.update(node.outputs[0] for node in mixed)
        asked = roots.settle(mixed)
    made = {}
    for node in elementwise:
        of, result = roots.root.get(node), node.outputs[0]
        if of is not None and (
            result in roots.ends or not any(roots.root.get(reader) is of for reader, _ in result.uses())
        ):
            nodes = _nodes_of(node, of, elementwise, roots.base)
            made[node] = Formula(of, tuple(sorted(nodes, key=roots.order.__getitem__)))
    return made


class _Roots:
    """What each node is a function of, kept up to date while more and more results end a formula.

    Attributes
    ----------
    root : of nodes that are a function of one tensor
    base : what their results are a function of for those who read them
    """

    def __init__(self, elementwise: Mapping[ir.Node, list[ir.Value]], ends: set[ir.Value]) -> None:
        self.elementwise, self.ends = elementwise, ends
        self.nodes = list(elementwise)
        self.order = {node: at for at, node in enumerate(self.nodes)}
        self.root: dict[ir.Node, ir.Value] = {}
        self.base: dict[ir.Value, ir.Value] = {}

    def settle(self, waiting: Iterable[ir.Node]) -> list[ir.Node]:
        """Look at some nodes, and at whoever reads what has changed; those that may be mixed now, in order."""
        places = sorted(self.order[node] for node in waiting)  # sorted is a heap
        known = set(places)
        touched = set(places)
        while places:
            at = heapq.heappop(places)
            known.discard(at)
            node = self.nodes[at]
            result = node.outputs[0]
            found = {self.base.get(value, value) for value in self.elementwise[node]}
            root = found.pop() if len(found) == 1 else None
            base = result if root is not None and result in self.ends else root
            if self.root.get(node) is root and self.base.get(result) is base:
                continue
            for kept, key, value in ((self.root, node, root), (self.base, result, base)):
                _set(kept, key, value)
            readers = {self.order[reader] for reader, _ in result.uses() if reader in self.order}
            for reader in readers - known:
                heapq.heappush(places, reader)
            known |= readers
            makers = (value.producer() for value in self.elementwise[node])
            touched |= {at} | {self.order[maker] for maker in makers if maker in self.order}
        return [self.nodes[at] for at in sorted(touched)]

    def is_mixed(self, node: ir.Node) -> bool:
        """Whether its result is read within its formula and by others as well."""
        of, result = self.root.get(node), node.outputs[0]
        if of is None or result in self.ends:
            return False
        readers = [self.root.get(reader) is of for reader, _ in result.uses()]
        return any(readers) and (result.is_graph_output() or not all(readers))


def _set(kept: dict[Any, ir.Value], key: object, value: ir.Value | None) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value


def _nodes_of(
    last: ir.Node, root: ir.Value, elementwise: Mapping[ir.Node, list[ir.Value]], base: Mapping[ir.Value, ir.Value]
) -> set[ir.Node]:
    """The nodes that lead from a root to a result."""
    nodes, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node in nodes:
            continue
        nodes.add(node)
        producers = (value.producer() for value in elementwise[node] if value is not root and base[value] is root)
        waiting += [producer for producer in producers if producer is not None]
    return nodes
