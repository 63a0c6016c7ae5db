"""Compute at compile time what does not depend on the inputs: constants, shapes, quantized weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgekern.compiler.evaluate import evaluate
from edgekern.compiler.infer_shapes import ShapeInference, known_types
from edgekern.graph.families import RANDOM
from edgekern.graph.skeleton import Skeleton

# Random results are no constants; a dequantized weight stays what it is, so that later passes see its int8.
_KEPT = RANDOM | {"DequantizeLinear"}
_ROUNDS = 16


def fold_constants(model: Skeleton) -> None:
    """Infer shapes and replace constant nodes by initializers, until nothing changes."""
    shapes = ShapeInference()
    for _ in range(_ROUNDS):
        shapes.infer(model)
        if not _fold_once(model):
            return


def _fold_once(model: Skeleton) -> bool:
    graph = model.proto.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {name: shape for name, (_, shape) in known_types([*graph.input, *graph.value_info, *graph.output]).items()}
    folded: list[onnx.NodeProto] = []
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    names = {*known, *model.weights}
    for node in graph.node:
        if node.op_type in ("Shape", "Size") and node.domain == "" and node.input[0] in shapes:
            arrays[node.output[0]] = _shape_result(node, shapes[node.input[0]])
        elif node.op_type not in _KEPT and not _has_body(node) and all(name in names for name in node.input if name):
            folded.append(node)
        else:
            continue
        names.update(node.output)
    if not folded and not arrays:
        return False
    gone = {name for node in folded for name in node.output} | set(arrays)
    read = {name for node in graph.node for name in node.input if not set(node.output) <= gone}
    wanted = sorted(name for name in gone & (read | {value.name for value in graph.output}) if name not in arrays)
    shape_constants = {name: numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()}
    if wanted:
        arrays |= dict(zip(wanted, evaluate(model, folded, {**known, **shape_constants}, wanted), strict=True))
    kept = [node for node in graph.node if not set(node.output) <= gone]
    del graph.node[:]
    graph.node.extend(kept)
    for name, array in arrays.items():
        model.add_constant(np.asarray(array), name)
    return True


def _shape_result(node: onnx.NodeProto, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
