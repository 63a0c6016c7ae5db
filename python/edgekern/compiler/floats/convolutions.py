"""Conv and ConvTranspose over one to three dimensions, with float weights, on images with their channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler.floats.moves import pick
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.operators.window import MAX_TAPS
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.values import (
    int_attribute,
    ints_attribute,
    is_constant,
    known_shape,
    label,
    text_attribute,
)

_SPATIAL = 3  # dimensions that a kernel takes
_SIZES = ("in", "out", "kernel", "stride", "dilation", "pad")
# What fuse_epilogues fills in.
NO_EPILOGUE: dict[str, Any] = {"activation": 0, "addend_first": 0, "lo": -math.inf, "hi": math.inf}


@dataclass(frozen=True)
class Window:
    """A window over up to three dimensions, those in front filled up; padding behind follows from the output."""

    batch: int
    sizes: dict[str, list[int]]  # in, out, kernel, stride, dilation, pad

    @staticmethod
    def of(node: ir.Node, kernel: tuple[int, ...]) -> Window:
        """The window of a Conv, a ConvTranspose or a pooling."""
        x, y = known_shape(node.inputs[0]), known_shape(node.outputs[0])
        rank = len(x) - 2
        stride = ints_attribute(node, "strides", [1] * rank)
        dilation = ints_attribute(node, "dilations", [1] * rank)
        pad = ints_attribute(node, "pads", [0] * 2 * rank)[:rank]
        automatic = text_attribute(node, "auto_pad", "NOTSET")
        if is_same(node):
            wide, small = (y[2:], x[2:]) if node.op_type == "ConvTranspose" else (x[2:], y[2:])
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            total = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(small, stride, reach, wide, strict=True)]
            pad = [t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in total]
        elif automatic == "VALID":
            pad = [0] * rank
        elif node.op_type == "ConvTranspose" and "output_shape" in node.attributes:
            pad = _transposed_pads(node, x[2:], y[2:], kernel, stride, dilation)
        values = {"in": x[2:], "out": y[2:], "kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad}
        fillers = {"pad": 0}
        sizes = {
            name: [fillers.get(name, 1)] * (_SPATIAL - rank) + [int(item) for item in given]
            for name, given in values.items()
        }
        return Window(x[0], sizes)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of a step."""
        return {"batch": self.batch, **self.sizes}

    @property
    def fits(self) -> bool:
        """Whether every window begins within reach of the image, as the kernels want it."""
        return self.taps <= MAX_TAPS and all(
            0 <= pad <= dilation * (kernel - 1) and (out - 1) * stride < image + pad
            for image, out, kernel, stride, dilation, pad in self._axes
        )

    @property
    def turned(self) -> Window:
        """Of a ConvTranspose: the window that leads from its result back to its input."""
        return Window(self.batch, {**self.sizes, "in": self.sizes["out"], "out": self.sizes["in"]})

    def padded(self) -> Window:
        """The same window over an image that holds its own padding."""
        image = [
            size + pad + max(over, 0)
            for size, pad, over in zip(self.sizes["in"], self.sizes["pad"], self.overhang, strict=True)
        ]
        return Window(self.batch, {**self.sizes, "in": image, "pad": [0] * _SPATIAL})

    @property
    def covers(self) -> bool:
        """Whether each window sees a pixel of the image: dilation can step over a small one."""
        return all(
            any(0 <= at < image for at in range(start, start + (kernel - 1) * dilation + 1, dilation))
            for image, out, kernel, stride, dilation, pad in self._axes
            for start in range(-pad, 0, stride)
            if (start + pad) // stride < out
        )

    @property
    def steps_over(self) -> bool:
        """Whether the last window ends inside the image: SAME padding would have to be negative."""
        return any(pad + over < 0 for pad, over in zip(self.sizes["pad"], self.overhang, strict=True))

    @property
    def overhang(self) -> list[int]:
        """How far the last window reaches behind the image, along each axis."""
        return [
            (out - 1) * stride + (kernel - 1) * dilation + 1 - pad - image
            for image, out, kernel, stride, dilation, pad in self._axes
        ]

    @property
    def _axes(self) -> list[tuple[int, ...]]:
        return list(zip(*(self.sizes[name] for name in _SIZES), strict=True))

    @property
    def taps(self) -> int:
        return math.prod(self.sizes["kernel"])


def is_same(node: ir.Node) -> bool:
    """Whether the padding follows from the size of the result."""
    return text_attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _transposed_pads(node: ir.Node, x: Any, y: Any, kernel: Any, stride: Any, dilation: Any) -> list[int]:
    """Padding of a ConvTranspose that says how large its result is (ONNX: half of it in front, but for SAME_LOWER)."""
    extra = ints_attribute(node, "output_padding", [0] * len(x))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    total = [max(s * (i - 1) + e + r - o, 0) for s, i, e, r, o in zip(stride, x, extra, reach, y, strict=True)]
    upper = text_attribute(node, "auto_pad", "NOTSET") == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in total]


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    x, w, y = known_shape(node.inputs[0]), known_shape(node.inputs[1]), known_shape(node.outputs[0])
    if not is_constant(node.inputs[1]) or not all(map(is_constant, node.inputs[2:])):
        return "weights that are not constant have no kernel"
    if not 3 <= len(x) <= 2 + _SPATIAL or len(w) != len(x):
        return f"{node.op_type} over {len(x) - 2} dimensions has no kernel"
    if 0 in (*x, *y, *w):
        return f"a {node.op_type} of nothing has no kernel"
    window = Window.of(node, w[2:])
    if min(window.sizes["pad"]) < 0 or min(ints_attribute(node, "pads", [0])) < 0:
        return "negative padding has no kernel"
    if node.op_type == "Conv" and is_same(node) and window.steps_over:
        return "auto_pad where strides leave pixels out has no kernel"
    if window.taps > MAX_TAPS or (node.op_type == "ConvTranspose" and not window.turned.fits):
        return "a window that begins outside the image has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source, weights_value = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weights_value is not None
    weights = lowering.constant(weights_value).astype(np.float32)
    groups = int_attribute(node, "group", 1)
    x = lowering.image(source)
    in_c = x.shape[-1]
    window = Window.of(node, weights.shape[2:])
    if node.op_type == "Conv" and not window.fits:
        x, window = _padded(lowering, source, x, window, label(node)), window.padded()
    shape = known_shape(value)
    order = channels_last(len(shape))
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    transposes = node.op_type == "ConvTranspose"
    out_c = weights.shape[1] * groups if transposes else weights.shape[0]
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(out_c, np.float32) if bias_value is None else lowering.constant(bias_value).astype(np.float32)
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


def _padded(lowering: Lowering, source: ir.Value, x: Tensor, window: Window, name: str) -> Tensor:
    """An image with zeros around it."""
    wide, rank = window.padded().sizes["in"], len(x.shape) - 2
    tables = [np.arange(x.shape[0]), np.arange(x.shape[-1])]
    for size, pad, side in zip(
        *(values[-rank:] for values in (window.sizes["in"], window.sizes["pad"], wide)), strict=True
    ):
        at = np.arange(side) - pad
        tables.append(np.where((at < 0) | (at >= size), -1, at))
    return pick(lowering, x, source, tables, name, "Pad")


OPERATOR = FloatOperator(frozenset({"Conv", "ConvTranspose"}), reason, lower)
