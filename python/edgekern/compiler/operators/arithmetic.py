"""Add of two 8-bit tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.memory import too_large
from edgekern.compiler.operators import lookups
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.operators.products import NO_RESIDUAL, takes_bias
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.roles import Chain, Placement, Role
from edgekern.compiler.steps import KernelStep, Tensor, dtype_of
from edgekern.errors import CompileError
from edgekern.graph.dimensions import LARGEST_SIZE
from edgekern.graph.values import Quant, constant, known_shape, label, operands, quantization, shape_of


def role(p: Placement, node: ir.Node) -> str | None:
    if takes_bias(p, node) or lookups.is_table(p, node):
        return None
    reason = p.needs_bytes(node)
    if reason is not None:
        return reason
    inputs = list(operands(node))
    if any(shape_of(value) != shape_of(node.outputs[0]) for value in inputs):
        return "Add of different shapes has no kernel"
    for value in node.inputs:
        assert value is not None
        if value in inputs:
            continue
        producer = value.producer()
        if (
            producer is None
            or producer.op_type != "DequantizeLinear"
            or constant(producer.inputs[0]) is None
            or isinstance(quantization(producer), str)
        ):
            return "its constant operand is not quantized to 8 bits"
    p.begin(node, Role.PENDING)
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    """A constant operand is laid out once."""
    if value in lowering.placement.root:
        return lookups.lower(lowering, node, value, quant)
    assert quant is not None
    chain, shape = lowering.placement.chain[value], known_shape(node.outputs[0])
    values = [operand for operand in node.inputs if operand is not None]
    native = dict(zip(operands(node), lowering.alike(list(operands(node))), strict=True))
    first = next(iter(native.values()))
    inputs = [native[v] if v in native else _constant(lowering, v, shape, first.order) for v in values]
    y = Tensor(str(value.name), dtype_of(quant), first.shape, quant, first.order)
    step = KernelStep(StepKind.ADD, label(node), chain.op, inputs, y, arguments={**chain.limits(quant)})
    return lowering.emit(step)


def _constant(lowering: Lowering, value: ir.Value, shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """A quantized constant as a tensor: a product over no columns, whose result is its bias."""
    producer = value.producer()
    assert producer is not None
    codes, quant = constant(producer.inputs[0]), quantization(producer)
    assert codes is not None
    assert isinstance(quant, Quant)
    steps = codes.astype(np.int32) - quant.zero_point
    own = steps.reshape((1,) * (len(shape) - steps.ndim) + steps.shape)  # not yet of that shape, which may be large
    full = np.broadcast_to(own, shape)
    own, stored = (own.transpose(order), full.transpose(order)) if order else (own, full)
    lines = own.reshape(-1, own.shape[-1])
    if (lines == lines[0]).all():
        rows, bias = math.prod(stored.shape[:-1]), np.broadcast_to(lines[0], stored.shape[-1:])
    elif stored.nbytes > LARGEST_SIZE:
        raise CompileError(too_large(str(value.name), stored.shape, stored.nbytes))
    else:
        rows, bias = 1, stored.reshape(-1)
    columns = bias.size
    nothing = Tensor(f"{value.name} of nothing", dtype_of(quant), (rows, 0), quant)
    packed = _core.pack_weights_blob(np.zeros((1, columns, 1, 0), np.int8))
    blobs = [packed, pad_strips(bias.astype(np.int32)), pad_strips(np.ones(columns, np.float32))]
    y = Tensor(str(value.name), dtype_of(quant), stored.shape, quant, order)
    arguments = {"rows": rows, "k": 0, "columns": columns} | Chain([producer]).limits(quant) | NO_RESIDUAL
    return lowering.emit(KernelStep(StepKind.GEMM, label(producer), "Constant", [nothing], y, blobs, arguments))


OPERATOR = Operator({"Add"}, role, lower)
