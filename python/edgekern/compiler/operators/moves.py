"""What moves elements and computes nothing: reshaping costs no step, Transpose, Slice, Split and Pad one each."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats import moves as floats
from edgekern.compiler.floats.picks import pad_tables, pad_widths, pick_places, slice_ranges, slice_tables
from edgekern.compiler.layout import MAX_RANK, four, in_onnx_order, merge_axes, pad, transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor
from edgekern.graph.families import MOVES, PRODUCTS, QDQ, RESHAPES
from edgekern.graph.formulas import elementwise_operands
from edgekern.graph.values import (
    Quant,
    constant,
    consumers,
    ints_attribute,
    known_shape,
    label,
    operands,
    scalar,
    shape_of,
    text_attribute,
)


def role(p: Placement, node: ir.Node) -> str | None:
    source = next(operands(node))
    reason = p.needs_bytes(node, codes=node.op_type != "Pad") or _reason(node)
    if reason is not None:
        return reason
    quant = p.quant[source]
    if node.op_type == "Pad" and _is_constant_pad(node) and not _pads_exactly(node, quant):
        return "its padding value is not a value of its 8-bit input"
    p.keep(node, quant)
    return None


def _reason(node: ir.Node) -> str | None:
    if shape_of(node.inputs[0]) is None or shape_of(node.outputs[0]) is None:
        return "its shape is not known"
    filler = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if filler is not None and scalar(filler) is None:
        return "its padding value is not constant"
    if any(constant(value) is None for value in node.inputs[1:] if value is not None and value is not filler):
        return "its shape depends on the data"
    return floats.reason(node)


def _is_constant_pad(node: ir.Node) -> bool:
    return text_attribute(node, "mode", "constant") == "constant"


def _pads_exactly(node: ir.Node, quant: Quant) -> bool:
    filler = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    return filler is not None and float(quant.dequantize(quant.quantize(filler))) == filler


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    x = lowering.stored(next(operands(node)))
    if node.op_type in RESHAPES:
        return _reshape(lowering, value, x)
    if node.op_type == "Transpose":
        return _transpose(lowering, node, x)
    return _pad(lowering, node, value, x) if node.op_type == "Pad" else _slice(lowering, node, value, x)


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
    role_of = lowering.placement.role_of
    seen, waiting = {value}, [value]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output() or value in lowering.placement.plain:
            return False
        for node in consumers(value):
            result = node.outputs[0]
            if node.op_type in PRODUCTS and node.inputs[0] is value and len(known_shape(value)) == 2:
                if role_of(result) is not Role.PRODUCT:
                    return False
            elif node.op_type in QDQ or elementwise_operands(node) is not None:
                if role_of(result) not in (Role.BYTES, Role.TABLE):
                    return False
                if result not in seen:
                    seen.add(result)
                    waiting.append(result)
            else:
                return False
    return True


def _transpose(lowering: Lowering, node: ir.Node, x: Tensor) -> Tensor:
    rank = len(x.shape)
    perm = ints_attribute(node, "perm", list(range(rank))[::-1])
    order = x.order or tuple(range(rank))
    plain = tuple(order.index(axis) for axis in perm)
    image = tuple(plain[axis] for axis in NHWC) if rank == 4 and x.quant is not None else plain
    # In ONNX's order where the bytes lie so already or matrices are read, else as the readers of images want it.
    if (
        image == plain
        or _is_multiplied(node.outputs[0])
        or merge_axes(x.shape, plain)[1] == sorted(merge_axes(x.shape, plain)[1])
    ):
        return transposed(lowering, x, plain, (), label(node))
    return transposed(lowering, x, image, NHWC, label(node))


def _is_multiplied(value: ir.Value) -> bool:
    """Whether a MatMul reads a value, perhaps behind its QuantizeLinear and DequantizeLinear."""
    readers = consumers(value)
    return any(
        reader.op_type == "MatMul" or (reader.op_type in QDQ and _is_multiplied(reader.outputs[0]))
        for reader in readers
    )


def _pad(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    before, after = pad_widths(node, len(x.shape))
    filler = scalar(node.inputs[2]) if len(node.inputs) > 2 else None
    code = int(x.q.quantize(filler or 0.0)) if _is_constant_pad(node) else 0
    if len(x.shape) > MAX_RANK or not _is_constant_pad(node) or min(*before, *after, 0) < 0:
        return pick_places(lowering, x, pad_tables(node, value), label(node), "Pad", code & 0xFF)
    order = x.order or tuple(range(len(x.shape)))
    return pad(lowering, x, [before[axis] for axis in order], [after[axis] for axis in order], code, label(node))


def _slice(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor) -> Tensor:
    shape, order = known_shape(value), x.order or tuple(range(len(x.shape)))
    start, step = slice_ranges(node, value)
    stored = tuple(shape[axis] for axis in order)
    if stored == x.shape and all(one == 1 for one in step):
        return view(x)
    if len(x.shape) > MAX_RANK:
        return pick_places(lowering, x, slice_tables(node, value), label(node), node.op_type)
    arguments = {
        "x_shape": four(x.shape),
        "y_shape": four(stored),
        "start": four([start[axis] for axis in order], 0),
        "stride": four([step[axis] for axis in order]),
    }
    y = Tensor(x.name, x.dtype, stored, x.quant, x.order)
    return lowering.emit(KernelStep(StepKind.SLICE, label(node), node.op_type, [x], y, arguments=arguments))


OPERATOR = Operator(MOVES, role, lower)
