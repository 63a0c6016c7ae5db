"""Operators that onnxruntime quantizes by integers (QLinearConv, QGemm, ...), as the Q, DQ and float nodes they mean.

What an integer product multiplies at run time (MatMulInteger, ConvInteger, DynamicQuantizeLinear) stays as it is: those
have kernels. onnxruntime's fused forms of them become these again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekern.graph.block_weights import rows_may_be_codes, write_blocks
from edgekern.graph.dynamic import mark_dynamic
from edgekern.graph.opset import opset_of
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.subgraphs import bodies

_THEIRS = "com.microsoft"
_AXES_ARE_INPUTS = 18  # of ReduceMean
_NEW_SOFTMAX = 13


def write_integer_forms(model: Skeleton) -> None:
    """Replace them in place, those in bodies as well; one in a form that has no such meaning stays."""
    if any(map(_has_form, model.proto.graph.node)):
        _Writer(model).write(model.proto.graph)


def _has_form(node: onnx.NodeProto) -> bool:
    return (_domain(node), node.op_type) in _FORMS or any(_has_form(inner) for b in bodies(node) for inner in b.node)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


class _Writer:
    """One model on its way."""

    def __init__(self, model: Skeleton) -> None:
        self.model, self.opset, self._count = model, opset_of(model.proto), 0
        self.nodes: list[onnx.NodeProto] = []
        self._stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}

    def write(self, graph: onnx.GraphProto) -> None:
        outer, self.nodes = self.nodes, []
        for node in graph.node:
            for body in bodies(node):
                self.write(body)
            form = _FORMS.get((_domain(node), node.op_type))
            before = len(self.nodes)
            if form is None or not form.fits(node) or not form.write(self, node):
                del self.nodes[before:]
                self.nodes.append(node)
        written = onnx.GraphProto(node=self.nodes)
        del graph.node[:]
        graph.node.extend(written.node)
        self.nodes = outer

    def op(self, kind: str, inputs: Sequence[str], output: str = "", name: str = "", **attributes: Any) -> str:
        self._count += 1
        output = output or f"edgekern.{kind}.{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or output, **attributes))
        return output

    def constant(self, array: Any) -> str:
        self._count += 1
        name = f"edgekern.constant.{self._count}"
        self.model.add_constant(np.asarray(array), name)
        return name

    def real(self, parameters: Sequence[str], axis: int | None = None) -> str:
        """A code tensor, its scale and its zero point as the real tensor that they stand for."""
        code, scale, zero = parameters
        if axis is not None:
            scale, zero = self._row(scale), self._row(zero)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self.op("DequantizeLinear", [code, scale, *([zero] if zero else [])], **attributes)

    def _row(self, name: str) -> str:
        """Parameters of each column as a vector: QLinearMatMul may have them as a matrix of one row."""
        found = self.shape_of(name)
        if found is None or len(found) <= 1:
            return name
        return self.op("Reshape", [name, self.constant(np.array([-1], np.int64))])

    def code(self, real: str, scale: str, zero: str, node: onnx.NodeProto) -> bool:
        """The result of a node: a real tensor quantized."""
        self.op("QuantizeLinear", [real, scale, *([zero] if zero else [])], node.output[0], name=node.output[0])
        return True

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Of an initializer."""
        if name in self.model.weights:
            return self.model.weights[name].shape
        return tuple(self._stored[name].dims) if name in self._stored else None

    def array_of(self, name: str) -> Any:
        """An initializer's data, else None."""
        if name in self.model.weights:
            return self.model.weights[name].array()
        return numpy_helper.to_array(self._stored[name]) if name in self._stored else None


def _given(node: onnx.NodeProto, count: int) -> list[str]:
    return [*node.input, *[""] * count][:count]


def _attributes(node: onnx.NodeProto, *left_out: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in left_out}


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    kinds = onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT
    found = next((a for a in node.attribute if a.name == name and a.type in kinds), None)
    return default if found is None else helper.get_attribute_value(found)


def _is_channels_last(node: onnx.NodeProto) -> bool:
    return bool(_number(node, "channels_last", 0))


def _conv(w: _Writer, node: onnx.NodeProto) -> bool:
    if _is_channels_last(node):
        return False
    *operands, y_scale, y_zero, bias = _given(node, 9)
    x, weights = w.real(operands[:3]), w.real(operands[3:], axis=0)
    inputs = [x, weights]
    if bias:
        inputs.append(w.op("DequantizeLinear", [bias, w.op("Mul", [operands[1], operands[4]])], axis=0))
    real = w.op("Conv", inputs, name=node.name, **_attributes(node, "channels_last"))
    return w.code(real, y_scale, y_zero, node)


def _matmul(w: _Writer, node: onnx.NodeProto) -> bool:
    *operands, y_scale, y_zero = _given(node, 8)
    real = w.op("MatMul", [w.real(operands[:3]), w.real(operands[3:], axis=-1)], name=node.name)
    return w.code(real, y_scale, y_zero, node)


def _gemm(w: _Writer, node: onnx.NodeProto) -> bool:
    *operands, bias, y_scale, y_zero = _given(node, 9)
    columns = 0 if _number(node, "transB", 0) else 1
    inputs = [w.real(operands[:3]), w.real(operands[3:], axis=columns)]
    if bias:
        step = w.op("Mul", [operands[1], operands[4]])
        if (alpha := _number(node, "alpha", 1.0)) != 1.0:
            step = w.op("Mul", [step, w.constant(np.float32(alpha))])
        inputs.append(w.op("DequantizeLinear", [bias, step], axis=0))
    if y_scale:
        return w.code(w.op("Gemm", inputs, name=node.name, **_attributes(node)), y_scale, y_zero, node)
    w.op("Gemm", inputs, node.output[0], name=node.name, **_attributes(node))
    return True


def _of_two(kind: str) -> Callable[[_Writer, onnx.NodeProto], bool]:
    def write(w: _Writer, node: onnx.NodeProto) -> bool:
        *operands, y_scale, y_zero = _given(node, 8)
        real = w.op(kind, [w.real(operands[:3]), w.real(operands[3:])], name=node.name)
        return w.code(real, y_scale, y_zero, node)

    return write


def _of_one(kind: str) -> Callable[[_Writer, onnx.NodeProto], bool]:
    def write(w: _Writer, node: onnx.NodeProto) -> bool:
        if _is_channels_last(node):
            return False
        *operands, y_scale, y_zero = _given(node, 5)
        real = w.op(kind, [w.real(operands)], name=node.name, **_attributes(node, "channels_last"))
        return w.code(real, y_scale, y_zero, node)

    return write


def _softmax(w: _Writer, node: onnx.NodeProto) -> bool:
    *operands, y_scale, y_zero = _given(node, 5)
    new = _number(node, "opset", 1) >= _NEW_SOFTMAX
    axis = int(_number(node, "axis", -1 if new else 1))
    x = w.real(operands)
    if new or axis == -1:
        return w.code(w.op("Softmax", [x], name=node.name, axis=axis), y_scale, y_zero, node)
    shape = w.op("Shape", [x])  # before opset 13 over all axes from one on
    soft = w.op("Softmax", [w.op("Flatten", [x], axis=axis)], name=node.name, axis=-1)
    return w.code(w.op("Reshape", [soft, shape]), y_scale, y_zero, node)


def _mean(w: _Writer, node: onnx.NodeProto) -> bool:
    *operands, y_scale, y_zero = _given(node, 5)
    attributes = _attributes(node)
    inputs = [w.real(operands)]
    if w.opset >= _AXES_ARE_INPUTS and (axes := attributes.pop("axes", None)):
        inputs.append(w.constant(np.array(axes, np.int64)))
    return w.code(w.op("ReduceMean", inputs, name=node.name, **attributes), y_scale, y_zero, node)


def _concat(w: _Writer, node: onnx.NodeProto) -> bool:
    y_scale, y_zero, *pieces = node.input
    if len(pieces) % 3 or not all(pieces):
        return False
    real = [w.real(pieces[at : at + 3]) for at in range(0, len(pieces), 3)]
    return w.code(w.op("Concat", real, name=node.name, **_attributes(node)), y_scale, y_zero, node)


def _where(w: _Writer, node: onnx.NodeProto) -> bool:
    condition, *operands, y_scale, y_zero = _given(node, 9)
    real = w.op("Where", [condition, w.real(operands[:3]), w.real(operands[3:])], name=node.name)
    return w.code(real, y_scale, y_zero, node)


def _matmul_to_float(w: _Writer, node: onnx.NodeProto) -> bool:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _given(node, 7)
    return _scaled_product(w, node, [a, b, a_zero, b_zero], [a_scale, b_scale], bias)


def _dynamic_matmul(w: _Writer, node: onnx.NodeProto) -> bool:
    a, b, b_scale, b_zero, bias = _given(node, 5)
    code, scale, zero = (f"edgekern.{part}.{node.output[0]}" for part in ("codes", "scale", "zero_point"))
    w.nodes.append(helper.make_node("DynamicQuantizeLinear", [a], [code, scale, zero], name=code))
    return _scaled_product(w, node, [code, b, zero, b_zero], [scale, b_scale], bias)


def _scaled_product(w: _Writer, node: onnx.NodeProto, product: list[str], scales: list[str], bias: str) -> bool:
    while product and not product[-1]:
        product.pop()
    real = w.op("Cast", [w.op("MatMulInteger", product, name=node.name)], to=TensorProto.FLOAT)
    w.op("Mul", [real, w.op("Mul", scales)], "" if bias else node.output[0])
    if bias:
        w.op("Add", [w.nodes[-1].output[0], bias], node.output[0])
    return True


def _blocks(w: _Writer, node: onnx.NodeProto) -> bool:
    arrays = [w.array_of(name) if name else None for name in _given(node, 6)]
    if not write_blocks(w.op, w.constant, node, arrays, w.opset):
        return False
    if rows_may_be_codes(node):
        mark_dynamic(next(made for made in reversed(w.nodes) if made.op_type == "MatMul"))
    return True


@dataclass(frozen=True)
class _Form:
    """How an operator is written, and the inputs that it cannot be without."""

    write: Callable[[_Writer, onnx.NodeProto], bool]
    needs: tuple[int, ...]

    def fits(self, node: onnx.NodeProto) -> bool:
        given = _given(node, max(self.needs) + 1)
        return all(given[at] for at in self.needs) and len(node.output) > 0 and bool(node.output[0])


_TWO, _ONE = (0, 1, 3, 4, 6), (0, 1, 3)
_FORMS: dict[tuple[str, str], _Form] = {
    ("", "QLinearConv"): _Form(_conv, _TWO),
    (_THEIRS, "QLinearConv"): _Form(_conv, _TWO),
    ("", "QLinearMatMul"): _Form(_matmul, _TWO),
    (_THEIRS, "QGemm"): _Form(_gemm, _TWO[:-1]),
    **{(_THEIRS, f"QLinear{kind}"): _Form(_of_two(kind), _TWO) for kind in ("Add", "Mul")},
    **{(_THEIRS, f"QLinear{kind}"): _Form(_of_one(kind), _ONE) for kind in ("Sigmoid", "LeakyRelu")},
    **{(_THEIRS, f"QLinear{kind}"): _Form(_of_one(kind), _ONE) for kind in ("AveragePool", "GlobalAveragePool")},
    (_THEIRS, "QLinearSoftmax"): _Form(_softmax, _ONE),
    (_THEIRS, "QLinearReduceMean"): _Form(_mean, _ONE),
    (_THEIRS, "QLinearConcat"): _Form(_concat, (0, 1, 2, 3, 4)),
    (_THEIRS, "QLinearWhere"): _Form(_where, (0, 1, 2, 4, 5, 7)),
    (_THEIRS, "MatMulIntegerToFloat"): _Form(_matmul_to_float, (0, 1, 2, 3)),
    (_THEIRS, "DynamicQuantizeMatMul"): _Form(_dynamic_matmul, (0, 1, 2)),
    (_THEIRS, "MatMulNBits"): _Form(_blocks, (0, 1, 2)),
}
FORMS = frozenset(op for domain, op in _FORMS if not domain)  # of ONNX's own
