"""Running pieces of a model in onnxruntime at compile time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgekern._onnxruntime import run_to_end
from edgekern.errors import CompileError
from edgekern.graph.skeleton import Skeleton

# The oldest file version that has every type of a program; onnxruntime reads it with any opset that it knows.
IR_VERSION = 10


def new_session(model: bytes) -> onnxruntime.InferenceSession:
    """A quiet, single-threaded session without rewrites: compiling gives the same answer on every machine."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def evaluate(
    model: Skeleton,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    wanted: Sequence[str],
    feeds: Mapping[str, npt.NDArray[Any]] | None = None,
) -> list[npt.NDArray[Any]]:
    """Run ``nodes`` of ``model`` with the constants they read, and the feeds, and return the tensors ``wanted``.

    Raises
    ------
    CompileError
        When onnxruntime cannot.
    """
    read = {name for node in nodes for name in node.input} | set(wanted)
    weights = sorted(name for name in read if name in model.weights and name not in constants)
    feeds = {name: model.weights[name].array() for name in weights} | dict(feeds or {})
    graph = helper.make_graph(
        nodes,
        "constants",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in wanted],
        [constants[name] for name in sorted(read) if name in constants and name not in feeds],
    )
    for node in graph.node:
        node.name = node.name or node.output[0]  # so that onnxruntime can say which one it cannot compute
    piece = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=IR_VERSION)
    piece.functions.extend(model.proto.functions)
    try:
        return run_to_end(new_session(piece.SerializeToString()), wanted, feeds, timeout_s=None)
    except Exception as error:  # onnxruntime raises a class per status, all private
        names = ", ".join(f"{node.op_type} '{node.name}'" for node in graph.node[:4])
        names += f" or {len(nodes) - 4} more" if len(nodes) > 4 else ""
        reason = " ".join(str(error).split())
        raise CompileError(f"compile: onnxruntime cannot compute {names}: {reason}") from error


def to_proto(array: npt.NDArray[Any], name: str) -> onnx.TensorProto:
    """An array as an initializer."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
