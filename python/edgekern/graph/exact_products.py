"""8-bit products that onnxruntime computes as ONNX defines them, on every CPU.

Without VNNI (AVX2, older AVX-512) onnxruntime multiplies uint8 by int8 in pairs that saturate at 16 bits: 6 dB where
values are large. Its products of two operands of one sign are exact. So the second operand gets the sign of the first:
flipping the highest bit adds 128 to each value, and its zero point is 128 higher. (onnxruntime's own option for this,
``session.x64quantprecision``, leaves QLinearMatMul of opset 21 as it is and refuses int8 by int8.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekern.graph.skeleton import Skeleton, Weight, as_input

_THEIRS = "com.microsoft"
_QUANTIZED_HERE = -1  # the node makes uint8 of a float operand by itself
# Where each operator has its first operand, its second one, and that one's zero point.
_OPERANDS: dict[tuple[str, str], tuple[tuple[int, int, int], ...]] = {
    ("", "MatMulInteger"): ((0, 1, 3),),
    ("", "ConvInteger"): ((0, 1, 3),),
    ("", "QLinearMatMul"): ((0, 3, 5),),
    ("", "QLinearConv"): ((0, 3, 5),),
    (_THEIRS, "QGemm"): ((0, 3, 5),),
    (_THEIRS, "MatMulIntegerToFloat"): ((0, 1, 5),),
    (_THEIRS, "DynamicQuantizeMatMul"): ((_QUANTIZED_HERE, 1, 3),),
    (_THEIRS, "DynamicQuantizeLSTM"): ((_QUANTIZED_HERE, 1, 9), (_QUANTIZED_HERE, 2, 11)),
}
_OTHER = {TensorProto.UINT8: TensorProto.INT8, TensorProto.INT8: TensorProto.UINT8}


def exact_products(model: Skeleton) -> Skeleton:
    """The same model where the operands of no 8-bit product differ in sign; the model itself where none do."""
    if not any(_operands_of(node) for node in model.proto.graph.node):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    work = _Work(Skeleton(proto, dict(model.weights)))
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        for first, second, zero_point in _operands_of(node):
            nodes += work.give_same_sign(node, first, second, zero_point)
        nodes.append(node)
    work.drop_unread(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return work.model


def _operands_of(node: onnx.NodeProto) -> tuple[tuple[int, int, int], ...]:
    return _OPERANDS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type), ())


class _Work:
    def __init__(self, model: Skeleton) -> None:
        self.model, self._flipped = model, dict[str, str]()
        graph = onnx.shape_inference.infer_shapes(model.proto).graph
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        self._stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self._types |= {name: tensor.data_type for name, tensor in self._stored.items()}

    def give_same_sign(
        self, node: onnx.NodeProto, first: int, second: int, zero_point: int
    ) -> Iterator[onnx.NodeProto]:
        """Change one product; yields what computes its new operands."""
        wanted = TensorProto.UINT8 if first == _QUANTIZED_HERE else self._types.get(node.input[first])
        found = self._types.get(node.input[second])
        if wanted not in _OTHER or found != _OTHER[wanted]:
            return
        node.input.extend([""] * (zero_point + 1 - len(node.input)))
        if not node.input[zero_point]:
            node.input[zero_point] = self._zero(found)
        for at in (second, zero_point):
            yield from self._flip(node.input[at], wanted)
            node.input[at] = self._flipped[node.input[at]]

    def drop_unread(self, nodes: list[onnx.NodeProto]) -> None:
        """Constants that nobody reads in their old sign."""
        graph = self.model.proto.graph
        constants = self._stored.keys() | self.model.weights.keys()
        gone = (self._flipped.keys() & constants) - set(_names_read(nodes)) - {value.name for value in graph.output}
        tensors = [tensor for tensor in graph.initializer if tensor.name not in gone]
        inputs = [value for value in graph.input if value.name not in gone]
        del graph.initializer[:], graph.input[:]
        graph.initializer.extend(tensors)
        graph.input.extend(inputs)
        for name in gone:
            self.model.weights.pop(name, None)

    def _zero(self, kind: int) -> str:
        name = f"edgekern.zero.{kind}"
        if name not in self._stored:
            self._add(helper.make_tensor(name, kind, [], [0]))
        return name

    def _add(self, tensor: onnx.TensorProto) -> None:
        self.model.proto.graph.initializer.append(tensor)
        self._stored[tensor.name] = tensor

    def _flip(self, name: str, wanted: int) -> Iterator[onnx.NodeProto]:
        """The highest bit of a constant at once, of what is computed by arithmetic."""
        if name in self._flipped:
            return
        result = self._flipped[name] = f"{name}.edgekern.flipped"
        if name in self._stored:
            array = numpy_helper.to_array(self._stored[name])
            self._add(numpy_helper.from_array(_flip(array).view(helper.tensor_dtype_to_np_dtype(wanted)), result))
        elif name in self.model.weights:
            self._add_weight(self.model.weights[name], result, wanted)
        else:
            wide, moved, step = f"{result}.wide", f"{result}.moved", f"{result}.step"
            shift = 128 if wanted == TensorProto.UINT8 else -128
            self._add(numpy_helper.from_array(np.asarray(shift, np.int32), step))
            yield helper.make_node("Cast", [name], [wide], to=TensorProto.INT32)
            yield helper.make_node("Add", [wide, step], [moved])
            yield helper.make_node("Cast", [moved], [result], to=wanted)

    def _add_weight(self, weight: Weight, name: str, kind: int) -> None:
        header = onnx.TensorProto()
        header.CopyFrom(weight.header)
        header.name, header.data_type = name, kind
        read = weight.read
        flipped = replace(
            weight, header=header, read=lambda start, stop: _flip(np.frombuffer(read(start, stop), np.uint8)).data
        )
        self.model.weights[name] = flipped
        self.model.proto.graph.input.append(as_input(header))


def _flip(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.asarray(array, order="C").view(np.uint8) ^ np.uint8(128)


def _names_read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """By the nodes and in their bodies, whatever a name means there."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for body in (*attribute.graphs, attribute.g):
                yield from _names_read(body.node)
                yield from (value.name for value in body.output)
