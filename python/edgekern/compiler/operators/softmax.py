"""Softmax over the last axis: exponentials of what the codes of a row lie below its largest, from a table."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import in_onnx_order
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.lookups import clamped
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import KernelStep, Tensor, dtype_of
from edgekern.graph.families import SOFTMAX, takes_bytes
from edgekern.graph.values import Quant, label, operands, shape_of

_ONE = 2**30  # exp(0) in the table: int32 holds it, and sums of millions of rounded ones stay close


def role(p: Placement, node: ir.Node) -> str | None:
    reason = p.needs_bytes(node)
    if reason is not None:
        return reason
    if not takes_bytes(node):
        return f"{node.op_type} has a kernel for the last axis alone"
    shape = shape_of(node.inputs[0])
    if not shape or shape[-1] == 0:
        return "the length of its last axis is unknown or 0"
    p.begin(node, Role.PENDING)
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    assert quant is not None
    x, chain = in_onnx_order(lowering, lowering.stored(next(operands(node)))), lowering.placement.chain[value]
    exponentials = np.rint(_ONE * np.exp(-np.float64(x.q.scale) * np.arange(256))).astype("<i4")
    columns = x.shape[-1]
    arguments = {"rows": x.size // columns, "columns": columns}
    y = Tensor(str(value.name), dtype_of(quant), x.shape, quant)
    step = KernelStep(StepKind.SOFTMAX, label(node), chain.op, [x], y, [exponentials.tobytes()], arguments)
    return clamped(lowering, lowering.emit(step), chain, quant)


OPERATOR = Operator(SOFTMAX, role, lower)
