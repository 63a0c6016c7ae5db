"""Conv, ConvTranspose, Gemm and MatMul on int8 weights, with bias, clamp and requantization fused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, StepKind
from edgekern.compiler.layout import in_onnx_order, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators import convolutions, shifted
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.operators.weights import Product, accumulator_reason, pad_strips
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import KernelStep, Tensor, dtype_of
from edgekern.graph.families import CONVOLUTIONS, PRODUCTS
from edgekern.graph.values import (
    Quant,
    float_attribute,
    float_constant,
    int_attribute,
    known_shape,
    label,
    operands,
    quantized_weights,
    shape_of,
    sole_consumer,
)

# What fuse_residuals fills in.
NO_RESIDUAL: dict[str, Any] = {"mid_scale": 1.0, "mid_zero_point": 0, "mid_signed": 0, "sum_lo": 0.0, "sum_hi": 0.0}

_MATRIX = 2  # axes
_DEEPEST = 2**30 // (255 * 128)  # k of two activations, as csrc/gemm has it


def role(p: Placement, node: ir.Node) -> str | None:
    reason = p.needs_bytes(node)
    if reason is not None:
        return reason
    if list(operands(node)) != [node.inputs[0]]:
        reason = _two_reason(p, node)
        if reason is None:
            p.begin(node, Role.PRODUCT)
        return reason
    reason = product_reason(node)
    if reason is not None:
        return reason
    data, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    assert data is not None
    reason = accumulator_reason(node, p.quant[data], bias)
    if reason is None:
        p.begin(node, Role.PRODUCT)
    return reason


def product_reason(node: ir.Node) -> str | None:
    """Why no integer kernel multiplies its weights, whatever it reads."""
    return _conv_reason(node) if node.op_type in CONVOLUTIONS else _matrix_reason(node)


def takes_bias(p: Placement, node: ir.Node) -> bool:
    """Whether an Add of a constant row becomes the bias of the MatMul before it."""
    source, result = next(operands(node)), node.outputs[0]
    if p.role_of(source) is not Role.PRODUCT or sole_consumer(source) is not node:
        return False
    chain = p.chain[source]
    if chain.nodes[0].op_type != "MatMul" or len(chain.nodes) > 1 or len(list(operands(chain.nodes[0]))) > 1:
        return False
    addend = next((value for value in node.inputs if value is not source), None)
    bias, shape, weights = float_constant(addend), shape_of(source), shape_of(chain.nodes[0].inputs[1])
    if bias is None or shape is None or weights is None or shape_of(result) != shape:
        return False
    if bias.size not in (1, weights[-1] if len(weights) > 1 else 1):
        return False
    data = chain.nodes[0].inputs[0]
    assert data is not None
    if (bias.ndim and bias.shape[-1] != bias.size) or accumulator_reason(chain.nodes[0], p.quant[data], addend):
        return False
    p.extend(source, chain.then(node, bias=addend))
    return True


def _conv_reason(node: ir.Node) -> str | None:
    reason = convolutions.reason(node)
    if reason is not None:
        return reason
    weights = shape_of(node.inputs[1])
    assert weights is not None
    return _bias_reason(node, weights[1 if node.op_type == "ConvTranspose" else 0])


def _matrix_reason(node: ir.Node) -> str | None:
    weights = quantized_weights(node.inputs[1], shifted=True)
    if isinstance(weights, str):
        return weights
    if node.op_type == "Gemm" and int_attribute(node, "transA", 0):
        return "transA = 1 has no kernel"
    columns = 0 if int_attribute(node, "transB", 0) and node.op_type == "Gemm" else 1
    vector = weights.values.ndim == 1  # a matrix of one column, which the result does not have
    if weights.values.ndim != 2 and not vector:
        return "only weights that are a matrix have a kernel"
    if vector and weights.scale.size > 1:
        return "its weight scales run along what is summed"
    if weights.scale.size > 1 and weights.axis != columns:
        return "its weight scales do not run along the columns"
    x = shape_of(node.inputs[0])
    if x is None or len(x) < 1:
        return "its input has no known shape"
    if float_attribute(node, "alpha", 1.0) <= 0:
        return "alpha <= 0 has no kernel"
    return _bias_reason(node, 1 if vector else weights.values.shape[columns])


def _two_reason(p: Placement, node: ir.Node) -> str | None:
    """Why no integer kernel multiplies two activations."""
    a, b = node.inputs[:2]
    if node.op_type != "MatMul" or a is None or b is None or len(list(operands(node))) != len(node.inputs[:2]):
        return "only a MatMul of two activations has a kernel"
    left, right = shape_of(a), shape_of(b)
    if not left or not right or len(left) < _MATRIX or len(right) < _MATRIX or 0 in (*left, *right):
        return "only a MatMul of matrices has a kernel"
    if p.quant[b].zero_point != 0 or not p.quant[b].signed:
        return "its second activation is not int8 with zero point 0"
    if math.prod(right[:-2]) > 1 and left[:-2] != right[:-2]:
        return "batches that broadcast have no kernel"
    if left[-1] > _DEEPEST:
        return "its int32 accumulator can pass 2**31"
    return None


def _bias_reason(node: ir.Node, channels: int) -> str | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = float_constant(node.inputs[2])
    if bias is None:
        return "its bias is not constant"
    if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return f"its bias has shape {bias.shape}, not ({channels},)"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    """The result of a chain as 8-bit, or as float32 where ``quant`` is None."""
    data, chain = node.inputs[0], lowering.placement.chain[value]
    assert data is not None
    if len(list(operands(node))) > 1:
        return _two(lowering, node, value, quant)
    convolves = node.op_type in CONVOLUTIONS
    x = lowering.native_image(data) if convolves else lowering.native(data)
    x = view(x, quant=lowering.placement.quant[data]) if x.quant is None else x
    bias = chain.bias or (node.inputs[2] if len(node.inputs) > 2 else None)
    product, finish = Product.of(node, x.q, bias), None
    if product.zero is not None:

        def make(part: Product, shape: tuple[int, ...]) -> KernelStep:
            if convolves:
                return convolutions.convolve(lowering, node, part, x, value)[0]
            return _matrix(lowering, node, part, x, shape)

        return shifted.lower(lowering, value, product, quant, make, NO_RESIDUAL)
    if convolves:
        step, product, finish = convolutions.convolve(lowering, node, product, x, value)
    else:
        step = _matrix(lowering, node, product, x, known_shape(value))
    step.name, step.op, step.output.name = label(node), chain.op, str(value.name)
    step.arguments |= chain.limits(quant) | NO_RESIDUAL
    step.blobs.append(pad_strips(product.multiplier(quant), step.arguments.get("groups", 1)))
    if quant is not None:
        step.output.dtype, step.output.quant = dtype_of(quant), quant
    y = lowering.emit(step)
    y = y if finish is None else finish(y)
    y.names.append(str(value.name))
    return y


def _matrix(lowering: Lowering, node: ir.Node, product: Product, x: Tensor, shape: tuple[int, ...]) -> KernelStep:
    weights = product.weights
    if x.flat is not None:
        weights = _permuted(weights, x.flat)
    else:
        x = in_onnx_order(lowering, x)
    n, k = weights.shape
    packed = _core.pack_weights_blob(weights.reshape(1, n, 1, k))
    blobs = [packed, pad_strips(product.bias.astype(np.int32))]
    vector = len(known_shape(node.inputs[1])) == 1
    rows = math.prod(shape if vector else shape[:-1])
    sizes = {"rows": rows, "k": k, "columns": n}
    return KernelStep(StepKind.GEMM, "", "", [x], Tensor("", DType.F32, shape), blobs, sizes)


def _two(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    """A product of two activations; one matrix that all of a batch share is multiplied by all rows at once."""
    chain = lowering.placement.chain[value]
    a, b = (in_onnx_order(lowering, lowering.stored(operand)) for operand in operands(node))
    scale = np.float64(a.q.scale) * np.float64(b.q.scale) / (1.0 if quant is None else np.float64(quant.scale))
    k, columns = b.shape[-2:]
    batch = math.prod(b.shape[:-2])
    arguments = {
        "batch": batch,
        "rows": a.size // k // batch,
        "k": k,
        "columns": columns,
        "multiplier": float(np.float32(scale)),
        **chain.limits(quant),
    }
    y = Tensor(str(value.name), DType.F32 if quant is None else dtype_of(quant), known_shape(value), quant)
    y.names.append(str(value.name))
    return lowering.emit(KernelStep(StepKind.MATMUL, label(node), chain.op, [a, b], y, arguments=arguments))


def _permuted(weights: npt.NDArray[np.int8], flat: tuple[int, int, int]) -> npt.NDArray[np.int8]:
    """Weights over flattened (C, H, W) features, for features in the order (H, W, C)."""
    return weights.reshape(-1, *flat).transpose(0, 2, 3, 1).reshape(weights.shape)


OPERATOR = Operator(PRODUCTS, role, lower)
