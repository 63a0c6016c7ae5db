"""Products whose rows are quantized as they come: of Gemm and MatMul, and of a Conv whose windows lie side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler.floats.operator import new_tensor
from edgekern.compiler.layout import transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.steps import NO_EPILOGUE, KernelStep, Tensor, channels_last
from edgekern.graph.dynamic import DEEPEST_SPANS, dynamic_weights, group_weights, is_dynamic, row_bits
from edgekern.graph.values import known_shape, label

FloatArray = npt.NDArray[np.float32]


def rows_times_codes(
    lowering: Lowering, node: ir.Node, x: Tensor, bias: FloatArray | None, y: Tensor, alpha: float
) -> Tensor | None:
    """The same by weights of 8 or 4 bits, where the file says that rows are quantized as they come."""
    made = _rows_times_groups(lowering, node, x, bias, y, alpha)
    weights = None if made is not None else dynamic_weights(node)
    if weights is None:
        return made
    k, n = weights.values.shape
    packed = _core.pack_weights_blob(np.ascontiguousarray(weights.values.T)[np.newaxis, :, np.newaxis])
    scale = np.broadcast_to(weights.scale.astype(np.float64) * alpha, (n,)).astype(np.float32)
    blobs = [packed, pad_strips(scale), pad_strips(np.zeros(n, np.float32) if bias is None else bias)]
    arguments: dict[str, Any] = {"rows": math.prod(y.shape) // n, "k": k, "columns": n, **NO_EPILOGUE}
    arguments["zero_points"] = int(k <= DEEPEST_SPANS)
    return lowering.emit(KernelStep(StepKind.GEMM_DYNAMIC, label(node), node.op_type, [x], y, blobs, arguments))


def _rows_times_groups(
    lowering: Lowering, node: ir.Node, x: Tensor, bias: FloatArray | None, y: Tensor, alpha: float
) -> Tensor | None:
    """By 4-bit weights with a scale a group."""
    weights = group_weights(node)
    if weights is None:
        return None
    k, n = weights.values.shape
    scale = (weights.scale.astype(np.float64) * alpha).astype(np.float32)
    packed, unit = _core.pack_weights4_blob(weights.values, scale, weights.zero, weights.group)
    arguments: dict[str, Any] = {"rows": math.prod(y.shape) // n, "k": k, "columns": n, **NO_EPILOGUE}
    arguments |= {"group": weights.group, "zero_points": int(weights.zero is not None), "unit": unit}
    arguments["activation_bits"] = row_bits(node)
    blobs = [packed, pad_strips(np.zeros(n, np.float32) if bias is None else bias)]
    return lowering.emit(KernelStep(StepKind.GEMM_GROUPS, label(node), node.op_type, [x], y, blobs, arguments))


def windows_times_codes(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor | None:
    """A Conv by such weights, where the file says the same of the windows that it reads."""
    if not is_dynamic(node):
        return None
    source, weights = node.inputs[:2]
    assert source is not None
    bias = None if len(node.inputs) < 3 or node.inputs[2] is None else lowering.constant(node.inputs[2])
    shape, kernel = known_shape(value), known_shape(weights)[2:]
    order = channels_last(len(shape))
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    if set(kernel) == {1}:
        return rows_times_codes(lowering, node, lowering.image(source), bias, y, 1.0)
    pairs = [side for pair in zip(shape[2:], kernel, strict=True) for side in pair]
    x = view(lowering.plain(source), shape=(*known_shape(source)[:2], *pairs))
    axes = range(2, len(x.shape))
    windows = transposed(lowering, x, (0, *axes[::2], 1, *axes[1::2]), (), label(node))
    return rows_times_codes(lowering, node, windows, bias, y, 1.0)
