"""Operators that compute on 8-bit integers as they are, with zero points that may come at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.contractions import of_two
from edgekern.compiler.floats.maps import emit_map, new_map
from edgekern.compiler.floats.operator import CODES, FLOAT, FloatOperator, new_tensor
from edgekern.compiler.floats.strides import BATCH_AXES, Strided, dense_steps
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import DTYPES, Lowering
from edgekern.compiler.operators.window import Window
from edgekern.compiler.operators.zero_points import EXACT, fits_float, without_zero
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.values import consumers, int_attribute, is_constant, known_shape, label, recentered, shape_of

Codes = npt.NDArray[np.int8]
Wide = npt.NDArray[np.int64]
_SUM, _MAX, _MIN = 0, 2, 3  # REDUCE's `op`


def reason(node: ir.Node) -> str | None:
    x, y = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if x is None or y is None:
        return "its shape is not known"
    if 0 in x or 0 in y:
        return f"{node.op_type} of nothing has no kernel"
    return _dynamic_reason(node) if node.op_type == "DynamicQuantizeLinear" else _product_reason(node, len(x))


def _dynamic_reason(node: ir.Node) -> str | None:
    x = node.inputs[0]
    return None if x is not None and x.dtype in FLOAT else "it reads no float32"


def _product_reason(node: ir.Node, rank: int) -> str | None:
    given = [*node.inputs, None, None]
    for value in (node.inputs[0], node.inputs[1]):
        if value is None or value.dtype not in CODES:
            return f"{node.op_type} of anything but 8 bits has no kernel"
    zero = None if given[2] is None else shape_of(given[2])
    if given[2] is not None and (zero is None or math.prod(zero) != 1):
        return "a zero point for each row has no kernel"
    weights = known_shape(node.inputs[1])
    if node.op_type == "MatMulInteger" and not _is_packed(node):
        axes = max(rank, len(weights)) + (_pieces(weights[-2]) > 1 if len(weights) > 1 else 2 * BATCH_AXES)
        return None if rank > 1 and axes <= BATCH_AXES + 2 else "a product of so many axes has no kernel"
    if not is_constant(node.inputs[1]) or not is_constant(given[3]):
        return "weights that are not constant have no kernel"
    if node.op_type == "MatMulInteger":
        return None
    if not 3 <= rank <= 4 or len(weights) != rank:
        return f"ConvInteger over {rank - 2} dimensions has no kernel"
    window = Window.of(node, weights[2:])
    if window.is_same and window.steps_over:
        return "auto_pad where strides leave pixels out has no kernel"
    return None if window.fits else "padding that the kernel does not cover has no kernel"


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    if node.op_type == "DynamicQuantizeLinear":
        return _quantized(lowering, node, value)
    if node.op_type == "MatMulInteger" and not _is_packed(node):
        return _of_two(lowering, node, value)
    stored, zeros = (None if v is None else lowering.constant(v) for v in [*node.inputs, None, None][1:4:2])
    assert stored is not None
    columns = stored.ndim - 1 if node.op_type == "MatMulInteger" else 0
    weights, left = recentered(stored, zeros, columns)
    sums = (_matrix if node.op_type == "MatMulInteger" else _conv)(lowering, node, weights, ones=False)
    if left is None:
        sums.name = str(value.name)
        return sums
    zero = np.broadcast_to(left, (stored.shape[columns],))
    own = (_matrix if node.op_type == "MatMulInteger" else _conv)(lowering, node, weights, ones=True)
    real = _is_cast(value) and fits_float(weights, zero, columns)
    return without_zero(lowering, node, sums, own, zero, real=real)


def _is_cast(value: ir.Value) -> bool:
    """Whether nobody sees a value but as float32."""
    readers = consumers(value)
    return not value.is_graph_output() and all(
        node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.FLOAT for node in readers
    )


def zero_point(lowering: Lowering, value: ir.Value | None, dtype: DType, name: str) -> Tensor:
    """One number of the type of what it belongs to."""
    if value is not None:
        return lowering.plain(value)
    y = Tensor(f"{name} zero point", dtype, ())
    return lowering.shared(("zero", dtype), lambda: constant_tensor(lowering, y, bytes(1)))


def constant_tensor(lowering: Lowering, y: Tensor, content: bytes) -> Tensor:
    return lowering.emit(KernelStep(StepKind.CONSTANT, y.name, "Constant", [], y, [content]))


def _matrix(lowering: Lowering, node: ir.Node, weights: Codes, *, ones: bool) -> Tensor:
    """Its int32 sums, or those of the codes of each row by themselves."""
    source = node.inputs[0]
    assert source is not None
    x = lowering.plain(source)
    zero = zero_point(lowering, node.inputs[2] if len(node.inputs) > 2 else None, x.dtype, label(node))
    matrix = weights.reshape(weights.shape[0], -1).T  # a vector is a matrix of one column, which the result lacks
    if ones:
        shape = (*x.shape[:-1], 1)
        return lowering.shared(
            ("sums", x, zero), lambda: matrix_sums(lowering, node, [x, zero], np.ones((1, x.shape[-1]), np.int8), shape)
        )
    return matrix_sums(lowering, node, [x, zero], matrix, known_shape(node.outputs[0]))


def matrix_sums(
    lowering: Lowering, node: ir.Node, inputs: Sequence[Tensor], matrix: Codes, shape: tuple[int, ...]
) -> Tensor:
    """Rows of codes, less their zero point, times int8 (columns, k)."""
    n, k = matrix.shape
    packed = _core.pack_weights_blob(np.ascontiguousarray(matrix)[np.newaxis, :, np.newaxis])
    y = Tensor(label(node), DType.I32, shape)
    arguments: dict[str, Any] = {"rows": math.prod(shape) // n, "k": k, "columns": n}
    step = KernelStep(StepKind.GEMM_INTEGER, label(node), node.op_type, list(inputs), y, [packed], arguments)
    return lowering.emit(step)


def _is_packed(node: ir.Node) -> bool:
    """Whether the second operand is a matrix that is known."""
    zero = node.inputs[3] if len(node.inputs) > 3 else None
    return is_constant(node.inputs[1]) and is_constant(zero) and len(known_shape(node.inputs[1])) <= 2


def _pieces(k: int) -> int:
    """Into how many sums one of ``k`` products is cut, so that float32 holds each of them exactly."""
    return next(pieces for pieces in range(1, k + 1) if k % pieces == 0 and k // pieces * 255**2 <= EXACT)


def _of_two(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """A product of two tensors that come at run time: whole numbers in float32, as long as they are exact there."""
    a, b = (_centered(lowering, node, at) for at in (0, 1))
    (rows, k), columns = a.shape[-2:], b.shape[-1]
    pieces = _pieces(k)
    left, right = (Strided(x, x.shape, tuple(dense_steps(x.shape, 1))) for x in (a, b))
    if pieces > 1:  # an axis of batches more
        step = k // pieces
        left = Strided(a, (*a.shape[:-2], pieces, rows, step), (*left.steps[:-2], step, k, 1))
        right = Strided(b, (*b.shape[:-2], pieces, step, columns), (*right.steps[:-2], step * columns, columns, 1))
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    sums = lowering.emit(of_two(node, left, right, Tensor(label(node), DType.F32, (*batch, rows, columns)), 1.0))
    shape = known_shape(value)
    if pieces > 1:
        wide = Tensor(label(node), DType.I64, sums.shape)
        copy = MapStep(StepKind.MAP, label(node), node.op_type, [], wide, operands=[sums])
        wide = emit_map(lowering, copy, [(MapOp.COPY, (Operand(0),))])
        sums = Tensor(label(node), DType.I64, shape)
        sizes = {"outer": math.prod(batch[:-1]), "n": pieces, "inner": rows * columns, "op": _SUM}
        lowering.emit(KernelStep(StepKind.REDUCE, label(node), node.op_type, [wide], sums, arguments=sizes))
    kind = StepKind.MAP if pieces == 1 else StepKind.MAP_I64
    last = MapStep(kind, label(node), node.op_type, [], new_tensor(value), operands=[view(sums, shape=shape)])
    return emit_map(lowering, last, [(MapOp.COPY, (Operand(0),))])


def _centered(lowering: Lowering, node: ir.Node, at: int) -> Tensor:
    """An operand less its zero point."""
    source, zero = node.inputs[at], node.inputs[at + 2] if len(node.inputs) > at + 2 else None
    assert source is not None
    x = lowering.plain(source)
    y = Tensor(label(node), DType.F32, x.shape)
    step = MapStep(StepKind.MAP, label(node), node.op_type, [], y, operands=[x])
    if zero is None:
        return emit_map(lowering, step, [(MapOp.COPY, (Operand(0),))])
    step.operands.append(lowering.plain(zero))
    return emit_map(lowering, step, [(MapOp.SUB, (Operand(0), Operand(1)))])


def _conv(lowering: Lowering, node: ir.Node, weights: Codes, *, ones: bool) -> Tensor:
    source = node.inputs[0]
    assert source is not None
    x = lowering.image(source)
    zero = zero_point(lowering, node.inputs[2] if len(node.inputs) > 2 else None, x.dtype, label(node))
    window = Window.of(node, weights.shape[2:])
    groups = int_attribute(node, "group", 1)
    if ones:
        weights = np.ones((groups, *weights.shape[1:]), np.int8)
    shape = known_shape(node.outputs[0])
    order = channels_last(len(shape))
    stored = (*(shape[axis] for axis in order[:-1]), weights.shape[0])
    return conv_sums(lowering, node, [x, zero], weights, window, groups, (stored, order))


def conv_sums(
    lowering: Lowering,
    node: ir.Node,
    inputs: Sequence[Tensor],
    weights: Codes,
    window: Window,
    groups: int,
    stored: tuple[tuple[int, ...], tuple[int, ...]],
) -> Tensor:
    """A convolution of codes, less their zero point, by int8 weights; ``stored``: shape and order of the result."""
    out_c, in_c = weights.shape[0], weights.shape[1] * groups
    if groups > 1 and groups == in_c == out_c:
        packed = _core.pack_depthwise_blob(weights.reshape(out_c, window.taps))
    else:
        taps = weights.reshape(groups, out_c // groups, in_c // groups, window.taps).transpose(0, 1, 3, 2)
        packed = _core.pack_weights_blob(np.ascontiguousarray(taps))
    y = Tensor(label(node), DType.I32, stored[0], order=stored[1])
    arguments = {**window.flat_arguments, "in_channels": in_c, "out_channels": out_c, "groups": groups}
    step = KernelStep(StepKind.CONV_INTEGER, label(node), node.op_type, list(inputs), y, [packed], arguments)
    return lowering.emit(step)


def _quantized(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """What DynamicQuantizeLinear gives: codes, their scale or their zero point."""
    source = node.inputs[0]
    assert source is not None
    x = lowering.real(source)
    hi, lo = (_extreme(lowering, node, x, op) for op in (_MAX, _MIN))
    scale = lowering.shared((node, "scale"), lambda: _scale(lowering, node, hi, lo))
    if value is node.outputs[1]:
        return scale
    zero = lowering.shared((node, "zero point"), lambda: _zero_point(lowering, node, lo, scale))
    if value is node.outputs[2]:
        return zero
    step = new_map(node, value, x.order or tuple(range(len(x.shape))))
    step.operands = [x, scale, zero]
    code: list[Instruction] = [(MapOp.DIV, (Operand(0), Operand(1))), (MapOp.ROUND, (Result(0),))]
    return emit_map(lowering, step, [*code, (MapOp.ADD, (Result(1), Operand(2)))])


def _extreme(lowering: Lowering, node: ir.Node, x: Tensor, op: int) -> Tensor:
    """The largest or smallest number of a tensor: of each row first, by as many threads as there are."""

    def make() -> Tensor:
        found, columns = x, x.shape[-1] if x.shape else 1
        for n in (columns, x.size // columns):
            if n > 1 or found is x:
                y = Tensor(label(node), DType.F32, (found.size // n,))
                arguments = {"outer": y.size, "n": n, "inner": 1, "op": op}
                step = KernelStep(StepKind.REDUCE, label(node), node.op_type, [found], y, arguments=arguments)
                found = lowering.emit(step)
        return found

    return lowering.shared((node, op), make)


def _scale(lowering: Lowering, node: ir.Node, hi: Tensor, lo: Tensor) -> Tensor:
    """Of a range that contains 0, in 255 steps; 1 where nothing but zeros are, as onnxruntime has it."""
    y = Tensor(str(node.outputs[1].name), DType.F32, ())
    step = MapStep(StepKind.MAP, label(node), node.op_type, [], y, operands=[hi, lo])
    code: list[Instruction] = [
        (MapOp.MAX, (Operand(0), 0.0)),
        (MapOp.MIN, (Operand(1), 0.0)),
        (MapOp.SUB, (Result(0), Result(1))),
        (MapOp.DIV, (Result(2), 255.0)),
        (MapOp.EQUAL, (Result(2), 0.0)),
        (MapOp.WHERE, (Result(4), 1.0, Result(3))),
    ]
    return emit_map(lowering, step, code)


def _zero_point(lowering: Lowering, node: ir.Node, lo: Tensor, scale: Tensor) -> Tensor:
    """Rounded and held in its range where it is stored."""
    y = Tensor(str(node.outputs[2].name), DTYPES[ir.DataType.UINT8], ())
    step = MapStep(StepKind.MAP, label(node), node.op_type, [], y, operands=[lo, scale])
    code: list[Instruction] = [
        (MapOp.MIN, (Operand(0), 0.0)),
        (MapOp.DIV, (Result(0), Operand(1))),
        (MapOp.SUB, (0.0, Result(1))),
    ]
    return emit_map(lowering, step, code)


OPERATOR = FloatOperator(frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"}), reason, lower)
