"""Gather, GatherElements and GatherND: indices that are data, and those that are known before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import DType, StepKind
from edgekern.compiler.floats.moves import pick
from edgekern.compiler.floats.operator import ANY, WHOLE, FloatOperator, new_tensor
from edgekern.compiler.floats.tables import constant_gather, is_wide_table
from edgekern.compiler.layout import MOST_AXES, eight, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import constant, int_attribute, is_constant, known_shape, label


def reason(node: ir.Node) -> str | None:
    data, indices = node.inputs[:2]
    if (
        data is None
        or (data.dtype not in ANY and not is_wide_table(node))
        or indices is None
        or indices.dtype not in WHOLE
    ):
        return f"it reads types for which {node.op_type} has no kernel"
    shape, fixed = known_shape(data), constant(indices)
    if not shape:
        return "its data is a scalar"
    if 0 in (*shape, *known_shape(indices)):
        return f"a {node.op_type} of nothing has no kernel"
    if fixed is not None and node.op_type == "Gather":
        n = shape[int_attribute(node, "axis", 0) % len(shape)]
        if ((fixed < -n) | (fixed >= n)).any():
            return "its index is outside of its data"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    data, indices = node.inputs[:2]
    assert data is not None
    assert indices is not None
    if node.op_type == "GatherElements":
        return _elements(lowering, node, value, data, indices)
    if node.op_type == "GatherND":
        return _nd(lowering, node, value, data, indices)
    shape = known_shape(data)
    axis = int_attribute(node, "axis", 0) % len(shape)
    fixed = constant(indices)
    if fixed is not None:
        tables = [np.arange(side) for side in shape]
        tables[axis] = fixed.reshape(-1) % shape[axis]
        x = lowering.plain(data) if fixed.ndim != 1 else lowering.real(data)
        return _picked(lowering, node, value, x, tables)
    item = np.dtype(value.dtype.numpy()).itemsize if value.dtype is not None else 0
    if is_wide_table(node):  # read by nobody: who dequantizes the codes takes their bytes
        bytes_of = lowering.constant(data).astype(np.uint8)
        y = Tensor(str(value.name), DType.U8, known_shape(value))
        return lowering.emit(constant_gather(lowering, node, bytes_of, y))
    y = new_tensor(value)
    if is_constant(data):
        return lowering.emit(constant_gather(lowering, node, lowering.constant(data), y))
    arguments = {
        "outer": math.prod(shape[:axis]),
        "n": shape[axis],
        "inner_bytes": math.prod(shape[axis + 1 :]) * item,
        "count": math.prod(known_shape(indices)),
    }
    inputs = [lowering.plain(data), lowering.plain(indices)]
    return lowering.emit(KernelStep(StepKind.GATHER, label(node), "Gather", inputs, y, arguments=arguments))


def _picked(
    lowering: Lowering,
    node: ir.Node,
    value: ir.Value,
    x: Tensor,
    tables: Sequence[npt.NDArray[Any]],
) -> Tensor:
    """Of the rank of the data first; then of the rank of the result."""
    y = pick(lowering, x, value, tables, label(node), node.op_type)
    shape = known_shape(value)
    return y if len(shape) == len(tables) else view(y, shape=shape)


def _elements(lowering: Lowering, node: ir.Node, value: ir.Value, data: ir.Value, indices: ir.Value) -> Tensor:
    shape = known_shape(data)
    axis = int_attribute(node, "axis", 0) % len(shape)
    steps = _steps(shape)
    x = lowering.plain(data)
    arguments = {
        "y_shape": eight(known_shape(value)),
        "x_step": eight([0 if at == axis else step for at, step in enumerate(steps)], 0),
        "n": shape[axis],
        "axis_step": steps[axis],
        "item_bytes": x.item_bytes,
    }
    inputs = [x, lowering.plain(indices)]
    step = KernelStep(
        StepKind.GATHER_ELEMENTS, label(node), node.op_type, inputs, new_tensor(value), arguments=arguments
    )
    return lowering.emit(step)


def _nd(lowering: Lowering, node: ir.Node, value: ir.Value, data: ir.Value, indices: ir.Value) -> Tensor:
    shape, index = known_shape(data), known_shape(indices)
    lead, depth = int_attribute(node, "batch_dims", 0), index[-1]
    x = lowering.plain(data)
    batches = math.prod(shape[:lead])
    arguments = {
        "batches": batches,
        "count": math.prod(index[lead:-1]),
        "depth": depth,
        "sides": [*shape[lead : lead + depth], *[1] * (MOST_AXES - depth)],
        "slice_bytes": math.prod(shape[lead + depth :]) * x.item_bytes,
    }
    inputs = [x, lowering.plain(indices)]
    step = KernelStep(StepKind.GATHER_ND, label(node), node.op_type, inputs, new_tensor(value), arguments=arguments)
    return lowering.emit(step)


def _steps(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next along each axis."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


OPERATOR = FloatOperator(frozenset({"Gather", "GatherElements", "GatherND"}), reason, lower)
