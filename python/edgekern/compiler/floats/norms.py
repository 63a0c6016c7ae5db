"""Normalizations: of rows where they lie in memory, then a factor and a shift for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekern._core import MapOp, StepKind
from edgekern.compiler.floats.maps import common_order, emit_map, new_map, operand_of
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason, used_outputs
from edgekern.compiler.floats.reductions import ABS_SUM, MEAN, SQUARE_SUM, SUM, element_wise, reduce_axes
from edgekern.compiler.formula_step import Instruction, Operand, Result
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.families import batch_norm_affine
from edgekern.graph.values import float_attribute, int_attribute, ints_attribute, is_constant, known_shape, label

_ROWS = frozenset({"LayerNormalization", "RMSNormalization"})
_CHANNELS = frozenset({"InstanceNormalization", "GroupNormalization"})


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    if node.op_type == "BatchNormalization" and len(used_outputs(node)) > 1:
        return "its statistics have no kernel"
    if 0 in known_shape(node.inputs[0]):
        return f"{node.op_type} of nothing has no kernel"
    if node.op_type == "BatchNormalization" and batch_norm_affine(node) is None:
        return "its statistics are not constant, or not finite"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    if node.op_type in _OTHER:
        return _OTHER[node.op_type](lowering, node, value)
    return (_rows if node.op_type in _ROWS else _channels)(lowering, node, value)


def _rows(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source, scale = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert source is not None
    assert scale is not None
    shape = known_shape(source)
    axis = int_attribute(node, "axis", -1) % len(shape)
    columns = math.prod(shape[axis:])
    epsilon = float_attribute(node, "epsilon", 1e-5)
    centered = node.op_type == "LayerNormalization"
    if value is not node.outputs[0]:
        return _statistics(lowering, node, value, lowering.plain(source), axis, epsilon)
    factors = [factor for factor in (scale, bias) if factor is not None]
    fixed = all(is_constant(factor) and known_shape(factor) == shape[axis:] for factor in factors)
    blobs = [lowering.constant(factor).astype(np.float32).tobytes() for factor in factors] if fixed else []
    y = new_tensor(value, shape)
    y = _normalize(lowering, node, lowering.plain(source), y, columns, epsilon, centered, blobs)
    if fixed:
        return y
    return _affine(lowering, node, value, y, factors, tuple(range(len(shape))))


def _statistics(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor, axis: int, epsilon: float) -> Tensor:
    """The mean of each row, or one over its standard deviation."""
    axes = range(axis, len(x.shape))
    mean = reduce_axes(lowering, x, axes, (MEAN, MEAN), label(node), node.op_type)
    if value is node.outputs[1] and node.op_type == "LayerNormalization":
        return mean
    code: list[Instruction] = [(MapOp.SUB, (Operand(0), Operand(1))), (MapOp.MUL, (Result(0), Result(0)))]
    squares = element_wise(lowering, node, [x, mean], code, x.shape)
    variance = reduce_axes(lowering, squares, axes, (MEAN, MEAN), label(node), node.op_type)
    code = [(MapOp.ADD, (Operand(0), epsilon)), (MapOp.SQRT, (Result(0),)), (MapOp.RECIPROCAL, (Result(1),))]
    return element_wise(lowering, node, [variance], code, variance.shape)


def _normalize(
    lowering: Lowering,
    node: ir.Node,
    x: Tensor,
    y: Tensor,
    columns: int,
    epsilon: float,
    centered: bool,
    blobs: list[bytes],
) -> Tensor:
    arguments = {"rows": x.size // columns, "columns": columns, "epsilon": epsilon, "centered": int(centered)}
    return lowering.emit(KernelStep(StepKind.NORMALIZE, label(node), node.op_type, [x], y, blobs, arguments))


def _affine(
    lowering: Lowering,
    node: ir.Node,
    value: ir.Value,
    x: Tensor,
    factors: Sequence[ir.Value],
    order: tuple[int, ...],
) -> Tensor:
    """``x`` times the first, plus the second, both along the last axes."""
    step = new_map(node, value, order)
    step.operands.append(x)
    refs = [operand_of(lowering, step, factor, order) for factor in factors]
    code: list[Instruction] = [(MapOp.MUL, (Operand(0), refs[0]))]
    if len(refs) > 1:
        code.append((MapOp.ADD, (Result(0), refs[1])))
    return emit_map(lowering, step, code)


def _channels(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """Of each image the rows are its channels, or groups of them."""
    source, scale, bias = node.inputs[:3]
    assert source is not None
    assert scale is not None
    assert bias is not None
    shape = known_shape(source)
    groups = int_attribute(node, "num_groups", 1) if node.op_type == "GroupNormalization" else shape[1]
    columns = math.prod(shape[1:]) // groups
    y = Tensor(str(value.name), new_tensor(value).dtype, shape)
    epsilon = float_attribute(node, "epsilon", 1e-5)
    y = _normalize(lowering, node, lowering.plain(source), y, columns, epsilon, True, [])
    step = new_map(node, value, tuple(range(len(shape))))
    step.operands.append(y)
    refs = []
    for factor in (scale, bias):
        per_channel = known_shape(factor)[0]
        if is_constant(factor):
            array = np.repeat(lowering.constant(factor).astype(np.float32), shape[1] // per_channel)
            step.operands.append(array.reshape(1, shape[1], *[1] * (len(shape) - 2)))
        else:
            step.operands.append(view(lowering.plain(factor), shape=(1, shape[1], *[1] * (len(shape) - 2))))
        refs.append(Operand(len(step.operands) - 1))
    return emit_map(lowering, step, [(MapOp.MUL, (Operand(0), refs[0])), (MapOp.ADD, (Result(0), refs[1]))])


def _batch(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    found = batch_norm_affine(node)
    assert found is not None
    source, factor, shift = found
    rank = len(known_shape(value))
    order = common_order(lowering, [source], rank)
    step = new_map(node, value, order)
    step.operands.append(lowering.ordered(source, order))
    for array in (factor, shift):
        full = array.astype(np.float32).reshape(1, -1, *[1] * (rank - 2)) if rank > 1 else array.astype(np.float32)
        step.operands.append(full.transpose(order))
    return emit_map(lowering, step, [(MapOp.MUL, (Operand(0), Operand(1))), (MapOp.ADD, (Result(0), Operand(2)))])


def _lp(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """x / norm, and 0 where the norm is."""
    source = node.inputs[0]
    assert source is not None
    x = lowering.real(source)
    square = int_attribute(node, "p", 2) == 2
    axis = int_attribute(node, "axis", -1) % len(x.shape)
    norm = reduce_axes(lowering, x, [axis], (SQUARE_SUM if square else ABS_SUM, SUM), label(node), node.op_type)
    step = new_map(node, value, x.order or tuple(range(len(x.shape))))
    step.operands += [x, norm]
    length = Result(0) if square else Operand(1)
    code: list[Instruction] = [(MapOp.SQRT, (Operand(1),))] if square else []
    at = len(code)
    code += [(MapOp.EQUAL, (length, 0.0)), (MapOp.DIV, (Operand(0), length))]
    return emit_map(lowering, step, [*code, (MapOp.WHERE, (Result(at), 0.0, Result(at + 1)))])


def _mean_variance(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """(x - mean) / (deviation + 1e-9), as ONNX has it."""
    source = node.inputs[0]
    assert source is not None
    x = lowering.real(source)
    axes = [axis % len(x.shape) for axis in ints_attribute(node, "axes", [0, 2, 3])]
    mean = reduce_axes(lowering, x, axes, (MEAN, MEAN), label(node), node.op_type)
    difference: Instruction = (MapOp.SUB, (Operand(0), Operand(1)))
    squares = element_wise(lowering, node, [x, mean], [difference, (MapOp.MUL, (Result(0), Result(0)))], x.shape)
    variance = reduce_axes(lowering, squares, axes, (MEAN, MEAN), label(node), node.op_type)
    step = new_map(node, value, x.order or tuple(range(len(x.shape))))
    step.operands += [x, mean, variance]
    code: list[Instruction] = [difference, (MapOp.SQRT, (Operand(2),)), (MapOp.ADD, (Result(1), 1e-9))]
    return emit_map(lowering, step, [*code, (MapOp.DIV, (Result(0), Result(2)))])


def _lrn(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """x / (bias + alpha * mean of the squares of so many channels) ** beta: an average along the channels."""
    source = node.inputs[0]
    assert source is not None
    x, size = lowering.plain(source), int_attribute(node, "size", 1)
    batch, channels, *image = x.shape
    squares = element_wise(lowering, node, [x], [(MapOp.MUL, (Operand(0), Operand(0)))], x.shape)
    mean = Tensor(label(node), squares.dtype, x.shape)
    arguments = {
        "batch": batch,
        "in": [1, 1, channels],
        "out": [1, 1, channels],
        "kernel": [1, 1, size],
        "stride": [1, 1, 1],
        "dilation": [1, 1, 1],
        "pad": [0, 0, (size - 1) // 2],
        "channels": math.prod(image),
        "average": 1,
        "count_include_pad": 1,
        "power": 0.0,
    }
    lowering.emit(KernelStep(StepKind.POOL_F32, label(node), "LRN", [squares], mean, arguments=arguments))
    step = new_map(node, value, tuple(range(len(x.shape))))
    step.operands += [x, mean]
    alpha, beta = float_attribute(node, "alpha", 1e-4), float_attribute(node, "beta", 0.75)
    code: list[Instruction] = [
        (MapOp.MUL, (Operand(1), alpha)),
        (MapOp.ADD, (Result(0), float_attribute(node, "bias", 1.0))),
        (MapOp.POW, (Result(1), beta)),
        (MapOp.DIV, (Operand(0), Result(2))),
    ]
    return emit_map(lowering, step, code)


_OTHER = {
    "BatchNormalization": _batch,
    "LpNormalization": _lp,
    "MeanVarianceNormalization": _mean_variance,
    "LRN": _lrn,
}
OPERATOR = FloatOperator(_ROWS | _CHANNELS | _OTHER.keys(), reason, lower)
