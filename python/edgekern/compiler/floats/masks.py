"""What a place among others decides: Trilu, OneHot, Hardmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import emit_map, new_map
from edgekern.compiler.floats.operator import ANY, FLOAT, WHOLE, FloatOperator, type_reason
from edgekern.compiler.floats.reductions import arg_extreme
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor
from edgekern.graph.values import constant, int_attribute, known_shape, label, scalar


def reason(node: ir.Node) -> str | None:
    allowed = {"Trilu": ANY, "OneHot": ANY, "Hardmax": FLOAT}[node.op_type]
    wrong = type_reason(node, allowed)
    if wrong is not None:
        return wrong
    if node.op_type == "Hardmax" and 0 in known_shape(node.inputs[0]):
        return "a Hardmax of nothing has no kernel"
    if node.op_type == "Trilu":
        return None if _diagonal(node) is not None else "its diagonal is not constant"
    if node.op_type == "OneHot":
        if node.inputs[0] is not None and node.inputs[0].dtype not in FLOAT | WHOLE:
            return "OneHot of indices that are neither float32 nor int32 nor int64 has no kernel"
        return None if constant(node.inputs[2]) is not None else "its two values are not constant"
    return None


def _diagonal(node: ir.Node) -> int | None:
    """Of a Trilu; None where data says it."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    number = 0 if given is None else scalar(given)
    return None if number is None else int(number)


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    return {"Trilu": _trilu, "OneHot": _one_hot, "Hardmax": _hardmax}[node.op_type](lowering, node, value)


def _trilu(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = node.inputs[0]
    assert source is not None
    shape, k = known_shape(value), _diagonal(node)
    assert k is not None
    k = max(-shape[-2], min(k, shape[-1]))  # beyond, nothing changes
    ones = np.ones(shape[-2:], np.float32)
    kept = np.triu(ones, k) if int_attribute(node, "upper", 1) else np.tril(ones, k)
    step = new_map(node, value, tuple(range(len(shape))), whole=value.dtype not in FLOAT)
    step.operands += [lowering.plain(source), kept]
    return emit_map(lowering, step, [(MapOp.WHERE, (Operand(1), Operand(0), 0.0 if value.dtype in FLOAT else 0))])


def _one_hot(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    indices, values = node.inputs[0], constant(node.inputs[2])
    assert indices is not None
    assert values is not None
    shape = known_shape(value)
    axis = int_attribute(node, "axis", -1) % len(shape)
    depth = shape[axis]
    x = lowering.plain(indices)
    x = view(x, shape=(*x.shape[:axis], 1, *x.shape[axis:]))
    places = np.arange(depth).reshape(-1, *[1] * (len(shape) - axis - 1))
    whole = x.dtype != DType.F32
    y = Tensor(label(node), DType.BOOL, shape)
    step = MapStep(StepKind.MAP_I64 if whole else StepKind.MAP, label(node), "OneHot", [], y)
    step.operands += [x, places, places - depth]
    code: list[Instruction] = [
        (MapOp.EQUAL, (Operand(0), Operand(1))),
        (MapOp.EQUAL, (Operand(0), Operand(2))),
        (MapOp.OR, (Result(0), Result(1))),
    ]
    hot = emit_map(lowering, step, code)
    assert value.dtype is not None
    real = value.dtype in FLOAT
    chosen = new_map(node, value, tuple(range(len(shape))), whole=not real)
    chosen.operands.append(hot)
    off, on = (float(number) if real else int(number) for number in values.reshape(-1))
    return emit_map(lowering, chosen, [(MapOp.WHERE, (Operand(0), on, off))])


def _hardmax(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = node.inputs[0]
    assert source is not None
    x = lowering.real(source)
    order = x.order or tuple(range(len(x.shape)))
    place = order.index(int_attribute(node, "axis", -1) % len(order))
    best = arg_extreme(lowering, node, x, place, largest=True)
    step = new_map(node, value, order, whole=True)
    places = np.arange(x.shape[place]).reshape(-1, *[1] * (len(order) - place - 1))
    step.operands += [best, places]
    return emit_map(lowering, step, [(MapOp.EQUAL, (Operand(0), Operand(1)))])


OPERATOR = FloatOperator(frozenset({"Trilu", "OneHot", "Hardmax"}), reason, lower)
