"""QuantizeLinear and DequantizeLinear: where 8 bits begin and end. Mostly they cost nothing."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.lookups import lookup
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, dtype_of
from edgekern.graph.families import QDQ
from edgekern.graph.values import Quant, label, quantization, shape_of


def role(p: Placement, node: ir.Node) -> str | None:
    found, x = quantization(node), node.inputs[0]
    if isinstance(found, str):
        return found
    if x is None or shape_of(x) is None:
        return "its shape is not known"
    quantizes = node.op_type == "QuantizeLinear"
    real = x if quantizes else node.outputs[0]
    if real.dtype not in (None, ir.DataType.FLOAT):
        return f"its {'input' if quantizes else 'result'} is not float32"
    p.keep(node, found)
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    x = node.inputs[0]
    assert x is not None
    assert quant is not None
    if node.op_type == "DequantizeLinear":
        stored = lowering.stored(x)
        return stored if stored.quant == quant else view(stored, quant=quant, dtype=dtype_of(quant))
    if lowering.placement.role_of(x) is Role.BYTES:
        tensor = lookup(lowering, lowering.stored(x), quant, None, node, [node])
    elif lowering.placement.fuses(node):
        tensor = lowering.compute(x, quant)
    else:
        tensor = _quantize(lowering, lowering.real(x), node, quant)
    if str(x.name) not in tensor.names:
        tensor.names.append(str(x.name))
    return tensor


def _quantize(lowering: Lowering, x: Tensor, node: ir.Node, quant: Quant) -> Tensor:
    image = len(x.shape) == 4 and x.order != NHWC
    shape = tuple(x.shape[axis] for axis in NHWC) if image else x.shape
    y = Tensor(x.name, dtype_of(quant), shape, quant, NHWC if image else x.order)
    if not image:
        return lowering.emit(KernelStep(StepKind.QUANTIZE, label(node), node.op_type, [x], y))
    batch, channels, height, width = x.shape
    sizes = {"batch": batch, "channels": channels, "pixels": height * width}
    return lowering.emit(KernelStep(StepKind.QUANTIZE_NCHW, label(node), node.op_type, [x], y, arguments=sizes))


OPERATOR = Operator(QDQ, role, lower)
