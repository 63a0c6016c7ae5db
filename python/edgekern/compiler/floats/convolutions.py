"""Conv and ConvTranspose over one to three dimensions, with float weights, on images with their channels last."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler.floats.dynamic_rows import windows_times_codes
from edgekern.compiler.floats.moves import padded
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason
from edgekern.compiler.floats.wide import is_wide_product, wide_product
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.operators.window import MAX_TAPS, SPATIAL, Window
from edgekern.compiler.steps import NO_EPILOGUE, KernelStep, Tensor, channels_last
from edgekern.graph.values import (
    int_attribute,
    ints_attribute,
    is_constant,
    known_shape,
    label,
)


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    x, w, y = known_shape(node.inputs[0]), known_shape(node.inputs[1]), known_shape(node.outputs[0])
    if not is_constant(node.inputs[1]) or not all(map(is_constant, node.inputs[2:])):
        return "weights that are not constant have no kernel"
    if not 3 <= len(x) <= 2 + SPATIAL or len(w) != len(x):
        return f"{node.op_type} over {len(x) - 2} dimensions has no kernel"
    if 0 in (*x, *y, *w):
        return f"a {node.op_type} of nothing has no kernel"
    window = Window.of(node, w[2:])
    if min(window.sizes["pad"]) < 0 or min(ints_attribute(node, "pads", [0])) < 0:
        return "negative padding has no kernel"
    if node.op_type == "Conv" and window.is_same and window.steps_over:
        return "auto_pad where strides leave pixels out has no kernel"
    if window.taps > MAX_TAPS or (node.op_type == "ConvTranspose" and not window.turned.fits):
        return "a window that begins outside the image has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    rows = windows_times_codes(lowering, node, value)
    if rows is not None:
        return rows
    source, weights_value = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weights_value is not None
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = None if bias_value is None else lowering.constant(bias_value).astype(np.float32)
    if is_wide_product(node):
        return wide_product(lowering, node, value, bias)
    weights = lowering.constant(weights_value).astype(np.float32)
    groups = int_attribute(node, "group", 1)
    x = lowering.image(source)
    in_c = x.shape[-1]
    window = Window.of(node, weights.shape[2:])
    if node.op_type == "Conv" and not window.fits:
        x, window = padded(lowering, source, x, window, label(node)), window.padded()
    shape = known_shape(value)
    order = channels_last(len(shape))
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    transposes = node.op_type == "ConvTranspose"
    out_c = weights.shape[1] * groups if transposes else weights.shape[0]
    bias = np.zeros(out_c, np.float32) if bias is None else bias
    arguments = {**window.arguments, "in_channels": in_c, "out_channels": out_c, "groups": groups, **NO_EPILOGUE}
    step = KernelStep(StepKind.CONV_F32, label(node), node.op_type, [x], y, arguments=arguments)
    if transposes:
        step.kind = StepKind.CONV_TRANSPOSE_F32
        parts = weights.reshape(groups, in_c // groups, out_c // groups, window.taps).transpose(0, 2, 3, 1)
        packed = _core.pack_f32_blob(np.ascontiguousarray(parts.reshape(groups, out_c // groups, -1)))
        step.blobs = [packed, pad_strips(bias, groups)]
    elif groups > 1 and groups == in_c == out_c:
        step.kind = StepKind.DEPTHWISE_F32
        for name in ("in_channels", "out_channels", "groups"):
            arguments.pop(name)
        arguments["channels"] = out_c
        step.blobs = [_core.pack_depthwise_f32_blob(weights.reshape(out_c, window.taps)), pad_strips(bias)]
    else:
        parts = weights.reshape(groups, out_c // groups, in_c // groups, window.taps).transpose(0, 1, 3, 2)
        packed = _core.pack_f32_blob(np.ascontiguousarray(parts.reshape(groups, out_c // groups, -1)))
        step.blobs = [packed, pad_strips(bias, groups)]
    return lowering.emit(step)


OPERATOR = FloatOperator(frozenset({"Conv", "ConvTranspose"}), reason, lower)
