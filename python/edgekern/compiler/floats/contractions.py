"""Gemm and MatMul: on weights that are packed once, or of two tensors that are there at run time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats import attention
from edgekern.compiler.floats.dynamic_rows import rows_times_codes
from edgekern.compiler.floats.maps import emit_map, new_map, operand_of
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason
from edgekern.compiler.floats.strides import BATCH_AXES, Strided, batch_steps, dense_steps, read_strided
from edgekern.compiler.floats.wide import is_wide_product, wide_product
from edgekern.compiler.formula_step import Operand, Result
from edgekern.compiler.layout import transposed
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.steps import NO_EPILOGUE, KernelStep, Tensor
from edgekern.graph.values import float_attribute, int_attribute, is_constant, known_shape, label

FloatArray = npt.NDArray[np.float32]


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    a, b = (known_shape(value) for value in node.inputs[:2])
    if not a or not b:
        return "a product with a scalar has no kernel"
    if max(len(a), len(b)) > BATCH_AXES + 2:
        return f"a product over more than {BATCH_AXES + 2} dimensions has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    return (_gemm if node.op_type == "Gemm" else _matmul)(lowering, node, value)


def _gemm(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    a, b = node.inputs[:2]
    addend = node.inputs[2] if len(node.inputs) > 2 else None
    assert a is not None
    assert b is not None
    alpha, beta = float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)
    rows, columns = known_shape(value)
    if beta == 0:
        addend = None
    turned = bool(int_attribute(node, "transB", 0))
    made = Tensor(str(value.name), DType.F32, (rows, columns))
    if is_constant(b):
        bias = None
        if addend is not None and is_constant(addend):
            array = lowering.constant(addend)
            if array.size == 1 or (array.reshape(-1).shape == (columns,) and array.shape[-1] == columns):
                bias = np.broadcast_to(np.float32(beta) * array.reshape(-1), (columns,)).astype(np.float32)
                addend = None
        x = lowering.plain(a)
        if int_attribute(node, "transA", 0):
            x = transposed(lowering, x, (1, 0), (), label(node))
        wide = is_wide_product(node)
        y = (
            wide_product(lowering, node, value, bias)
            if wide
            else rows_times_codes(lowering, node, x, bias, made, alpha)
        )
        if y is None:
            weights = lowering.constant(b).astype(np.float32)
            weights = (weights if turned else weights.T) * np.float32(alpha)
            y = product(lowering, x, weights, bias, made, label(node), node.op_type)
    else:
        left = read_strided(lowering, a).swapped(bool(int_attribute(node, "transA", 0)))
        right = read_strided(lowering, b).swapped(turned)
        y = lowering.emit(of_two(node, left, right, made, alpha))
    if addend is None:
        return y
    step = new_map(node, value, (0, 1))
    step.operands.append(y)
    ref = operand_of(lowering, step, addend, (0, 1))
    if beta == 1.0:
        return emit_map(lowering, step, [(MapOp.ADD, (Operand(0), ref))])
    return emit_map(lowering, step, [(MapOp.MUL, (ref, beta)), (MapOp.ADD, (Operand(0), Result(0)))])


def _matmul(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    made = new_tensor(value)
    if is_constant(b) and len(known_shape(b)) <= 2:
        if is_wide_product(node):
            return wide_product(lowering, node, value, None)
        x = lowering.plain(a)
        y = rows_times_codes(lowering, node, x, None, made, 1.0)
        if y is not None:
            return y
        weights = lowering.constant(b).astype(np.float32)
        weights = weights.reshape(weights.shape[0], -1).T
        return product(lowering, x, weights, None, made, label(node), node.op_type)
    fused = attention.lower(lowering, node, value)
    if fused is not None:
        return fused
    left, right = read_strided(lowering, a), read_strided(lowering, b)
    left = left if len(left.shape) > 1 else left.with_axis(0)
    right = right if len(right.shape) > 1 else right.with_axis(1)
    return lowering.emit(of_two(node, left, right, made, 1.0))


def product(
    lowering: Lowering,
    x: Tensor,
    weights: FloatArray,
    bias: FloatArray | None,
    y: Tensor,
    name: str,
    op: str,
) -> Tensor:
    """Rows of ``x`` times weights (columns, k), whatever axes the rows have."""
    n, k = weights.shape
    packed = _core.pack_f32_blob(np.ascontiguousarray(weights)[np.newaxis])
    filled = pad_strips(np.zeros(n, np.float32) if bias is None else bias)
    rows = math.prod(y.shape) // n if n else math.prod(y.shape[:-1])
    arguments: dict[str, Any] = {"rows": rows, "k": k, "columns": n, **NO_EPILOGUE}
    return lowering.emit(KernelStep(StepKind.GEMM_F32, name, op, [x], y, [packed, filled], arguments))


def of_two(node: ir.Node, a: Strided, b: Strided, y: Tensor, scale: float) -> KernelStep:
    rows, k = a.shape[-2:]
    columns = b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    sizes, steps = batch_steps(batch, [a, b])
    arguments = {
        "batch": sizes,
        "rows": rows,
        "k": k,
        "columns": columns,
        "a_batch": steps[0],
        "b_batch": steps[1],
        "c_batch": dense_steps(sizes, rows * columns),
        "a_row": a.steps[-2],
        "a_k": a.steps[-1],
        "b_k": b.steps[-2],
        "b_column": b.steps[-1],
        "c_row": columns,
        "scale": scale,
    }
    return KernelStep(StepKind.MATMUL_F32, label(node), node.op_type, [a.tensor, b.tensor], y, arguments=arguments)


OPERATOR = FloatOperator(frozenset({"Gemm", "MatMul"}), reason, lower)
