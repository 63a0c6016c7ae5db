"""Steps that move bytes: transpositions between orders, reshapes, slices, pads."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import four, in_onnx_order, merge_axes, transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators import pad_widths, slice_ranges
from edgekern.compiler.placement import Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor
from edgekern.graph.families import RESHAPES, elementwise_operands
from edgekern.graph.values import (
    consumers,
    int_attribute,
    ints_attribute,
    known_shape,
    label,
    scalar,
)


def move(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    """Reshape-like operators, Transpose, Slice, Split and Pad on 8-bit tensors (the first two on any)."""
    if node.op_type in RESHAPES:
        return _reshape(lowering, value, x)
    if node.op_type == "Transpose":
        return _transpose(lowering, node, x)
    if node.op_type == "Pad":
        before, after = pad_widths(node, len(x.shape))
        filler = scalar(node.inputs[2]) if len(node.inputs) > 2 else None
        code = int(x.q.quantize(filler or 0.0))
        order = x.order or tuple(range(len(x.shape)))
        return pad(lowering, x, [before[axis] for axis in order], [after[axis] for axis in order], code, node)
    return _slice(lowering, node, value, x)


def pad(lowering: Lowering, x: Tensor, before: list[int], after: list[int], code: int, node: ir.Node) -> Tensor:
    """Surround ``x`` with ``code``; widths are along the stored axes."""
    if not any(before) and not any(after):
        return view(x)
    shape = tuple(side + lead + tail for side, lead, tail in zip(x.shape, before, after, strict=True))
    arguments = {"x_shape": four(x.shape), "y_shape": four(shape), "before": four(before, 0), "value": code & 0xFF}
    y = Tensor(x.name, x.dtype, shape, x.quant, x.order)
    return lowering.emit(KernelStep(StepKind.PAD, label(node), "Pad", [x], y, arguments=arguments))


def _reshape(lowering: Lowering, value: ir.Value, x: Tensor) -> Tensor:
    """The same elements in ONNX's order: bytes move only where an image is stored in another order."""
    shape = known_shape(value)
    if x.order == NHWC:
        batch, height, width, channels = x.shape
        if len(shape) == 4 and tuple(shape[axis] for axis in NHWC) == x.shape:
            return view(x)
        trivial = channels == 1 or height * width == 1
        if not trivial and shape == (batch, channels * height * width) and _reads_any_order(lowering, value):
            return view(x, shape=shape, order=(), flat=(channels, height, width))
    return view(in_onnx_order(lowering, x), shape=shape)


def _reads_any_order(lowering: Lowering, value: ir.Value) -> bool:
    """Whether only products read a value, whose weights can be permuted instead."""
    if value.is_graph_output() or value in lowering.placement.plain:
        return False
    role_of = lowering.placement.role_of
    for node in consumers(value):
        if node.op_type in ("Gemm", "MatMul") and node.inputs[0] is value and len(known_shape(value)) == 2:
            if role_of(node.outputs[0]) is not Role.PRODUCT:
                return False
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") or elementwise_operands(node) is not None:
            if role_of(node.outputs[0]) not in (Role.BYTES, Role.TABLE) or not _reads_any_order(
                lowering, node.outputs[0]
            ):
                return False
        else:
            return False
    return True


def _transpose(lowering: Lowering, node: ir.Node, x: Tensor) -> Tensor:
    rank = len(x.shape)
    perm = ints_attribute(node, "perm", list(range(rank))[::-1])
    order = x.order or tuple(range(rank))
    plain = tuple(order.index(axis) for axis in perm)
    image = tuple(plain[axis] for axis in NHWC) if rank == 4 and x.quant is not None else plain
    # In ONNX's order where the bytes lie so already, else as the readers of images want it.
    if image == plain or merge_axes(x.shape, plain)[1] == sorted(merge_axes(x.shape, plain)[1]):
        return transposed(lowering, x, plain, (), label(node))
    return transposed(lowering, x, image, NHWC, label(node))


def _slice(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    shape, order = known_shape(value), x.order or tuple(range(len(x.shape)))
    source = known_shape(node.inputs[0])
    if node.op_type == "Slice":
        start, step = slice_ranges(node, source)
    else:  # Split
        axis = int_attribute(node, "axis", 0) % len(source)
        start, step = [0] * len(source), [1] * len(source)
        earlier = node.outputs[: list(node.outputs).index(value)]
        start[axis] = sum(known_shape(piece)[axis] for piece in earlier)
    stored = tuple(shape[axis] for axis in order)
    if stored == x.shape and all(one == 1 for one in step):
        return view(x)
    arguments = {
        "x_shape": four(x.shape),
        "y_shape": four(stored),
        "start": four([start[axis] for axis in order], 0),
        "stride": four([step[axis] for axis in order]),
    }
    y = Tensor(x.name, x.dtype, stored, x.quant, x.order)
    return lowering.emit(KernelStep(StepKind.SLICE, label(node), node.op_type, [x], y, arguments=arguments))
