"""ONNX's shape inference, held to the shapes that onnxruntime really gives.

The two count differently: the windows of a pooling with ``ceil_mode`` or ``auto_pad``, the sides of a ConvTranspose
with ``auto_pad`` or ``output_shape``, the pixels of a Resize by a fraction, a Slice that begins far outside. Such a
node is run alone, on zeros of its shape: its other operands are constant, so that its shape depends on nothing else.
onnxruntime is right by definition, since it computes the float model and the host steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgekern.errors import CompileError
from edgekern.graph.evaluate import evaluate
from edgekern.graph.families import COUNTED_BY_ATTRIBUTES, COUNTED_BY_OPERANDS, PRODUCTS
from edgekern.graph.skeleton import NUMPY_TYPES, Skeleton

# No schema has this domain: inference leaves such a node alone, and goes on from the shape that is written down.
_SETTLED = "edgekern.settled"

Types = Mapping[str, tuple[int, tuple[int, ...]]]  # element type and shape by name, where both are known


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
        settled: dict[int, list[onnx.ValueInfoProto]] = {}
        while True:
            graph = _inferred(model.proto, settled, self._function)
            types = known_types([*graph.input, *graph.value_info, *graph.output])
            constants = {tensor.name: tensor for tensor in graph.initializer}
            wrong = {}
            for at, node in enumerate(graph.node):
                real = self._real_shapes(model, node, constants, types) if _is_doubtful(node, types) else []
                if any(types.get(value.name) != known_types([value])[value.name] for value in real):
                    wrong[at] = real
            if not wrong:
                _refuse_negative(graph, types, self._function)
                model.proto.graph.CopyFrom(graph)
                return
            settled |= wrong  # the first of them for good: what follows is looked at again

    def _real_shapes(
        self, model: Skeleton, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], types: Types
    ) -> list[onnx.ValueInfoProto]:
        """Types and shapes of a node's results; none where they cannot be known."""
        fed = [name for name in node.input if name and name not in constants and name not in model.weights]
        if any(name not in types or types[name][0] not in NUMPY_TYPES for name in fed):
            return []
        if node.op_type in COUNTED_BY_OPERANDS and fed != [node.input[0]]:
            return []
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


def known_types(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type and shape of every tensor that has both in full."""
    known = {}
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(side.HasField("dim_value") for side in kind.shape.dim):
            known[value.name] = kind.elem_type, tuple(side.dim_value for side in kind.shape.dim)
    return known


def _inferred(
    model: onnx.ModelProto, settled: Mapping[int, Sequence[onnx.ValueInfoProto]], function: str
) -> onnx.GraphProto:
    """The graph with inferred shapes, the results of ``settled`` nodes as given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    if settled:
        copy.opset_import.add(domain=_SETTLED, version=1)
        del graph.value_info[:]  # what was inferred from the wrong shapes
        outputs = {value.name: value for value in graph.output}
        made = {name for node in graph.node for name in node.output}
        for value in graph.output:
            if value.name in made:
                value.type.tensor_type.ClearField("shape")
        for at, values in settled.items():
            graph.node[at].domain = _SETTLED
            for value in values:
                (outputs[value.name] if value.name in outputs else graph.value_info.add()).CopyFrom(value)
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CompileError(f"{function}: the shapes or types of the model contradict each other: {reason}") from error
    for at in settled:
        graph.node[at].domain = model.graph.node[at].domain
    return graph


def _refuse_negative(graph: onnx.GraphProto, types: Types, function: str) -> None:
    for node in graph.node:
        for name in node.output:
            if name in types and min(types[name][1], default=0) < 0:
                raise CompileError(
                    f"{function}: {node.op_type} '{node.name or name}' would give the shape {list(types[name][1])}; "
                    "make its input larger"
                )


def _is_doubtful(node: onnx.NodeProto, types: Types) -> bool:
    if node.domain != "":
        return False
    if node.op_type in COUNTED_BY_ATTRIBUTES | PRODUCTS and 0 in types.get(node.output[0], (0, ()))[1]:
        return True  # most often there is no place for a window
    if node.op_type in COUNTED_BY_OPERANDS:
        return True
    given = {attribute.name: attribute for attribute in node.attribute}
    automatic = "auto_pad" in given and given["auto_pad"].s != b"NOTSET"
    if node.op_type in COUNTED_BY_ATTRIBUTES:
        return automatic or "output_shape" in given or ("ceil_mode" in given and given["ceil_mode"].i != 0)
    # they agree on a Conv, but there is one that onnxruntime does not take
    return node.op_type in PRODUCTS and automatic and "dilations" in given and set(given["dilations"].ints) != {1}
