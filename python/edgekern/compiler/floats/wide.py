"""16-bit activations: QuantizeLinear and DequantizeLinear as instructions, and exact products by 8-bit weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import Code, common_order, emit_map, new_map, operand_of
from edgekern.compiler.floats.moves import padded
from edgekern.compiler.floats.operator import FLOAT, new_tensor
from edgekern.compiler.floats.tables import lower_table, table_behind
from edgekern.compiler.formula_step import MapStep, Ref
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.products import product_reason
from edgekern.compiler.operators.weights import Product, pad_strips
from edgekern.compiler.operators.window import Window
from edgekern.compiler.steps import NO_EPILOGUE, KernelStep, Tensor, channels_last
from edgekern.graph.values import Quant, consumers, int_attribute, known_shape, label, quantized_weights
from edgekern.graph.wide import wide_operand, wide_quant, wide_source

# Sums of so many products of a byte and a weight stay below 2**31.
_DEEPEST = (2**31 - 1) // (255 * 128)


def reason(node: ir.Node) -> str | None:
    """Codes are held as the real numbers that they stand for: nobody else may read them."""
    if node.op_type == "DequantizeLinear":
        if wide_source(node.outputs[0]) is not None or table_behind(node) is not None:
            return None
        return "its 16-bit codes come from no QuantizeLinear and no table"
    x, codes = node.inputs[0], node.outputs[0]
    if x is None or x.dtype not in FLOAT:
        return "its input is not float32"
    if codes.is_graph_output() or any(wide_source(reader.outputs[0]) is None for reader in consumers(codes)):
        return "its 16-bit codes are read as they are"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    code = Code()
    if node.op_type == "QuantizeLinear":  # read by nobody
        x, quant = node.inputs[0], wide_quant(node)
        assert x is not None
        assert quant is not None
        y = Tensor(str(value.name), DType.I32, known_shape(value))
        step = MapStep(StepKind.MAP, label(node), node.op_type, [], y)
        steps = _steps(code, operand_of(lowering, step, x, tuple(range(len(y.shape)))), quant)
        code(MapOp.ADD, steps, float(quant.zero_point))
        return emit_map(lowering, step, code.instructions)
    if (gather := table_behind(node)) is not None:
        return lower_table(lowering, node, value, gather)
    found = wide_source(value)
    assert found is not None
    x, made, restored = found
    order = common_order(lowering, [x], len(known_shape(value)))
    step = new_map(node, value, order)
    steps = _steps(code, operand_of(lowering, step, x, order), made)
    if made.zero_point != restored.zero_point:
        steps = code(MapOp.ADD, steps, float(made.zero_point - restored.zero_point))
    code(MapOp.MUL, steps, restored.scale)
    return emit_map(lowering, step, code.instructions)


def _steps(code: Code, x: Ref, quant: Quant) -> Ref:
    """How many steps a number is from zero, once it is quantized: a NaN the least, as in 8 bits."""
    lo, hi = float(quant.lo - quant.zero_point), float(quant.hi - quant.zero_point)
    ratio = code(MapOp.DIV, x, quant.scale)
    above = code(MapOp.WHERE, code(MapOp.GREATER, ratio, lo), ratio, lo)
    return code(MapOp.ROUND, code(MapOp.MIN, above, hi))


def is_wide_product(node: ir.Node) -> bool:
    """Whether a product multiplies 16-bit activations by 8-bit weights exactly."""
    found = wide_operand(node)
    if found is None or product_reason(node) is not None or isinstance(quantized_weights(node.inputs[1]), str):
        return False
    weights = known_shape(node.inputs[1])
    if node.op_type == "Conv":
        return len(weights) == 4 and math.prod(weights[1:]) <= _DEEPEST
    transposed = node.op_type == "Gemm" and int_attribute(node, "transB", 0)
    return len(weights) == 2 and weights[1 if transposed else 0] <= _DEEPEST


def wide_product(lowering: Lowering, node: ir.Node, value: ir.Value, bias: npt.NDArray[np.float32] | None) -> Tensor:
    """The step that computes one."""
    found = wide_operand(node)
    assert found is not None
    source, quant = found
    product = Product.of(node, quant, None)
    channels = len(product.scale)
    step = (_conv if node.op_type == "Conv" else _matrix)(lowering, node, product, source, value)
    groups = step.arguments.get("groups", 1)
    filled = np.zeros(channels, np.float32) if bias is None else np.broadcast_to(bias, (channels,))
    step.blobs += [pad_strips(product.scale.astype(np.float32), groups), pad_strips(filled, groups)]
    codes = {"scale": quant.scale, "zero_point": quant.zero_point, "signed": int(quant.signed)}
    step.arguments |= codes | NO_EPILOGUE
    return lowering.emit(step)


def _conv(lowering: Lowering, node: ir.Node, product: Product, source: ir.Value, value: ir.Value) -> KernelStep:
    weights, groups = product.weights, int_attribute(node, "group", 1)
    out_c, in_per_group, *kernel = weights.shape
    window, x = Window.of(node, tuple(kernel)), lowering.image(source)
    if not window.fits:
        x, window = padded(lowering, source, x, window, label(node)), window.padded()
    shape, taps, in_c = known_shape(value), math.prod(kernel), x.shape[-1]
    order = channels_last(len(shape))
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    arguments: dict[str, Any] = {**window.flat_arguments}
    if groups > 1 and groups == in_c == out_c:
        packed = _core.pack_depthwise_blob(weights.reshape(out_c, taps))
        return KernelStep(
            StepKind.DEPTHWISE_WIDE, label(node), node.op_type, [x], y, [packed], arguments | {"channels": out_c}
        )
    by_tap = weights.reshape(groups, out_c // groups, in_per_group, taps).transpose(0, 1, 3, 2)
    arguments |= {"in_channels": in_c, "out_channels": out_c, "groups": groups}
    packed = _core.pack_weights_blob(by_tap)
    return KernelStep(StepKind.CONV_WIDE, label(node), node.op_type, [x], y, [packed], arguments)


def _matrix(lowering: Lowering, node: ir.Node, product: Product, source: ir.Value, value: ir.Value) -> KernelStep:
    columns, k = product.weights.shape
    packed = _core.pack_weights_blob(product.weights.reshape(1, columns, 1, k))
    y = new_tensor(value)
    arguments: dict[str, Any] = {"rows": math.prod(y.shape[:-1]), "k": k, "columns": columns}
    x = lowering.plain(source)
    return KernelStep(StepKind.GEMM_WIDE, label(node), node.op_type, [x], y, [packed], arguments)
