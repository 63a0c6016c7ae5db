"""Pooling over the sides of an image, and means: a maximum keeps its scale, an average gets one of its own."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import in_onnx_order, transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.lookups import clamped, lookup
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.operators.window import MAX_TAPS, SPATIAL, Window
from edgekern.compiler.roles import Chain, Placement, Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, channels_last
from edgekern.graph.families import AVERAGES, MAXIMA, reduced_axes
from edgekern.graph.values import Quant, int_attribute, ints_attribute, known_shape, label, operands, shape_of

_WINDOWS = frozenset({"AveragePool", "MaxPool"})


def role(p: Placement, node: ir.Node) -> str | None:
    largest = node.op_type in MAXIMA
    reason = p.needs_bytes(node, codes=largest)
    reason = reason or _reason(node)
    if reason is not None:
        return reason
    if largest:
        p.keep(node, p.quant[next(operands(node))])
    else:
        p.begin(node, Role.PENDING)
    return None


def _reason(node: ir.Node) -> str | None:
    x, y = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if x is None or y is None:
        return "its shape is not known"
    if 0 in (*x, *y):
        return "a pooling of nothing has no kernel"
    if node.op_type == "ReduceMean":
        axes = reduced_axes(node, len(x))
        if not axes or axes != list(range(axes[0], axes[-1] + 1)):
            return "only a mean over axes side by side has a kernel"
        return _taps_reason(math.prod(x[axis] for axis in axes))
    if not 3 <= len(x) <= SPATIAL + 2:
        return "only pooling over one to three dimensions has a kernel"
    if node.op_type not in _WINDOWS:
        return _taps_reason(math.prod(x[2:]))
    if len(x) == SPATIAL + 2:
        return "pooling by windows over three dimensions has no kernel"
    if len(node.outputs) > 1 and node.outputs[1] is not None and node.outputs[1].uses():
        return "the indices of a pooling have no kernel"
    window = _window(node)
    if window.is_same and (window.sizes["dilation"] != [1, 1, 1] or window.steps_over):
        return "auto_pad with dilations, or where strides leave pixels out, has no kernel"
    if not window.fits:
        return "a window that begins outside the image has no kernel"
    rank = len(x) - 2
    behind = ints_attribute(node, "pads", [0] * 2 * rank)[rank:]
    if (
        int_attribute(node, "count_include_pad", 0)
        and not window.is_same
        and any(over > pad for over, pad in zip(window.overhang[-rank:], behind, strict=True))
    ):
        return "count_include_pad with a window that ends behind the padding has no kernel"
    return _taps_reason(window.taps) if window.covers else "a window that sees nothing but padding has no kernel"


def _taps_reason(taps: int) -> str | None:
    return f"a window of more than {MAX_TAPS} pixels has no kernel" if taps > MAX_TAPS else None


def _window(node: ir.Node) -> Window:
    return Window.of(node, tuple(ints_attribute(node, "kernel_shape", [])))


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    assert quant is not None
    chain, shape = lowering.placement.chain.get(value, Chain([node])), known_shape(value)
    data = node.inputs[0]
    assert data is not None
    x, arguments, stored, order = _means(lowering, node, data) if _is_mean(node) else _pools(lowering, node, data)
    y = Tensor(str(value.name), x.dtype, stored, x.quant, order)
    if node.op_type in MAXIMA:
        return lowering.emit(KernelStep(StepKind.MAX_POOL, label(node), chain.op, [x], y, arguments=arguments))
    arguments["count_include_pad"] = int_attribute(node, "count_include_pad", 0)
    # The kernel's result has the sign of its input; the other sign is the same value 128 codes away.
    offset = 0 if quant.signed == x.q.signed else 128 if quant.signed else -128
    y.quant = Quant(quant.scale, quant.zero_point + offset, x.q.signed)
    lowering.emit(KernelStep(StepKind.AVERAGE_POOL, label(node), chain.op, [x], y, arguments=arguments))
    mean = lookup(lowering, y, quant, None, node, [node]) if offset else y
    mean = clamped(lowering, mean, chain, quant)
    return mean if len(shape) == len(stored) else view(in_onnx_order(lowering, mean), shape=shape)


# What is pooled, the arguments of the step, and shape and order of its result, with all its axes.
_Pool = tuple[Tensor, dict[str, int], tuple[int, ...], tuple[int, ...]]


def _is_mean(node: ir.Node) -> bool:
    """Whether it is a ReduceMean, and not one over the sides of an image."""
    rank = len(known_shape(node.inputs[0]))
    return node.op_type == "ReduceMean" and (rank != len(NHWC) or reduced_axes(node, rank) != [2, 3])


def _pools(lowering: Lowering, node: ir.Node, data: ir.Value) -> _Pool:
    """Over the sides of an image, channels side by side; a volume is an image of one column."""
    x, shape = lowering.native_image(data), known_shape(data)
    order = channels_last(len(shape))
    if node.op_type in _WINDOWS:
        window, after = _window(node), known_shape(node.outputs[0])
    else:
        flat = len(shape) <= len(NHWC)
        window = Window.whole(shape) if flat else _column(shape[0], math.prod(shape[2:]))
        after = (*shape[:2], *[1] * (len(shape) - 2))
    return x, {**window.flat_arguments, "channels": shape[1]}, tuple(after[axis] for axis in order), order


def _means(lowering: Lowering, node: ir.Node, data: ir.Value) -> _Pool:
    """Over axes side by side: the rows of an image of one column, whose channels are what lies behind them."""
    x, rank = lowering.stored(data), len(known_shape(data))
    order = x.order or tuple(range(rank))
    places = sorted(order.index(axis) for axis in reduced_axes(node, rank))
    if x.flat is not None or places != list(range(places[0], places[-1] + 1)):
        x = in_onnx_order(lowering, x)
        places = reduced_axes(node, rank)
    order = x.order
    kept = tuple(1 if at in places else side for at, side in enumerate(x.shape))
    outer, n, inner = (
        math.prod(x.shape[cut])
        for cut in (slice(places[0]), slice(places[0], places[-1] + 1), slice(places[-1] + 1, None))
    )
    if inner == 1 and outer > 1:  # rows that lie one behind the other are the channels of one image
        rows = view(x, shape=(outer, n), order=(), flat=None)
        x, outer, inner = transposed(lowering, rows, (1, 0), (), label(node)), 1, outer
    return x, {**_column(outer, n).flat_arguments, "channels": inner}, kept, order


def _column(batch: int, rows: int) -> Window:
    """All of an image of one column."""
    return Window.whole((batch, 1, rows, 1))


OPERATOR = Operator(MAXIMA | AVERAGES, role, lower)
