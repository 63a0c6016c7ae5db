"""Reductions over any axes, ArgMax and ArgMin, Softmax and LogSoftmax: [outer, n, inner] as the tensor lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import emit_map
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, used_outputs
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import in_onnx_order, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.families import reduced_axes
from edgekern.graph.values import constant, int_attribute, known_shape, label, operands

SUM, MEAN, MAX, MIN, _PROD, ABS_SUM, SQUARE_SUM = range(7)  # REDUCE's `op`
# The first group of neighboring axes, the groups after it, and what follows at the end.
_OPS = {
    "ReduceSum": (SUM, SUM, None),
    "ReduceMean": (MEAN, MEAN, None),
    "ReduceMax": (MAX, MAX, None),
    "ReduceMin": (MIN, MIN, None),
    "ReduceProd": (_PROD, _PROD, None),
    "ReduceL1": (ABS_SUM, SUM, None),
    "ReduceL2": (SQUARE_SUM, SUM, MapOp.SQRT),
    "ReduceSumSquare": (SQUARE_SUM, SUM, None),
    "ReduceLogSum": (SUM, SUM, MapOp.LOG),
}
_OF_INTEGERS = frozenset({"ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin"})
_ARGS = frozenset({"ArgMax", "ArgMin"})
_SOFT = frozenset({"Softmax", "LogSoftmax"})


def reason(node: ir.Node) -> str | None:
    whole = {ir.DataType.INT64} if node.op_type in _OF_INTEGERS else set()
    wrong = _type_reason(node, FLOAT | whole)
    if wrong is not None:
        return wrong
    if 0 in known_shape(node.inputs[0]):
        return f"{node.op_type} of nothing has no kernel"
    if len(node.inputs) > 1 and node.inputs[1] is not None and constant(node.inputs[1]) is None:
        return "its shape depends on the data"
    return None


def _type_reason(node: ir.Node, allowed: frozenset[ir.DataType] | set[ir.DataType]) -> str | None:
    """Of its data: axes are integers."""
    data = node.inputs[0]
    if data is not None and data.dtype in allowed and all(value.dtype is not None for value in used_outputs(node)):
        return None
    name = "an unknown type" if data is None or data.dtype is None else data.dtype.name
    return f"it reads {name}, for which {node.op_type} has no kernel"


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = next(operands(node))
    x = lowering.real(source)
    if node.op_type in _SOFT:
        return _softmax(lowering, node, value, x)
    rank = len(x.shape)
    if node.op_type in _ARGS:
        axes = [int_attribute(node, "axis", 0) % rank]
        y = arg_extreme(lowering, node, x, _stored(x, axes)[0], largest=node.op_type == "ArgMax")
    else:
        axes = reduced_axes(node, rank)
        y = (
            _log_sum_exp(lowering, node, x, axes)
            if node.op_type == "ReduceLogSumExp"
            else _reduce(lowering, node, x, axes)
        )
    y.name = str(value.name)
    return without(lowering, y, axes, known_shape(value))


def without(lowering: Lowering, y: Tensor, axes: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """A reduced tensor with its reduced axes, of one element each, or without them, as ``shape`` has it."""
    order = y.order or tuple(range(len(y.shape)))
    if len(shape) == len(y.shape):
        return y
    left = [axis for axis in order if axis not in axes]
    return view(y if left == sorted(left) else in_onnx_order(lowering, y), shape=shape, order=())


def reduce_axes(lowering: Lowering, x: Tensor, axes: Sequence[int], ops: tuple[int, int], name: str, op: str) -> Tensor:
    """Reduce over ONNX's ``axes``, group by group of those that lie side by side; they keep one element."""
    places = _stored(x, axes)
    groups: list[list[int]] = []
    for place in places:
        if groups and all(x.shape[at] == 1 for at in range(groups[-1][-1] + 1, place)):
            groups[-1].append(place)
        else:
            groups.append([place])
    kind = ops[0]
    for group in reversed(groups):
        first, last = group[0], group[-1]
        shape = tuple(1 if first <= at <= last else side for at, side in enumerate(x.shape))
        arguments = {
            "outer": math.prod(x.shape[:first]),
            "n": math.prod(x.shape[first : last + 1]),
            "inner": math.prod(x.shape[last + 1 :]),
            "op": kind,
        }
        y = Tensor(name, x.dtype, shape, order=x.order)
        x = lowering.emit(KernelStep(StepKind.REDUCE, name, op, [x], y, arguments=arguments))
        kind = ops[1]
    return x


def _reduce(lowering: Lowering, node: ir.Node, x: Tensor, axes: Sequence[int]) -> Tensor:
    first, after, last = _OPS[node.op_type]
    if not axes:  # nothing is reduced, and each element is its own sum
        first_map = {ABS_SUM: MapOp.ABS, SQUARE_SUM: MapOp.MUL}.get(first, MapOp.COPY)
        refs = (Operand(0), Operand(0)) if first_map is MapOp.MUL else (Operand(0),)
        x = element_wise(lowering, node, [x], [(first_map, refs)], x.shape)
    else:
        x = reduce_axes(lowering, x, axes, (first, after), label(node), node.op_type)
    return x if last is None else element_wise(lowering, node, [x], [(last, (Operand(0),))], x.shape)


def _log_sum_exp(lowering: Lowering, node: ir.Node, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Around the largest element, where that is finite."""
    name = label(node)
    largest = reduce_axes(lowering, x, axes, (MAX, MAX), name, node.op_type)
    zero = (MapOp.WHERE, (Result(0), 0.0, Operand(0)))
    shift = element_wise(lowering, node, [largest], [(MapOp.IS_INF, (Operand(0),)), zero], largest.shape)
    code: list[Instruction] = [(MapOp.SUB, (Operand(0), Operand(1))), (MapOp.EXP, (Result(0),))]
    powers = element_wise(lowering, node, [x, shift], code, x.shape)
    total = reduce_axes(lowering, powers, axes, (SUM, SUM), name, node.op_type)
    code = [(MapOp.LOG, (Operand(0),)), (MapOp.ADD, (Result(0), Operand(1)))]
    return element_wise(lowering, node, [total, shift], code, total.shape)


def element_wise(
    lowering: Lowering, node: ir.Node, inputs: list[Tensor], code: list[Instruction], shape: tuple[int, ...]
) -> Tensor:
    """Instructions on tensors that lie in one order, as a step."""
    x = inputs[0]
    kind = StepKind.MAP_I64 if x.dtype == DType.I64 else StepKind.MAP
    y = Tensor(label(node), x.dtype, shape, order=x.order)
    return emit_map(lowering, MapStep(kind, label(node), node.op_type, [], y, operands=list(inputs)), code)


def arg_extreme(lowering: Lowering, node: ir.Node, x: Tensor, place: int, *, largest: bool) -> Tensor:
    """Where the largest or smallest number along a stored axis stands, which keeps one element."""
    shape = tuple(1 if at == place else side for at, side in enumerate(x.shape))
    arguments = {
        **around(x.shape, place),
        "largest": int(largest),
        "last": int_attribute(node, "select_last_index", 0),
    }
    y = Tensor(label(node), DType.I64, shape, order=x.order)
    return lowering.emit(KernelStep(StepKind.ARG_EXTREME, label(node), node.op_type, [x], y, arguments=arguments))


def _softmax(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    place = _stored(x, [int_attribute(node, "axis", -1) % len(x.shape)])[0]
    arguments = {**around(x.shape, place), "log": int(node.op_type == "LogSoftmax")}
    y = replace(x, name=str(value.name), view_of=None, names=[])
    return lowering.emit(KernelStep(StepKind.SOFTMAX_F32, label(node), node.op_type, [x], y, arguments=arguments))


def around(shape: Sequence[int], place: int) -> dict[str, int]:
    """A tensor as a step along one of its stored axes sees it."""
    return {"outer": math.prod(shape[:place]), "n": shape[place], "inner": math.prod(shape[place + 1 :])}


def _stored(x: Tensor, axes: Sequence[int]) -> list[int]:
    """Where axes of ONNX's lie, in ascending order."""
    order = x.order or tuple(range(len(x.shape)))
    return sorted(order.index(axis) for axis in axes)


OPERATOR = FloatOperator(frozenset(_OPS) | {"ReduceLogSumExp"} | _ARGS | _SOFT, reason, lower)
