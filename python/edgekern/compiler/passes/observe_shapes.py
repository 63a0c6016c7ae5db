"""Find the shapes that ONNX's own inference does not know by running the model, where no data can reach them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgekern._onnxruntime import run_to_end
from edgekern.compiler.passes.try_branches import BranchTrial
from edgekern.compiler.shapes_of_data import shapes_of_data
from edgekern.errors import CompileError
from edgekern.graph import subgraphs
from edgekern.graph.counted import forget_sizes, is_open_within
from edgekern.graph.dimensions import MOST_ELEMENTS
from edgekern.graph.evaluate import new_session
from edgekern.graph.families import LOOP, SCAN
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import known_shape, label, qualified, shape_of

_PATIENCE_S = 20.0  # a loop may never end


def observe_shapes(model: ir.Model) -> None:
    """Fill in shapes and types of operators that only onnxruntime knows.

    A shape is believed where inference, ONNX's or onnxruntime's own, proves it, or no data can reach it. Two runs on
    different data are a second look at operators of other domains, whose meaning nobody here knows.

    Raises
    ------
    CompileError
        When onnxruntime cannot run the model either, or a shape depends on the data.
    """
    taken: dict[str, onnx.GraphProto] = {}
    while _observe(model, taken):
        pass


def _observe(model: ir.Model, taken: dict[str, onnx.GraphProto]) -> bool:
    """One look; whether another would see more. ``taken``: what runs in the place of an If, by its first result."""
    values = [value for node in model.graph for value in node.outputs if value.name]
    needed = [value for value in values if value.uses() or value.is_graph_output()]
    unknown = [value for value in needed if shape_of(value) is None or value.dtype is None]
    if not unknown:
        return False
    skeleton = Skeleton.of_ir(model)
    subgraphs.inline_ifs(skeleton, lambda node: taken.get(node.output[0]))
    proto = skeleton.proto
    names = [str(_observed(value).name) for value in unknown]
    for node in proto.graph.node:
        node.name = node.name or node.output[0]  # so that onnxruntime can say which one it cannot run
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    try:
        session = new_session(proto.SerializeToString())
    except Exception as error:  # onnxruntime raises a class per status, all private
        raise CompileError(_refusal(model.graph, error)) from error
    types = {value.name: value.type for value in session.get_outputs()}
    for value in unknown:
        if value.dtype is None and (name := types[str(value.name)]).startswith("tensor("):
            value.dtype = ir.DataType[name[len("tensor(") : -1].upper()]
    # An unknown number of axes looks like none.
    inferred = {value.name for value in session.get_outputs() if value.shape and set(map(type, value.shape)) == {int}}
    inferred -= {name for node in proto.graph.node if is_open_within(node) for name in node.output}
    trial = BranchTrial(skeleton, feeds_of(model.graph, 0))
    dependent = shapes_of_data(model.graph, inferred, trial.settle)
    if trial.taken:
        taken |= trial.taken
        return True
    for value, (node, cause) in ((value, dependent[value]) for value in unknown if value in dependent):
        raise CompileError(
            f"compile: the shape of '{value.name}' depends on the data: {qualified(node)} '{label(node)}' takes it "
            f"from the values of '{cause.name}'; a program needs fixed shapes, make that a constant or leave the node "
            "out"
        )
    _refuse_rows(proto.graph)
    turns = any(node.op_type in (LOOP, SCAN) for node in subgraphs.with_inner(proto.graph.node))
    patience = _PATIENCE_S if turns else None
    try:
        if any(any(subgraphs.bodies(node)) for node in proto.graph.node):
            forget_sizes(proto.graph)
            session = new_session(proto.SerializeToString())
        weights = {name: weight.array() for name, weight in skeleton.weights.items()}
        first, second = (
            run_to_end(session, names, weights | feeds_of(model.graph, seed), timeout_s=patience) for seed in (0, 1)
        )
    except Exception as error:  # onnxruntime raises a class per status, all private
        raise CompileError(_refusal(model.graph, error)) from error
    for value, one, two in zip(unknown, first, second, strict=True):
        if not isinstance(one, np.ndarray):
            continue  # a sequence: whoever needs a tensor says so
        if np.shape(one) != np.shape(two):
            raise CompileError(
                f"compile: the shape of '{value.name}' depends on the data; a program needs fixed shapes"
            )
        value.shape = ir.Shape(np.shape(one))
        if value.dtype != ir.DataType.BFLOAT16:
            value.type = ir.TensorType(ir.DataType.from_numpy(np.asarray(one).dtype))
    return False


def _observed(value: ir.Value) -> ir.Value:
    """What is looked at for the shape of a value: onnxruntime gives out no bfloat16, so what a Cast makes it of."""
    maker = value.producer()
    source = maker.inputs[0] if maker is not None and maker.op_type == "Cast" else None
    return value if source is None or value.dtype != ir.DataType.BFLOAT16 else source


def _refuse_rows(graph: onnx.GraphProto) -> None:
    """A Loop that is told how often it turns says how much it will collect."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != LOOP or node.domain or node.input[0] not in stored:
            continue
        turns = int(onnx.numpy_helper.to_array(stored[node.input[0]]).reshape(-1)[0])
        [body] = subgraphs.bodies(node)
        for value in body.output[len(node.input) - 1 :]:
            row = math.prod(max(side.dim_value, 1) for side in value.type.tensor_type.shape.dim)
            if turns * row > MOST_ELEMENTS:
                raise CompileError(
                    f"compile: Loop '{node.name or node.output[0]}' would collect {turns} rows of {row} elements, and "
                    f"{MOST_ELEMENTS} elements are the most; make it turn less often"
                )


def feeds_of(graph: ir.Graph, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Zeros, then noise: a shape that follows the data is not the same for both."""
    rng, feeds = np.random.default_rng(seed), {}
    for value in graph.inputs:
        assert value.dtype is not None
        noisy = seed > 0 and value.dtype.is_floating_point()
        array = rng.normal(0, 1, known_shape(value)) if noisy else np.zeros(known_shape(value))
        feeds[str(value.name)] = array.astype(value.dtype.numpy())
    return feeds


def _refusal(graph: ir.Graph, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, TimeoutError):
        guilty = [node for node in graph if node.op_type in (LOOP, SCAN)]
    else:
        guilty = [node for node in graph if node.domain and node.op_type in reason]
    names = ", ".join(f"{qualified(node)} '{label(node)}'" for node in guilty) or "the model"
    return f"compile: neither edgekern nor onnxruntime can run {names}: {reason}"
