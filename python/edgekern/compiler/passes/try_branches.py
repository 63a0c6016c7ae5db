"""Run the bodies of an If, whatever decides between them, for the shapes on which they agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgekern.errors import CompileError
from edgekern.graph import subgraphs
from edgekern.graph.evaluate import evaluate
from edgekern.graph.skeleton import Skeleton

Array = npt.NDArray[Any]


class BranchTrial:
    """Runs each node that leads to a body once, however many bodies read what it gives.

    Attributes
    ----------
    taken : by its first result, the body that can stand in the place of an If whose shapes are settled
    """

    def __init__(self, skeleton: Skeleton, feeds: Mapping[str, Array]) -> None:
        self.taken: dict[str, onnx.GraphProto] = {}
        self._skeleton = skeleton
        graph = skeleton.proto.graph
        self._nodes = list(graph.node)
        self._place = {name: at for at, node in enumerate(self._nodes) for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._values = dict(feeds)
        self._prefix = subgraphs.free_prefix(graph, "lifted ")

    def settle(self, node: ir.Node, unknown: Sequence[ir.Value], may_fail: Sequence[bool]) -> None:
        """Fill in those ``unknown`` shapes of an If's results on which its bodies agree.

        A body that cannot run on inputs of these sizes gives no shape: where it is taken, there is no answer anyway.
        One that ``may_fail`` by the data could run on others, so that nothing is known.
        """
        made = self._nodes[self._place[str(node.outputs[0].name)]]
        runs = []
        for body, by_data in zip(subgraphs.bodies(made), may_fail, strict=True):
            results = self.run(body)
            if results is not None:
                runs.append((results, body))
            elif by_data:
                return
        for value in unknown:
            at = node.outputs.index(value)
            if len({np.shape(results[at]) for results, _ in runs}) == 1:
                value.shape = ir.Shape(np.shape(runs[0][0][at]))
                self.taken[str(node.outputs[0].name)] = runs[0][1]
        if str(node.outputs[0].name) in self.taken:
            self.keep(made.output, runs[0][0])

    def run(self, body: onnx.GraphProto) -> list[Any] | None:
        """The results of a body of the model; None where it cannot run."""
        inner = subgraphs.inlined_body(body, self._prefix)
        names = [value.name for value in inner.output]
        read = {name for node in inner.node for name in subgraphs.names_read(node)} | set(names)
        leading = self._leading_to(read)
        wanted = sorted({name for node in leading for name in node.output} & read)
        if leading:
            self.keep(wanted, self._results(leading, wanted, self._constants))
        nodes = [*self._leading_to(read), *inner.node]  # again those that give no tensors
        stored = {tensor.name: tensor for tensor in inner.initializer}
        try:
            return self._results(nodes, names, self._constants | stored)
        except CompileError:
            return None

    def _results(
        self, nodes: Sequence[onnx.NodeProto], names: Sequence[str], constants: Mapping[str, onnx.TensorProto]
    ) -> list[Any]:
        read = {name for node in nodes for name in subgraphs.names_read(node)} | set(names)
        feeds = {name: self._values[name] for name in read & self._values.keys()}
        return evaluate(self._skeleton, nodes, constants, names, feeds)

    def keep(self, names: Iterable[str], results: Iterable[Any]) -> None:
        """What need not be run again."""
        self._values |= {name: made for name, made in zip(names, results, strict=True) if isinstance(made, np.ndarray)}

    def _leading_to(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes, in order, that compute what is not known yet."""
        places: set[int] = set()
        waiting = list(names)
        while waiting:
            at = self._place.get(name := waiting.pop())
            if at is not None and at not in places and name not in self._values:
                places.add(at)
                waiting += subgraphs.names_read(self._nodes[at])
        return [self._nodes[at] for at in sorted(places)]
