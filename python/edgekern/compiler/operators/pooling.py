"""Pooling over the two axes of an image: the largest value keeps its scale, an average gets one of its own."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.lookups import clamped, lookup
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.operators.window import MAX_TAPS, Window
from edgekern.compiler.roles import Chain, Placement, Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor
from edgekern.graph.families import AVERAGES, MAXIMA, averages_image
from edgekern.graph.values import Quant, int_attribute, ints_attribute, known_shape, label, operands, shape_of


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
    if node.op_type == "ReduceMean":
        known = x is not None and averages_image(node)
        return None if known else "only a mean over height and width has a kernel"
    if x is None or y is None or len(x) != 4:
        return "only pooling over two dimensions has a kernel"
    if 0 in (*x, *y):
        return "a pooling of nothing has no kernel"
    if len(node.outputs) > 1 and node.outputs[1] is not None and node.outputs[1].uses():
        return "the indices of a pooling have no kernel"
    window = _window(node)
    if window.is_same and (window.sizes["dilation"] != [1, 1, 1] or window.steps_over):
        return "auto_pad with dilations, or where strides leave pixels out, has no kernel"
    if not window.fits:
        return "a window that begins outside the image has no kernel"
    if window.taps > MAX_TAPS:
        return f"a window of more than {MAX_TAPS} pixels has no kernel"
    behind = ints_attribute(node, "pads", [0] * 4)[2:]
    if (
        int_attribute(node, "count_include_pad", 0)
        and not window.is_same
        and any(over > pad for over, pad in zip(window.overhang[-2:], behind, strict=True))
    ):
        return "count_include_pad with a window that ends behind the padding has no kernel"
    return None if window.covers else "a window that sees nothing but padding has no kernel"


def _window(node: ir.Node) -> Window:
    if node.op_type in ("AveragePool", "MaxPool"):
        return Window.of(node, tuple(ints_attribute(node, "kernel_shape", [])))
    return Window.whole(known_shape(node.inputs[0]))


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    data = node.inputs[0]
    assert data is not None
    assert quant is not None
    x, window, chain = lowering.native(data), _window(node), lowering.placement.chain.get(value, Chain([node]))
    arguments = {**window.flat_arguments, "channels": x.shape[3]}
    y = Tensor(str(value.name), x.dtype, (window.batch, *window.sizes["out"][-2:], x.shape[3]), x.quant, NHWC)
    if node.op_type in MAXIMA:
        return lowering.emit(KernelStep(StepKind.MAX_POOL, label(node), chain.op, [x], y, arguments=arguments))
    arguments["count_include_pad"] = int_attribute(node, "count_include_pad", 0)
    # The kernel's result has the sign of its input; the other sign is the same value 128 codes away.
    offset = 0 if quant.signed == x.q.signed else 128 if quant.signed else -128
    y.quant = Quant(quant.scale, quant.zero_point + offset, x.q.signed)
    lowering.emit(KernelStep(StepKind.AVERAGE_POOL, label(node), chain.op, [x], y, arguments=arguments))
    mean = lookup(lowering, y, quant, None, node, [node]) if offset else y
    mean = clamped(lowering, mean, chain, quant)
    shape = known_shape(value)
    return mean if len(shape) == 4 else view(mean, shape=shape, order=())


OPERATOR = Operator(MAXIMA | AVERAGES, role, lower)
