"""Nearest Resize of bytes: every pixel of the result is one of the image."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.compiler.floats import resize
from edgekern.compiler.floats.picks import pick_places
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Placement
from edgekern.compiler.steps import Tensor
from edgekern.graph.families import RESIZES, crops
from edgekern.graph.values import Quant, label, operands, shape_of, text_attribute


def role(p: Placement, node: ir.Node) -> str | None:
    data = node.inputs[0]
    if data is None or shape_of(data) is None or shape_of(node.outputs[0]) is None:
        return "its shape is not known"
    reason = p.needs_bytes(node, [data])
    if reason is None and (text_attribute(node, "mode", "nearest") != "nearest" or crops(node)):
        reason = "only a nearest Resize that does not crop moves 8 bits as they are"
    reason = reason or resize.reason(node)
    if reason is None:
        p.keep(node, p.quant[data])
    return reason


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    x = lowering.stored(next(operands(node)))
    return pick_places(lowering, x, resize.nearest_tables(lowering, node), label(node), "Resize")


OPERATOR = Operator(RESIZES, role, lower)
