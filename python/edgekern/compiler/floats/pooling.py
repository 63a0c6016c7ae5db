"""Pooling of floats over one to three dimensions, and over whole images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor, type_reason, used_outputs
from edgekern.compiler.floats.picks import pick_places
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.window import MAX_TAPS, Window
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.values import int_attribute, ints_attribute, known_shape, label, operands

_GLOBAL = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
_WINDOWS = frozenset({"AveragePool", "MaxPool", "LpPool"})


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    x, y = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    if not 3 <= len(x) <= 5:
        return f"pooling over {len(x) - 2} dimensions has no kernel"
    if 0 in (*x, *y):
        return "a pooling of nothing has no kernel"
    if len(used_outputs(node)) > 1:
        return "the indices of a pooling have no kernel"
    pads = ints_attribute(node, "pads", [0] * 2 * (len(x) - 2))
    if node.op_type in _WINDOWS and min(pads) < 0:
        return "negative padding has no kernel"
    window = _window(node)
    if window.is_same and (window.steps_over or window.sizes["dilation"] != [1, 1, 1]):
        return "auto_pad with dilations, or where strides leave pixels out, has no kernel"
    if not window.fits or window.taps > MAX_TAPS:
        return "a window that begins outside the image has no kernel"
    if not window.covers:
        return "a window that sees nothing but padding has no kernel"
    counts_padding, ceiled = int_attribute(node, "count_include_pad", 0), int_attribute(node, "ceil_mode", 0)
    larger = counts_padding and not ceiled and _ends_behind(node, window)
    return "count_include_pad with a window larger than its image has no kernel" if larger else None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = next(operands(node))
    x, shape, window = lowering.image(source), known_shape(value), _window(node)
    counts_padding = bool(int_attribute(node, "count_include_pad", 0))
    if counts_padding and _ends_behind(node, window):
        x, window = _with_padding(lowering, node, x, window)
        counts_padding = False  # what is counted is there, and what lies behind it is not counted
    order = channels_last(len(shape))
    y = new_tensor(value, tuple(shape[axis] for axis in order), order)
    arguments = {
        **window.arguments,
        "channels": shape[1],
        "average": int("Average" in node.op_type),
        "count_include_pad": int(counts_padding),
        "power": float(int_attribute(node, "p", 2)) if "Lp" in node.op_type else 0.0,
    }
    return lowering.emit(KernelStep(StepKind.POOL_F32, label(node), node.op_type, [x], y, arguments=arguments))


def _ends_behind(node: ir.Node, window: Window) -> bool:
    """Whether a window ends behind the padding that a node states."""
    rank = len(known_shape(node.inputs[0])) - 2
    behind = ints_attribute(node, "pads", [0] * 2 * rank)[rank:]
    return not window.is_same and any(over > pad for over, pad in zip(window.overhang[-rank:], behind, strict=True))


def _with_padding(lowering: Lowering, node: ir.Node, x: Tensor, window: Window) -> tuple[Tensor, Window]:
    """An image with the padding that a node states as zeros of its own, and the window over that."""
    rank = len(x.shape) - 2
    pads = ints_attribute(node, "pads", [0] * 2 * rank)
    tables, image = [np.arange(x.shape[0]), np.arange(x.shape[-1])], list(window.sizes["in"])
    for axis in range(rank):
        size = x.shape[1 + axis]
        at = np.arange(size + pads[axis] + pads[rank + axis]) - pads[axis]
        tables.append(np.where((at < 0) | (at >= size), -1, at))
        image[axis - rank] = len(at)
    padded = pick_places(lowering, x, tables, label(node), "Pad")
    return padded, Window(window.batch, {**window.sizes, "in": image, "pad": [0, 0, 0]})


def _window(node: ir.Node) -> Window:
    if node.op_type in _GLOBAL:
        return Window.whole(known_shape(node.inputs[0]))
    return Window.of(node, tuple(ints_attribute(node, "kernel_shape", [])))


OPERATOR = FloatOperator(_GLOBAL | _WINDOWS, reason, lower)
