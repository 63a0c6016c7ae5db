"""Run both bodies of an If that data decides, and pick a result: kernels have no branches.

A body that cannot run on inputs of these sizes is left out; a run in which it is decided for ends with an error that
names it, as it would in any runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgekern.compiler.passes.observe_shapes import feeds_of
from edgekern.compiler.passes.try_branches import BranchTrial
from edgekern.compiler.shapes_of_data import ifs_that_stay_whole
from edgekern.errors import CompileError
from edgekern.graph import subgraphs
from edgekern.graph.prices import macs
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import label, shape_of

_MOST_MACS = 1 << 26  # 1 to 2 ms of one thread


def join_branches(model: ir.Model, left_out: Collection[str]) -> tuple[Skeleton, dict[str, str]] | None:
    """The model without such Ifs, and by what the names of a body's values begin with, the first result of its If.

    An If stays where a body may fail by the data, where its bodies disagree about a shape, and where its first result
    is among ``left_out``. None where all do.
    """
    found = {str(node.outputs[0].name): node for node in ifs_that_stay_whole(model.graph)}
    found = {name: node for name, node in found.items() if name not in left_out and _is_known(node)}
    if not found:
        return None
    skeleton = Skeleton.of_ir(model)
    graph = skeleton.proto.graph
    trial = BranchTrial(skeleton, feeds_of(model.graph, 0))
    joined, owners = _Writer(graph), dict[str, str]()
    for node in list(graph.node):
        decided = found.get(node.output[0]) if node.output else None
        runs = [] if decided is None else _tried(trial, node)
        if decided is None or not _agree(decided, runs):
            joined.nodes.append(node)
            continue
        trial.keep(node.output, next(run for run in runs if run is not None))
        owners |= dict.fromkeys(joined.write(node, label(decided), [run is not None for run in runs]), node.output[0])
    if not owners:
        return None
    written = onnx.GraphProto(node=joined.nodes)
    del graph.node[:]
    graph.node.extend(written.node)
    return skeleton, owners


def too_dear(graph: ir.Graph, owners: Mapping[str, str]) -> set[str]:
    """The Ifs of two bodies whose work, of which one half is for nothing, is more than a host step costs."""
    work, sides = Counter[str](), Counter(owners.values())
    for node in graph:
        name = str(node.outputs[0].name)
        for prefix, owner in owners.items():
            if name.startswith(prefix):
                work[owner] += macs(node)
    return {owner for owner, count in work.items() if sides[owner] == 2 and count > _MOST_MACS}


def _tried(trial: BranchTrial, node: onnx.NodeProto) -> list[list[Any] | None]:
    """What its bodies give; nothing where what leads to them cannot run on zeros."""
    try:
        return [trial.run(body) for body in _bodies(node)]
    except CompileError:
        return []


def _is_known(node: ir.Node) -> bool:
    """Whether the types and shapes of its results are."""
    return all(shape_of(value) is not None and value.dtype is not None for value in node.outputs)


def _agree(node: ir.Node, runs: Sequence[Sequence[Any] | None]) -> bool:
    """Whether a body can run, and those that can give results of the If's own shapes."""
    shapes = [shape_of(value) for value in node.outputs]
    given = [[np.shape(result) for result in run] for run in runs if run is not None]
    return bool(given) and all(found == shapes for found in given)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Of an If: what it runs where its condition holds, and where not."""
    by_name = {attribute.name: attribute.g for attribute in node.attribute}
    yield from (by_name["then_branch"], by_name["else_branch"])


class _Writer:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._own = graph, subgraphs.free_prefix(graph, "edgekern.joined.")
        self._count = self._written = 0

    def write(self, node: onnx.NodeProto, name: str, runs: Sequence[bool]) -> list[str]:
        """Put the bodies that run in the place of an If; what the names of their values begin with."""
        self._written += 1
        start = subgraphs.numbered(node.output[0], self._written)
        scalar = self._op("Reshape", [node.input[0], self._constant(np.zeros(0, np.int64))])
        sides, prefixes = [], []
        for side, body, can_run in zip(("then", "else"), _bodies(node), runs, strict=True):
            if can_run:
                prefixes.append(subgraphs.free_prefix(self._graph, f"{start} {side} "))
                inner = subgraphs.inlined_body(body, prefixes[-1])
                self.nodes.extend(inner.node)
                self._graph.initializer.extend(inner.initializer)
                sides.append([value.name for value in inner.output])
        if len(sides) == 2:
            for output, held, other in zip(node.output, *sides, strict=True):
                self._op("Where", [scalar, held, other], output)
            return prefixes
        wrong = scalar if runs[1] else self._op("Not", [scalar])
        at, axis = self._op("Cast", [wrong], to=TensorProto.INT64), self._constant(np.zeros(1, np.int64))
        missing = "else_branch" if runs[0] else "then_branch"
        says = f"of {name}, whose {missing} cannot run on inputs of these sizes,"
        for inside, output in zip(sides[0], node.output, strict=True):
            # Of the one thing there is, by an index that is outside where the other body is decided for.
            self._op("Gather", [self._op("Unsqueeze", [inside, axis]), at], output, name=f"{output} {says}")
        return prefixes

    def _op(self, kind: str, inputs: Sequence[str], output: str = "", name: str = "", **attributes: Any) -> str:
        self._count += 1
        output = output or f"{self._own}{kind}.{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or output, **attributes))
        return output

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        self._count += 1
        name = f"{self._own}constant.{self._count}"
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name
