"""Element-wise functions of any number of tensors, with broadcasting: instructions of one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import MapOp, StepKind
from edgekern.compiler.floats.operator import (
    ANY,
    CODES,
    FLOAT,
    WHOLE,
    FloatOperator,
    new_tensor,
    type_reason,
)
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Ref, Result
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor, channels_last
from edgekern.graph.values import (
    HALVES,
    attribute,
    int_attribute,
    is_constant,
    known_shape,
    label,
    scalar,
    text_attribute,
)

Array = npt.NDArray[Any]


class Code:
    """Instructions in the making: calling it adds one and gives its result."""

    def __init__(self, *, whole: bool = False) -> None:
        self.instructions: list[Instruction] = []
        self.whole = whole

    def __call__(self, op: MapOp, *refs: Ref) -> Result:
        self.instructions.append((op, refs))
        return Result(len(self.instructions) - 1)


Write = Callable[[Code, ir.Node, Sequence[Ref]], Ref]


def _plain(op: MapOp) -> Write:
    return lambda code, node, x: code(op, *x)


def _folded(op: MapOp) -> Write:
    """Of any number of operands, from left to right."""

    def write(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
        result = code(MapOp.COPY, x[0]) if len(x) == 1 else x[0]
        for other in x[1:]:
            result = code(op, result, other)
        return result

    return write


def _mean(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.DIV, _folded(MapOp.ADD)(code, node, x), float(len(x)))


def _clip(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    """Limits that are no constants are operands as any other."""
    if code.whole:
        lo, hi = -(2**63), 2**63 - 1
    else:
        lo, hi = -math.inf, math.inf  # type: ignore[assignment]
    given = [value is not None for value in node.inputs[1:3]] + [False, False]
    rest = list(x[1:])
    low: Ref = rest.pop(0) if given[0] else lo
    high: Ref = rest.pop(0) if given[1] else hi
    return code(MapOp.CLIP, x[0], low, high)


def _pow(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    exponent = scalar(node.inputs[1]) if is_constant(node.inputs[1]) else None
    if exponent == 2:
        return code(MapOp.MUL, x[0], x[0])
    if exponent == 3:
        return code(MapOp.MUL, code(MapOp.MUL, x[0], x[0]), x[0])
    if exponent == 0.5:
        return code(MapOp.SQRT, x[0])
    return code(MapOp.POW, *x)


def _mod(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.FMOD if int_attribute(node, "fmod", 0) else MapOp.MOD, *x)


def _gelu(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.GELU_TANH if text_attribute(node, "approximate", "none") == "tanh" else MapOp.GELU, *x)


def _swish(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    alpha = attribute(node, "alpha", 1.0)
    if alpha == 1.0:
        return code(MapOp.SILU, *x)
    return code(MapOp.MUL, x[0], code(MapOp.SIGMOID, code(MapOp.MUL, x[0], alpha)))


def _hard_sigmoid(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return code(MapOp.CLIP, code(MapOp.ADD, code(MapOp.MUL, x[0], alpha), beta), 0.0, 1.0)


def _hard_swish(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    gate = code(MapOp.CLIP, code(MapOp.ADD, code(MapOp.MUL, x[0], float(np.float32(1 / 6))), 0.5), 0.0, 1.0)
    return code(MapOp.MUL, x[0], gate)


def _elu(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    """Elu, Celu and Selu: what lies above zero, and a curve below it."""
    alpha, gamma, inner = attribute(node, "alpha", 1.0), 1.0, x[0]
    if node.op_type == "Selu":
        alpha, gamma = (
            attribute(node, "alpha", 1.67326319217681884765625),
            attribute(node, "gamma", 1.05070102214813232421875),
        )
    if node.op_type == "Celu":
        inner = code(MapOp.DIV, x[0], alpha)
    below = code(MapOp.MUL, code(MapOp.SUB, code(MapOp.EXP, code(MapOp.MIN, inner, 0.0)), 1.0), alpha)
    result = code(MapOp.WHERE, code(MapOp.LESS, x[0], 0.0), below, x[0])
    return code(MapOp.MUL, result, gamma) if gamma != 1.0 else result


def _mish(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.MUL, x[0], code(MapOp.TANH, code(MapOp.SOFTPLUS, x[0])))


def _leaky(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.PRELU, x[0], attribute(node, "alpha", 0.01))


def _thresholded(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.WHERE, code(MapOp.GREATER, x[0], attribute(node, "alpha", 1.0)), x[0], 0.0)


def _shrink(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    """Zero from -lambd to lambd, and moved towards it by a bias beyond."""
    limit, bias = attribute(node, "lambd", 0.5), attribute(node, "bias", 0.0)
    above = code(MapOp.WHERE, code(MapOp.GREATER, x[0], limit), code(MapOp.SUB, x[0], bias), 0.0)
    return code(MapOp.WHERE, code(MapOp.LESS, x[0], -limit), code(MapOp.ADD, x[0], bias), above)


def _softsign(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.DIV, x[0], code(MapOp.ADD, code(MapOp.ABS, x[0]), 1.0))


def _relu(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    return code(MapOp.MAX, x[0], 0) if code.whole else code(MapOp.CLIP, x[0], 0.0, math.inf)


def _is_inf(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    signs = int_attribute(node, "detect_negative", 1), int_attribute(node, "detect_positive", 1)
    if signs == (1, 1):
        return code(MapOp.IS_INF, x[0])
    if signs == (0, 0):
        return code(MapOp.AND, code(MapOp.IS_INF, x[0]), 0.0)
    return code(MapOp.EQUAL, x[0], math.inf if signs[1] else -math.inf)


def _cast(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    """Integers and floats are converted where they are read and stored; a bool is whether a number is not zero."""
    source = node.inputs[0]
    assert source is not None
    if node.outputs[0].dtype == ir.DataType.BOOL and source.dtype != ir.DataType.BOOL:
        zero = 0 if code.whole else 0.0
        return code(MapOp.NOT, code(MapOp.EQUAL, x[0], zero))
    if node.outputs[0].dtype in CODES and not code.whole:  # 8 bits are rounded where they are stored
        return code(MapOp.MUL, code(MapOp.SIGN, x[0]), code(MapOp.FLOOR, code(MapOp.ABS, x[0])))
    return code(MapOp.COPY, x[0])


def _acosh(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    roots = [code(MapOp.SQRT, code(op, x[0], 1.0)) for op in (MapOp.SUB, MapOp.ADD)]
    return code(MapOp.LOG, code(MapOp.ADD, x[0], code(MapOp.MUL, *roots)))


def _asinh(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    size = code(MapOp.ABS, x[0])
    root = code(MapOp.SQRT, code(MapOp.ADD, code(MapOp.MUL, size, size), 1.0))
    return code(MapOp.MUL, code(MapOp.SIGN, x[0]), code(MapOp.LOG, code(MapOp.ADD, size, root)))


def _atanh(code: Code, node: ir.Node, x: Sequence[Ref]) -> Ref:
    quotient = code(MapOp.DIV, code(MapOp.ADD, x[0], 1.0), code(MapOp.SUB, 1.0, x[0]))
    return code(MapOp.MUL, code(MapOp.LOG, quotient), 0.5)


_SAME = (
    *("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN", "Log", "Neg", "Not"),
    *("Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh", "Add", "Sub", "Mul", "Div"),
    *("And", "Or", "Xor", "Less", "Greater", "Equal", "Where", "PRelu"),
)
_NAMES = {"IsNaN": "IS_NAN"}
_WRITERS: dict[str, Write] = {
    **{name: _plain(getattr(MapOp, _NAMES.get(name, name.upper()))) for name in _SAME},
    "LessOrEqual": _plain(MapOp.LESS_EQUAL),
    "GreaterOrEqual": _plain(MapOp.GREATER_EQUAL),
    **{name: _folded(op) for name, op in (("Max", MapOp.MAX), ("Min", MapOp.MIN), ("Sum", MapOp.ADD))},
    "Mean": _mean,
    "Clip": _clip,
    "Relu": _relu,
    "Pow": _pow,
    "Mod": _mod,
    "Gelu": _gelu,
    "Swish": _swish,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    **dict.fromkeys(("Elu", "Celu", "Selu"), _elu),
    "Softplus": _plain(MapOp.SOFTPLUS),
    "Acosh": _acosh,
    "Asinh": _asinh,
    "Atanh": _atanh,
    "Mish": _mish,
    "LeakyRelu": _leaky,
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
    "Softsign": _softsign,
    "IsInf": _is_inf,
    "Cast": _cast,
}
# Those that integers have, too.
_WHOLE = frozenset(
    {"Abs", "Neg", "Sign", "Add", "Sub", "Mul", "Div", "Min", "Max", "Mod", "Clip", "Relu", "Where", "Less"}
    | {"LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Sum"}
)
_NUMBERS = WHOLE | CODES


def reason(node: ir.Node) -> str | None:
    if node.op_type == "Cast":  # halves come and go through nothing else: graph/halves.py
        return type_reason(node, ANY | HALVES, ANY | HALVES)
    wrong = type_reason(node, ANY)
    if wrong is not None:
        return wrong
    if not _types(node) & _NUMBERS:
        return None
    if node.op_type == "Where" and not _types(node, 1) & _NUMBERS:
        return None
    if node.op_type == "Pow":
        return None
    if node.op_type not in _WHOLE:
        return f"{node.op_type} of integers has no kernel"
    if _types(node, 1 if node.op_type == "Where" else 0) & FLOAT:
        return f"{node.op_type} of integers and floats has no kernel"
    return None


def _types(node: ir.Node, first: int = 0) -> set[ir.DataType]:
    return {value.dtype for value in node.inputs[first:] if value is not None and value.dtype is not None}


def _is_whole(node: ir.Node) -> bool:
    """Whether it computes in integers."""
    if node.op_type == "Cast":
        return not (_types(node) | {node.outputs[0].dtype}) & (FLOAT | HALVES)
    if node.op_type == "Pow":
        return not _types(node) & FLOAT
    return bool(_types(node, 1 if node.op_type == "Where" else 0) & _NUMBERS)


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    code = Code(whole=_is_whole(node))
    given = [operand for operand in node.inputs if operand is not None]
    order = common_order(lowering, given, len(known_shape(value)))
    step = new_map(node, value, order, whole=code.whole)
    refs = [operand_of(lowering, step, operand, order) for operand in given]
    _WRITERS[node.op_type](code, node, refs)
    return emit_map(lowering, step, code.instructions)


def new_map(node: ir.Node, value: ir.Value, order: tuple[int, ...], *, whole: bool = False) -> MapStep:
    """A step of a node without instructions whose result is a value, stored in an order."""
    shape = known_shape(value)
    plain = tuple(range(len(shape)))
    y = new_tensor(value, tuple(shape[axis] for axis in order), () if order == plain else order)
    return MapStep(StepKind.MAP_I64 if whole else StepKind.MAP, label(node), node.op_type, [], y)


def emit_map(lowering: Lowering, step: MapStep, code: list[Instruction]) -> Tensor:
    """What a step with these instructions gives."""
    step.code = code
    step.read()
    return lowering.emit(step)


def common_order(lowering: Lowering, operands: Sequence[ir.Value], rank: int) -> tuple[int, ...]:
    """The order in which an element-wise result of these operands lies: with channels last where one of them does."""
    last = channels_last(rank)
    lying = [lowering.real(value) for value in operands if not is_constant(value)]
    return last if any(x.order == last and len(x.shape) == rank for x in lying) else tuple(range(rank))


def operand_of(lowering: Lowering, step: MapStep, value: ir.Value, order: tuple[int, ...]) -> Ref:
    """Let a step read a value: a tensor in its order, an array in the same, or a number."""
    if not is_constant(value):
        step.operands.append(lowering.ordered(value, order))
        return Operand(len(step.operands) - 1)
    array = lowering.constant(value)
    if array.size == 1:
        return array.reshape(()).item() if step.kind == StepKind.MAP_I64 else float(array.reshape(()))
    full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    step.operands.append(full.transpose(order))
    return Operand(len(step.operands) - 1)


OPERATOR = FloatOperator(frozenset(_WRITERS), reason, lower)
