"""GridSample: pixels of an image at places that another tensor names."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.values import int_attribute, known_shape, label, text_attribute

# By a step's `mode` and `padding`; opset 16 has other names of the same.
_MODES = {"linear": 0, "bilinear": 0, "nearest": 1, "cubic": 2, "bicubic": 2}
_PADDINGS = ("zeros", "border", "reflection")


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    mode, padding = text_attribute(node, "mode", "linear"), text_attribute(node, "padding_mode", "zeros")
    if mode not in _MODES or padding not in _PADDINGS:
        return f"the mode '{mode}' with the padding '{padding}' has no kernel"
    shape = known_shape(node.inputs[0])
    if len(shape) != 4:
        return f"GridSample over {len(shape) - 2} dimensions has no kernel"
    return "a GridSample of nothing has no kernel" if 0 in (*shape, *known_shape(node.inputs[1])) else None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    image, grid = node.inputs[:2]
    assert image is not None
    assert grid is not None
    x, shape, order = lowering.image(image), known_shape(value), channels_last(4)
    batch, height, width, channels = x.shape
    arguments = {
        "batch": batch,
        "height": height,
        "width": width,
        "points": math.prod(shape[2:]),
        "channels": channels,
        "mode": _MODES[text_attribute(node, "mode", "linear")],
        "padding": _PADDINGS.index(text_attribute(node, "padding_mode", "zeros")),
        "align_corners": int_attribute(node, "align_corners", 0),
    }
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    inputs = [x, lowering.plain(grid)]
    return lowering.emit(KernelStep(StepKind.GRID_SAMPLE, label(node), "GridSample", inputs, y, arguments=arguments))


OPERATOR = FloatOperator(frozenset({"GridSample"}), reason, lower)
