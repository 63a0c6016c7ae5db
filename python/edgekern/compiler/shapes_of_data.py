"""Which shapes may depend on the data of the inputs, and not on their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from edgekern.graph.families import QDQ, RANDOM, SEES_SHAPES, SHAPED_BY_VALUES
from edgekern.graph.values import bodies, operands, shape_of

Settle = Callable[[ir.Node, Sequence[ir.Value], Sequence[bool]], None]


def shapes_of_data(
    graph: ir.Graph, inferred: Collection[str], settle: Settle
) -> dict[ir.Value, tuple[ir.Node, ir.Value]]:
    """The values whose shape data may reach: with the node that makes them, and what that node reads.

    Every operator carries data on, but Shape and Size, which see shapes alone. They reach a shape through the sizes,
    axes, masks and counts that :data:`SHAPED_BY_VALUES` lists, and through any integer or bool that an operator of
    another domain reads, unless inference knows the shape all the same.

    Parameters
    ----------
    inferred : names of values whose shape is known beside those that the graph has
    settle
        Asked for the shapes of an If's results that the condition decides, where those of its bodies do not depend on
        data: fills in what it finds before the walk goes on. It is given the If, those results, and of each body
        whether data may keep it from running.
    """
    walk = _Walk(inferred)
    walk.varies.update(graph.inputs)
    walk.over(graph, settle)
    return walk.found


def ifs_that_stay_whole(graph: ir.Graph) -> list[ir.Node]:
    """The Ifs of a graph that data decides between, and whose bodies data cannot keep from running."""
    walk = _Walk(())
    walk.varies.update(graph.inputs)
    walk.over(graph)
    ifs = [node for node in graph if node.op_type == "If" and node.domain == "" and node.inputs[0] in walk.varies]
    return [node for node in ifs if not any(map(walk.may_fail, bodies(node)))]


class _Walk:
    """``varies`` are values that depend on data, ``found`` those whose shape may."""

    def __init__(self, inferred: Collection[str]) -> None:
        self.varies: set[ir.Value] = set()
        self.found: dict[ir.Value, tuple[ir.Node, ir.Value]] = {}
        self._inferred = inferred

    def over(self, graph: ir.Graph, settle: Settle | None = None) -> None:
        for node in graph:
            reads = list(operands(node))
            cause = next((value for value in reads if value in self.found), None) or self._cause(node, reads)
            varies = node.op_type in RANDOM or any(value in self.varies for value in reads)
            for body in bodies(node):
                # A Loop's first inputs are the number of the turn and whether to go on.
                self.varies.update(body.inputs[2:] if node.op_type == "Loop" else body.inputs)
                self.over(body)
                ends = [value for value in body.outputs if value in self.found]
                if node.op_type == "Loop" and body.outputs[0] in self.varies:  # whether to go on
                    ends.append(body.outputs[0])
                cause = cause or next(iter(ends), None)
                varies = varies or any(value in self.varies for value in body.outputs)
            if node.op_type in SEES_SHAPES and node.domain == "":
                varies = cause is not None
            self.varies.update(node.outputs if varies else ())
            if cause is None:
                continue
            unknown = self._unknown(node)
            ends = [end for body in bodies(node) for end in body.outputs]
            if unknown and settle is not None and node.op_type == "If" and self.found.keys().isdisjoint(ends):
                settle(node, unknown, [self.may_fail(body) for body in bodies(node)])
                unknown = self._unknown(node)
            self.found.update((result, (node, cause)) for result in unknown)

    def _unknown(self, node: ir.Node) -> list[ir.Value]:
        return [
            result
            for at, result in enumerate(node.outputs)
            if shape_of(result) is None and result.name not in self._inferred and not _is_kept(node, at)
        ]

    def may_fail(self, body: ir.Graph) -> bool:
        """Whether it reads numbers of data that an operator may refuse: an index, a size, what an If decides by."""
        for node in ir.traversal.RecursiveGraphIterator(body):
            reads = [value for value in node.inputs if value is not None and value in self.varies]
            whole = [value for value in reads if value.dtype is None or not value.dtype.is_floating_point()]
            if whole or self._cause(node, reads) is not None:
                return True
        return False

    def _cause(self, node: ir.Node, reads: list[ir.Value]) -> ir.Value | None:
        """What it reads of data that its results' shape follows from."""
        if node.domain == "" or node.op_type in QDQ:
            places = SHAPED_BY_VALUES.get(node.op_type, ())
            deciding = [node.inputs[at] for at in places if at < len(node.inputs)]
        else:
            deciding = [value for value in reads if value.dtype is None or not value.dtype.is_floating_point()]
        return next((value for value in deciding if value is not None and value in self.varies), None)


def _is_kept(node: ir.Node, at: int) -> bool:
    """Whether a result is the state of a Loop, of one shape before and after each turn, however many there are."""
    if node.op_type != "Loop" or node.domain != "" or at + 2 >= len(node.inputs):
        return False
    body = next(bodies(node))
    before = shape_of(node.inputs[at + 2])
    return before is not None and before == shape_of(body.outputs[at + 1])
