"""Conv, Gemm and MatMul as kernel steps, with bias, clamp and requantization fused."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, StepKind
from edgekern.compiler.layout import in_onnx_order, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.passes.lower_moves import pad
from edgekern.compiler.placement import Chain
from edgekern.compiler.products import Product, pad_strips
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, dtype_of
from edgekern.compiler.window import Window
from edgekern.graph.values import Quant, int_attribute, known_shape, label

Clamps = list[tuple[float, float]]
# What fuse_residuals fills in.
NO_RESIDUAL = {"mid_scale": 1.0, "mid_zero_point": 0, "mid_signed": 0, "sum_lo": 0.0, "sum_hi": 0.0}


def product_step(lowering: Lowering, chain: Chain, value: ir.Value, x: Tensor, quant: Quant | None) -> Tensor:
    """The result of a chain as 8-bit, or as float32 in ONNX's order where ``quant`` is None."""
    node = chain.nodes[0]
    bias = chain.bias or (node.inputs[2] if len(node.inputs) > 2 else None)
    if x.quant is None:
        assert node.inputs[0] is not None
        x = view(x, quant=lowering.placement.quant[node.inputs[0]])
    product = Product.of(node, x.q, bias)
    shape = known_shape(value)
    step = (_conv if node.op_type == "Conv" else _gemm)(lowering, node, product, x, shape)
    step.name, step.op, step.output.name = label(node), chain.op, str(value.name)
    step.arguments |= clamp(chain.clamps, quant) | NO_RESIDUAL
    step.blobs.append(pad_strips(product.multiplier(quant), step.arguments.get("groups", 1)))
    if quant is not None:
        step.output.dtype, step.output.quant = dtype_of(quant), quant
    step.output.names.append(str(value.name))
    y = lowering.emit(step)
    return in_onnx_order(lowering, y) if quant is None else y


def clamp(clamps: Clamps, quant: Quant | None) -> dict[str, float]:
    """Limits around the zero point of an 8-bit result, or of a float one; clamps in a row become one."""
    if quant is None:
        lo, hi = -math.inf, math.inf
        for low, high in clamps:
            lo, hi = min(max(lo, low), high), min(max(hi, low), high)
        return {"lo": lo, "hi": hi}
    first, last = quant.lo, quant.hi
    for low, high in clamps:
        codes = int(quant.quantize(low)), int(quant.quantize(high))
        first, last = min(max(first, codes[0]), codes[1]), min(max(last, codes[0]), codes[1])
    return {"lo": float(first - quant.zero_point), "hi": float(last - quant.zero_point)}


def _conv(lowering: Lowering, node: ir.Node, product: Product, x: Tensor, shape: tuple[int, ...]) -> KernelStep:
    weights = product.weights
    out_c, in_per_group, height, width = weights.shape
    groups = int_attribute(node, "group", 1)
    window = Window.of(node, (height, width))
    if not window.fits:
        before, after = [0, *window.pad, 0], [0, *window.overhang, 0]
        x, window = pad(lowering, x, before, after, x.q.zero_point, node), window.padded()
    in_c = x.shape[3]
    depthwise = groups > 1 and groups == in_c == out_c
    if depthwise:
        packed = _core.pack_depthwise_blob(weights.reshape(out_c, height * width))
    else:
        taps = weights.reshape(groups, out_c // groups, in_per_group, height * width).transpose(0, 1, 3, 2)
        packed = _core.pack_weights_blob(taps)
    blobs = [packed, pad_strips(product.bias.astype(np.int32), 1 if depthwise else groups)]
    y = Tensor("", DType.F32, tuple(shape[axis] for axis in NHWC), order=NHWC)
    if depthwise:
        return KernelStep(StepKind.DEPTHWISE, "", "", [x], y, blobs, {**window.arguments, "channels": out_c})
    sizes = {"in_channels": in_c, "out_channels": out_c, "groups": groups}
    return KernelStep(StepKind.CONV, "", "", [x], y, blobs, window.arguments | sizes)


def _gemm(lowering: Lowering, _: ir.Node, product: Product, x: Tensor, shape: tuple[int, ...]) -> KernelStep:
    weights = product.weights
    if x.flat is not None:
        weights = _permuted(weights, x.flat)
    else:
        x = in_onnx_order(lowering, x)
    n, k = weights.shape
    packed = _core.pack_weights_blob(weights.reshape(1, n, 1, k))
    blobs = [packed, pad_strips(product.bias.astype(np.int32))]
    rows = math.prod(shape[:-1])
    sizes = {"rows": rows, "k": k, "columns": n}
    return KernelStep(StepKind.GEMM, "", "", [x], Tensor("", DType.F32, shape), blobs, sizes)


def _permuted(weights: npt.NDArray[np.int8], flat: tuple[int, int, int]) -> npt.NDArray[np.int8]:
    """Weights over flattened (C, H, W) features, for features in the order (H, W, C)."""
    return weights.reshape(-1, *flat).transpose(0, 2, 3, 1).reshape(weights.shape)
