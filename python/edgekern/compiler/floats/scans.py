"""What runs along one axis: CumSum."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.operator import FLOAT, FloatOperator
from edgekern.compiler.floats.reductions import around
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import constant, int_attribute, label, operands


def reason(node: ir.Node) -> str | None:
    data = node.inputs[0]
    if data is None or data.dtype not in FLOAT | {ir.DataType.INT64}:
        return "it reads a type for which CumSum has no kernel"
    return None if constant(node.inputs[1]) is not None else "its axis is not constant"


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    x, axis = lowering.real(next(operands(node))), constant(node.inputs[1])
    assert axis is not None
    order = x.order or tuple(range(len(x.shape)))
    place = order.index(int(axis.reshape(-1)[0]) % len(order))
    arguments = {
        **around(x.shape, place),
        "exclusive": int_attribute(node, "exclusive", 0),
        "reverse": int_attribute(node, "reverse", 0),
    }
    y = replace(x, name=str(value.name), view_of=None, names=[])
    return lowering.emit(KernelStep(StepKind.CUM_SUM, label(node), "CumSum", [x], y, arguments=arguments))


OPERATOR = FloatOperator(frozenset({"CumSum"}), reason, lower)
