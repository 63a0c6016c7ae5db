"""QuantizeLinear and DequantizeLinear whose parameters come at run time, run along an axis, or are of 16 bits."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import MapOp
from edgekern.compiler.floats import wide
from edgekern.compiler.floats.maps import emit_map, new_map
from edgekern.compiler.floats.operator import CODES, FLOAT, FloatOperator, type_reason
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Ref, Result
from edgekern.compiler.layout import MOST_AXES, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor
from edgekern.graph.families import QDQ
from edgekern.graph.values import int_attribute, is_constant, known_shape, shape_of
from edgekern.graph.wide import wide_quant

_STORED = CODES | {ir.DataType.INT32}  # what DequantizeLinear reads; a zero point of int32 is 0


def reason(node: ir.Node) -> str | None:
    if wide_quant(node) is not None:
        return wide.reason(node)
    quantizes = node.op_type == "QuantizeLinear"
    x, scale, zero = [*node.inputs, None][:3]
    wrong = type_reason(node, FLOAT | _STORED, CODES if quantizes else FLOAT)
    if wrong is not None:
        return wrong
    if x is None or scale is None or x.dtype not in (FLOAT if quantizes else _STORED) or scale.dtype not in FLOAT:
        return "its parameters are not float32"
    sides = [shape_of(value) for value in (scale, zero) if value is not None]
    if block := int_attribute(node, "block_size", 0):
        shape = known_shape(x)
        axis = int_attribute(node, "axis", 1) % len(shape)
        blocked = (*shape[:axis], shape[axis] // block, *shape[axis + 1 :])
        if shape[axis] % block or len(shape) == MOST_AXES or any(side != blocked for side in sides):
            return "blocks that its data do not fill have no kernel"
        return None
    if any(side is None or len(side) > 1 or (len(side) == 1 and not known_shape(x)) for side in sides):
        return "its scale is no number or vector"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    if wide_quant(node) is not None:
        return wide.lower(lowering, node, value)
    x, scale, zero = [*node.inputs, None][:3]
    assert x is not None
    assert scale is not None
    block = int_attribute(node, "block_size", 0)
    real = lowering.plain(x) if block else lowering.real(x)
    rank = len(real.shape)
    order = real.order or tuple(range(rank))
    axis = int_attribute(node, "axis", 1) % max(rank, 1)
    step = new_map(node, value, order)
    if block:  # the axis as two, of which the parameters have the first
        step.output.shape = (*real.shape[:axis], real.shape[axis] // block, block, *real.shape[axis + 1 :])
        real = view(real, shape=step.output.shape)
    step.operands.append(real)

    def parameter(given: ir.Value) -> Ref:
        sides = list(known_shape(given))
        if block:
            sides.insert(axis + 1, 1)
        elif sides:
            sides = [sides[0] if at == order.index(axis) else 1 for at in range(rank)]
        return _operand(lowering, step, given, tuple(sides))

    factor = parameter(scale)
    shift = None if zero is None or zero.dtype == ir.DataType.INT32 else parameter(zero)
    code: list[Instruction]
    if node.op_type == "DequantizeLinear":
        code = [] if shift is None else [(MapOp.SUB, (Operand(0), shift))]
        code += [(MapOp.MUL, (Result(0) if code else Operand(0), factor))]
    else:
        code = [(MapOp.DIV, (Operand(0), factor))]
        if shift is not None:
            code += [(MapOp.ROUND, (Result(0),)), (MapOp.ADD, (Result(1), shift))]
    y = emit_map(lowering, step, code)  # codes are rounded and held in their range where they are stored
    return view(y, shape=known_shape(value)) if block else y


def _operand(lowering: Lowering, step: MapStep, value: ir.Value, sides: tuple[int, ...]) -> Ref:
    """A scale or zero point as the step reads it: a number, or a tensor of these sides."""
    if not is_constant(value):
        step.operands.append(view(lowering.plain(value), shape=sides))
        return Operand(len(step.operands) - 1)
    array = lowering.constant(value)
    if array.size == 1:
        return float(array.reshape(()))
    step.operands.append(array.reshape(sides))
    return Operand(len(step.operands) - 1)


OPERATOR = FloatOperator(QDQ, reason, lower)
