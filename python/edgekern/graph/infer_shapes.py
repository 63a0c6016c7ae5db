"""ONNX's shape inference, held to the shapes that onnxruntime really gives.

The two count differently: the windows of a pooling with ``ceil_mode`` or ``auto_pad``, the sides of a ConvTranspose
with ``auto_pad`` or ``output_shape``, the pixels of a Resize by a fraction, a Slice that begins far outside. Such a
node is run alone, on zeros of its shape: its other operands are constant, so that its shape depends on nothing else.
onnxruntime is right by definition, since it computes the float model and the host steps. Where one stands in a body of
an If, Loop or Scan, the shapes of their results are left open, and so is what inference wrote down within.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from edgekern.errors import CompileError
from edgekern.graph.counted import Types, forget_sizes, is_doubtful, known_types
from edgekern.graph.dimensions import MOST_ELEMENTS
from edgekern.graph.evaluate import evaluate
from edgekern.graph.families import COUNTED_BY_OPERANDS
from edgekern.graph.inference import HIDDEN, infer_values
from edgekern.graph.skeleton import NUMPY_TYPES, Skeleton
from edgekern.graph.subgraphs import bodies

Settled = dict[int, tuple[onnx.NodeProto, list[onnx.ValueInfoProto]]]  # by its place: a node, and what it gives


class ShapeInference:
    """Infers the shapes of one model again and again, while its constants are folded; ``function`` is for errors."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._seen: dict[tuple[object, ...], list[onnx.ValueInfoProto]] = {}

    def infer(self, model: Skeleton) -> None:
        """Write into ``model`` the shapes that can be known.

        Raises
        ------
        CompileError
            When types or shapes contradict each other, or onnxruntime cannot run such a node.
        """
        settled: Settled = {}
        while True:
            graph = _inferred(model.proto, settled, self._function)
            types = known_types([*graph.input, *graph.value_info, *graph.output])
            constants = {tensor.name: tensor for tensor in graph.initializer}
            wrong: Settled = {}
            for at, node in enumerate(graph.node):
                if at not in settled and self._is_wrong_within(model, node, constants, types):
                    wrong[at] = _left_open(graph, node)
                try:
                    real = self._real_shapes(model, node, constants, types) if is_doubtful(node, types) else []
                except CompileError:
                    if not wrong:
                        raise
                    break  # its input may be counted wrongly
                if any(types.get(value.name) != known_types([value])[value.name] for value in real):
                    wrong[at] = node, real
            if not wrong:
                _refuse_negative(graph, types, self._function)
                model.proto.graph.CopyFrom(graph)
                return
            settled |= wrong  # the first of them for good: what follows is looked at again

    def _is_wrong_within(
        self, model: Skeleton, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], types: Types
    ) -> bool:
        """Whether a body of a node has one whose inferred shape is not the real one, or may be another."""
        for body in bodies(node):
            seen = {**types, **known_types([*body.input, *body.value_info, *body.output])}
            held = {**constants, **{tensor.name: tensor for tensor in body.initializer}}
            for inside in body.node:
                if inside.op_type == "Constant" and inside.attribute[0].HasField("t"):
                    tensor = onnx.TensorProto.FromString(inside.attribute[0].t.SerializeToString())
                    tensor.name = inside.output[0]
                    held[tensor.name] = tensor
                if is_doubtful(inside, seen) and any(name in seen for name in inside.output):
                    try:
                        real = known_types(self._real_shapes(model, inside, held, seen))
                    except CompileError:  # it may never run
                        return True
                    if any(seen.get(name) != real.get(name) for name in inside.output if name):
                        return True
                if self._is_wrong_within(model, inside, held, seen):
                    return True
        return False

    def _real_shapes(
        self, model: Skeleton, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], types: Types
    ) -> list[onnx.ValueInfoProto]:
        """Types and shapes of a node's results; none where they cannot be known."""
        fed = [name for name in node.input if name and name not in constants and name not in model.weights]
        if any(name not in types or types[name][0] not in NUMPY_TYPES for name in fed):
            return []
        if node.op_type in COUNTED_BY_OPERANDS and fed != [node.input[0]]:
            return []
        if any(math.prod(types[name][1]) > MOST_ELEMENTS for name in (*fed, *node.output) if name in types):
            return []  # what inference says, then: nobody makes that to count it
        operands = [constants[name].SerializeToString() for name in node.input if name in constants]
        key = node.SerializeToString(), *operands, *(types[name] for name in fed)
        if key not in self._seen:
            kinds = {name: helper.tensor_dtype_to_np_dtype(types[name][0]) for name in fed}
            feeds = {name: np.zeros(types[name][1], kind) for name, kind in kinds.items()}
            names = [name for name in node.output if name]
            try:
                results = evaluate(model, [node], constants, names, feeds, function=self._function)
            except CompileError as error:
                if type(error.__cause__).__name__ != "NotImplemented":
                    raise
                results, names = [], []  # of this type only kernels may know it
            self._seen[key] = [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(result.dtype), result.shape)
                for name, result in zip(names, results, strict=True)
            ]
        return self._seen[key]


def _left_open(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.ValueInfoProto]]:
    """A node whose bodies count, and its results without their shapes."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for body in bodies(copy):
        forget_sizes(body)
    values = []
    for value in (*graph.value_info, *graph.output):
        if value.name in node.output:
            values.append(onnx.ValueInfoProto.FromString(value.SerializeToString()))
            if value.type.HasField("tensor_type"):
                values[-1].type.tensor_type.ClearField("shape")
    return copy, values


def _inferred(model: onnx.ModelProto, settled: Settled, function: str) -> onnx.GraphProto:
    """The graph with inferred shapes, the results of ``settled`` nodes as given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    if settled:
        copy.opset_import.add(domain=HIDDEN, version=1)
        del graph.value_info[:]  # what was inferred from the wrong shapes, here and in bodies
        for body in (body for node in graph.node for body in bodies(node)):
            forget_sizes(body)
        outputs = {value.name: value for value in graph.output}
        made = {name for node in graph.node for name in node.output}
        for value in graph.output:
            if value.name in made:
                value.type.tensor_type.ClearField("shape")
        for at, (_, values) in settled.items():
            graph.node[at].domain = HIDDEN
            for value in values:
                (outputs[value.name] if value.name in outputs else graph.value_info.add()).CopyFrom(value)
    try:
        graph = infer_values(copy).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CompileError(f"{function}: the shapes or types of the model contradict each other: {reason}") from error
    for at, (node, _) in settled.items():
        graph.node[at].CopyFrom(node)
    return graph


def _refuse_negative(graph: onnx.GraphProto, types: Types, function: str) -> None:
    for node in graph.node:
        for name in node.output:
            if name in types and min(types[name][1], default=0) < 0:
                raise CompileError(
                    f"{function}: {node.op_type} '{node.name or name}' would give the shape {list(types[name][1])}; "
                    "make its input larger"
                )
