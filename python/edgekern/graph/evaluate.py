"""Running pieces of a model in onnxruntime at compile time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekern._onnxruntime import open_session, run_to_end
from edgekern.errors import CompileError
from edgekern.graph.counted import counts_within, forget_sizes
from edgekern.graph.exact_products import exact_products
from edgekern.graph.skeleton import Skeleton, as_input
from edgekern.graph.subgraphs import names_read

# The oldest file version that has every type of a program; onnxruntime reads it with any opset that it knows.
IR_VERSION = 10
_PATIENCE_S = 300.0  # a loop may never end


def new_session(model: bytes) -> Any:
    """A single-threaded session: compiling gives the same answer on every machine."""
    return open_session(model, num_threads=1, as_written=True)


def evaluate(
    model: Skeleton,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    wanted: Sequence[str],
    feeds: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    function: str = "compile",
) -> list[npt.NDArray[Any]]:
    """Run ``nodes`` of ``model`` with the constants they read, and the feeds, and return the tensors ``wanted``.

    Raises
    ------
    CompileError
        When onnxruntime cannot.
    """
    feeds = dict(feeds or {})
    inputs = {name: (helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feeds.items()}
    piece = Piece(model, nodes, constants, wanted, inputs, function=function)
    return piece.run(feeds)


class Piece:
    """Some nodes of a model as a session that gives the tensors ``wanted``; ``inputs`` are types and shapes by name.

    Raises
    ------
    CompileError
        When onnxruntime cannot take them.
    """

    def __init__(
        self,
        model: Skeleton,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, onnx.TensorProto],
        wanted: Sequence[str],
        inputs: Mapping[str, tuple[int, tuple[int, ...]]],
        *,
        function: str,
    ) -> None:
        self._function, self._wanted, self._model = function, wanted, model
        read = {name for node in nodes for name in names_read(node)} | set(wanted)
        self._weights = sorted(name for name in read & model.weights.keys() - inputs.keys() if name not in constants)
        headers = [model.weights[name].header for name in self._weights]
        graph = helper.make_graph(
            nodes,
            "constants",
            [
                *(helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()),
                *map(as_input, headers),
            ],
            [onnx.ValueInfoProto(name=name) for name in wanted],
            [constants[name] for name in sorted(read) if name in constants and name not in inputs],
        )
        if any(map(counts_within, graph.node)):
            forget_sizes(graph)
        for node in graph.node:
            node.name = node.name or node.output[0]  # so that onnxruntime can say which one it cannot compute
        piece = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=IR_VERSION)
        piece.functions.extend(model.proto.functions)
        self._nodes = graph.node
        piece = exact_products(Skeleton(piece, {}), function=function).proto
        try:
            self._session = new_session(piece.SerializeToString())
        except Exception as error:  # onnxruntime raises a class per status, all private
            raise self._refusal(error) from error

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The tensors wanted; CompileError where onnxruntime cannot compute them."""
        weights = {name: self._model.weights[name].array() for name in self._weights}
        try:
            return run_to_end(self._session, self._wanted, weights | dict(feeds), timeout_s=_PATIENCE_S)
        except Exception as error:  # onnxruntime raises a class per status, all private
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> CompileError:
        names = ", ".join(f"{node.op_type} '{node.name}'" for node in self._nodes[:4])
        names += f" or {len(self._nodes) - 4} more" if len(self._nodes) > 4 else ""
        return CompileError(f"{self._function}: onnxruntime cannot compute {names}: {' '.join(str(error).split())}")


def to_proto(array: npt.NDArray[Any], name: str) -> onnx.TensorProto:
    """An array as an initializer."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
