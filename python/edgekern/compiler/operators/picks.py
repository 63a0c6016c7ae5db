"""What repeats, picks or regroups bytes and computes nothing: the result has the scale of what is moved."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats import gathers, moves
from edgekern.compiler.floats.picks import expand_tables, move_blocks, pick_places
from edgekern.compiler.layout import in_onnx_order, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Placement
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.families import PICKS
from edgekern.graph.values import Quant, constant, int_attribute, known_shape, label, shape_of


def role(p: Placement, node: ir.Node) -> str | None:
    data, result = node.inputs[0], node.outputs[0]
    if data is None or shape_of(data) is None or shape_of(result) is None:
        return "its shape is not known"
    reason = p.needs_bytes(node, [data], codes=True)
    reason = reason or (gathers if node.op_type == "Gather" else moves).reason(node)
    if reason is None:
        p.keep(node, p.quant[data])
    return reason


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    data = node.inputs[0]
    assert data is not None
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        return move_blocks(lowering, node, lowering.native(data))
    x = lowering.stored(data)
    if node.op_type == "Gather":
        return _gather(lowering, node, value, x)
    rank = len(known_shape(value))
    if len(x.shape) != rank:
        x = in_onnx_order(lowering, x)
        x = view(x, shape=(1,) * (rank - len(x.shape)) + x.shape)
    return pick_places(lowering, x, expand_tables(node, value), label(node), node.op_type)


def _gather(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    indices, shape = node.inputs[1], known_shape(node.inputs[0])
    assert indices is not None
    axis, fixed = int_attribute(node, "axis", 0) % len(shape), constant(indices)
    x = x if fixed is not None and fixed.ndim == 1 else in_onnx_order(lowering, x)
    if fixed is not None:
        tables = [np.arange(side) for side in shape]
        tables[axis] = fixed.reshape(-1) % shape[axis]
        y = pick_places(lowering, x, tables, label(node), "Gather")
        return y if fixed.ndim == 1 else view(y, shape=known_shape(value))
    arguments = {
        "outer": math.prod(shape[:axis]),
        "n": shape[axis],
        "inner_bytes": math.prod(shape[axis + 1 :]) * x.item_bytes,
        "count": math.prod(known_shape(indices)),
    }
    y = Tensor(str(value.name), x.dtype, known_shape(value), x.quant)
    inputs = [x, lowering.plain(indices)]
    return lowering.emit(KernelStep(StepKind.GATHER, label(node), "Gather", inputs, y, arguments=arguments))


OPERATOR = Operator(PICKS, role, lower)
