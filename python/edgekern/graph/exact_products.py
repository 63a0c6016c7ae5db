"""8-bit products that onnxruntime computes as ONNX defines them, on every CPU.

Without VNNI (AVX2, older AVX-512) onnxruntime multiplies uint8 by int8 in pairs that saturate at 16 bits: 6 dB where
values are large. Its products of two operands of one sign are exact. So the second operand gets the sign of the first:
flipping the highest bit adds 128 to each value, and its zero point is 128 higher. (onnxruntime's own option for this,
``session.x64quantprecision``, leaves QLinearMatMul of opset 21 as it is and refuses int8 by int8.)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from edgekern.errors import CompileError
from edgekern.graph.skeleton import Skeleton, Weight, as_input
from edgekern.graph.subgraphs import bodies, names_read

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
_OTHER: dict[int, int] = {TensorProto.UINT8: TensorProto.INT8, TensorProto.INT8: TensorProto.UINT8}


def exact_products(model: Skeleton, *, function: str = "compile") -> Skeleton:
    """The same model where the operands of no 8-bit product differ in sign; the model itself where none do.

    Functions that hold such a product are inlined.

    Raises
    ------
    CompileError
        When one cannot be; ``function`` is for the message.
    """
    inside = [node for made in model.proto.functions for node in made.node]
    proto = model.proto
    if any(map(_has_product, inside)):
        proto = onnx.inliner.inline_local_functions(proto)
        for left in proto.functions:
            if any(map(_has_product, left.node)):
                raise CompileError(
                    f"{function}: function '{left.name}' multiplies 8-bit integers and cannot be inlined; export the "
                    "model with one opset for itself and its functions"
                )
    if not any(map(_has_product, proto.graph.node)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    made = Skeleton(copy, dict(model.weights))
    _Graph(copy.graph, onnx.shape_inference.infer_shapes(proto).graph, made.weights, None).give_same_signs()
    return made


def _operands_of(node: onnx.NodeProto) -> tuple[tuple[int, int, int], ...]:
    return _OPERANDS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type), ())


def _has_product(node: onnx.NodeProto) -> bool:
    """In itself, or in its bodies."""
    return bool(_operands_of(node)) or any(_has_product(inside) for body in bodies(node) for inside in body.node)


class _Graph:
    """A graph whose products are changed, or a body in one: what it does not have itself is looked up around it.

    ``typed`` is the same graph with the types that inference finds.
    """

    def __init__(
        self, graph: onnx.GraphProto, typed: onnx.GraphProto, weights: dict[str, Weight], outer: _Graph | None
    ) -> None:
        self._graph, self._typed, self._weights, self._outer = graph, typed, weights, outer
        self._flipped: dict[str, str] = {}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*typed.output, *typed.value_info, *typed.input)}
        self._types |= {name: tensor.data_type for name, tensor in self._stored.items()}
        self._own = {value.name for value in graph.input} | self._stored.keys()
        self._own.update(name for node in graph.node for name in node.output)

    def give_same_signs(self) -> None:
        """Change its products, and those in its bodies; constants that nobody reads in their old sign are dropped."""
        nodes: list[onnx.NodeProto] = []
        for node, typed_node in zip(self._graph.node, self._typed.node, strict=True):
            for body, typed in zip(bodies(node), bodies(typed_node), strict=True):
                if any(map(_has_product, body.node)):
                    _Graph(body, typed, {}, self).give_same_signs()
            for first, second, zero_point in _operands_of(node):
                nodes += self._change(node, first, second, zero_point)
            nodes.append(node)
        changed = type(self._graph)(node=nodes)
        del self._graph.node[:]
        self._graph.node.extend(changed.node)
        self._drop_unread()

    def _drop_unread(self) -> None:
        graph = self._graph
        read = {name for node in graph.node for name in names_read(node)} | {value.name for value in graph.output}
        gone = (self._flipped.keys() & (self._stored.keys() | self._weights.keys())) - read
        tensors = [tensor for tensor in graph.initializer if tensor.name not in gone]
        inputs = [value for value in graph.input if value.name not in gone]
        del graph.initializer[:], graph.input[:]
        graph.initializer.extend(tensors)
        graph.input.extend(inputs)
        for name in gone:
            self._weights.pop(name, None)

    def _home(self, name: str) -> _Graph:
        """The graph, from here outwards, that has a name."""
        return self if name in self._own or self._outer is None else self._outer._home(name)

    def _type(self, name: str) -> int | None:
        return self._home(name)._types.get(name)

    def _change(self, node: onnx.NodeProto, first: int, second: int, zero_point: int) -> Iterator[onnx.NodeProto]:
        """Give the operands of one product one sign; yields what computes its new ones."""
        wanted = TensorProto.UINT8 if first == _QUANTIZED_HERE else self._type(node.input[first])
        found = self._type(node.input[second])
        if wanted is None or found is None or _OTHER.get(wanted) != found:
            return
        node.input.extend([""] * (zero_point + 1 - len(node.input)))
        if not node.input[zero_point]:
            node.input[zero_point] = self._zero(found)
        for at in (second, zero_point):
            node.input[at] = yield from self._flip(node.input[at], wanted)

    def _zero(self, kind: int) -> str:
        if self._outer is not None:
            return self._outer._zero(kind)
        name = f"edgekern.zero.{kind}"
        if name not in self._stored:
            self._add(helper.make_tensor(name, kind, [], [0]))
        return name

    def _add(self, tensor: onnx.TensorProto) -> None:
        self._graph.initializer.append(tensor)
        self._stored[tensor.name] = tensor
        self._types[tensor.name] = tensor.data_type
        self._own.add(tensor.name)

    def _flip(self, name: str, wanted: int) -> Generator[onnx.NodeProto, None, str]:
        """The highest bit of a constant at once, where it is stored; of what is computed by arithmetic, here."""
        home = self._home(name)
        if name not in home._stored and name not in home._weights:
            return (yield from self._flip_computed(name, wanted))
        if name in home._flipped:
            return home._flipped[name]
        result = home._flipped[name] = f"{name}.edgekern.flipped"
        if name in home._stored:
            array = numpy_helper.to_array(home._stored[name])
            home._add(numpy_helper.from_array(_flip(array).view(helper.tensor_dtype_to_np_dtype(wanted)), result))
        else:
            home._add_weight(home._weights[name], result, wanted)
        return result

    def _flip_computed(self, name: str, wanted: int) -> Generator[onnx.NodeProto, None, str]:
        if name in self._flipped:
            return self._flipped[name]
        depth = self._depth()
        result = self._flipped[name] = f"{name}.edgekern.flipped" + (f".{depth}" if depth else "")  # shadows none
        wide, moved, step = f"{result}.wide", f"{result}.moved", f"{result}.step"
        shift = 128 if wanted == TensorProto.UINT8 else -128
        self._add(numpy_helper.from_array(np.asarray(shift, np.int32), step))
        yield helper.make_node("Cast", [name], [wide], to=TensorProto.INT32)
        yield helper.make_node("Add", [wide, step], [moved])
        yield helper.make_node("Cast", [moved], [result], to=wanted)
        return result

    def _depth(self) -> int:
        return 0 if self._outer is None else self._outer._depth() + 1

    def _add_weight(self, weight: Weight, name: str, kind: int) -> None:
        header = onnx.TensorProto()
        header.CopyFrom(weight.header)
        header.name, header.data_type = name, kind
        read = weight.read
        flipped = replace(
            weight, header=header, read=lambda start, stop: _flip(np.frombuffer(read(start, stop), np.uint8)).data
        )
        self._weights[name] = flipped
        self._graph.input.append(as_input(header))
        self._own.add(name)


def _flip(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.asarray(array, order="C").view(np.uint8) ^ np.uint8(128)
