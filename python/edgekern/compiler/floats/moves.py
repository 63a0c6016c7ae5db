"""What moves elements of any type and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.maps import common_order
from edgekern.compiler.floats.operator import ANY, FloatOperator, new_tensor, type_reason
from edgekern.compiler.floats.picks import PAD_MODES, expand_tables, move_blocks, pad_tables, pick_places, slice_tables
from edgekern.compiler.layout import transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.window import Window
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.families import RESHAPES
from edgekern.graph.values import (
    constant,
    int_attribute,
    ints_attribute,
    known_shape,
    label,
    operands,
    scalar,
    text_attribute,
)

_MOST_PIECES = 4096  # that a step of an index holds
_LONGEST = 2**26  # places that a step lists along an axis


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, ANY)
    if wrong is not None:
        return wrong
    sizes = node.inputs[1:] if node.op_type in ("Slice", "Expand", "Tile", "Reshape", "Squeeze", "Unsqueeze") else []
    if node.op_type in ("Pad", "Split"):
        sizes = [value for at, value in enumerate(node.inputs) if at == 1 or at == 3]
    if any(value is not None and constant(value) is None for value in sizes):
        return "its shape depends on the data"
    if node.op_type not in RESHAPES and max(known_shape(node.outputs[0]), default=0) > _LONGEST:
        return f"more than {_LONGEST} along an axis have no kernel"
    if node.op_type == "Concat" and len(node.inputs) > _MOST_PIECES:
        return f"Concat of more than {_MOST_PIECES} tensors has no kernel"
    if node.op_type == "Pad":
        mode = text_attribute(node, "mode", "constant")
        filler = node.inputs[2] if len(node.inputs) > 2 else None
        if mode not in PAD_MODES:
            return f"padding by '{mode}' has no kernel"
        if filler is not None and scalar(filler) is None:
            return "its padding value is not constant"
        if mode != "constant" and 0 in known_shape(node.inputs[0]):
            return "a padding of nothing has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    return _LOWER[node.op_type](lowering, node, value)


def _reshape(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = next(operands(node))
    x, shape = lowering.real(source), known_shape(value)
    if x.order and len(shape) == len(x.shape) and shape == known_shape(source):
        return view(x)
    before = known_shape(source)
    spatial = math.prod(before[2:])
    if x.order and len(before) > 2 and len(shape) > 2 and shape[:2] == before[:2] and spatial > 1:
        # The axes behind the channels become others behind the channels: these still lie last.
        return view(x, shape=(shape[0], *shape[2:], shape[1]), order=channels_last(len(shape)))
    return view(lowering.plain(source), shape=shape)


def _transpose(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    x = lowering.real(next(operands(node)))
    rank = len(x.shape)
    perm = ints_attribute(node, "perm", list(range(rank))[::-1])
    order, last = x.order or tuple(range(rank)), channels_last(rank)
    plain = tuple(order.index(axis) for axis in perm)
    image = tuple(plain[axis] for axis in last)
    if rank > 2 and image == tuple(range(rank)):
        return view(x, order=last)
    return transposed(lowering, x, plain, (), label(node))


def _depth_to_space(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    return move_blocks(lowering, node, lowering.image(next(operands(node))))


def _slice(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    x = lowering.real(next(operands(node)))
    return pick(lowering, x, value, slice_tables(node, value), label(node), node.op_type)


def _expand(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source, rank = next(operands(node)), len(known_shape(value))
    x = lowering.real(source)
    if len(x.shape) != rank:
        x = view(lowering.plain(source), shape=(1,) * (rank - len(x.shape)) + known_shape(source))
    return pick(lowering, x, value, expand_tables(node, value), label(node), node.op_type)


def _pad(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    filler = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    x = lowering.real(next(operands(node)))
    return pick(lowering, x, value, pad_tables(node, value), label(node), "Pad", filler or 0.0)


def pick(
    lowering: Lowering,
    x: Tensor,
    value: ir.Value,
    tables: Sequence[npt.NDArray[Any]],
    name: str,
    op: str,
    filler: float = 0.0,
) -> Tensor:
    """:func:`pick_places` for a value, with a filler of its type."""
    assert value.dtype is not None
    bits = np.asarray(filler, value.dtype.numpy()).reshape(1).view(np.uint8)
    y = pick_places(lowering, x, tables, name, op, int.from_bytes(bits.tobytes(), "little", signed=True))
    if y.view_of is None:
        y.name, y.quant = str(value.name), None
    return y


def _concat(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    given = [operand for operand in node.inputs if operand is not None]
    rank = len(known_shape(value))
    order = common_order(lowering, given, rank)
    pieces = [lowering.ordered(operand, order) for operand in given if 0 not in known_shape(operand)]
    axis = order.index(int_attribute(node, "axis", 0) % rank)
    shape = tuple(known_shape(value)[at] for at in order)
    y = new_tensor(value, shape, () if order == tuple(range(rank)) else order)
    if not pieces:  # nothing beside nothing
        pieces = [lowering.ordered(given[0], order)]
    arguments = {
        "rows": math.prod(shape[:axis]),
        "bytes": [math.prod(piece.shape[axis:]) * piece.item_bytes for piece in pieces],
    }
    return lowering.emit(KernelStep(StepKind.CONCAT, label(node), "Concat", pieces, y, arguments=arguments))


_LOWER: dict[str, Callable[[Lowering, ir.Node, ir.Value], Tensor]] = {
    **dict.fromkeys(RESHAPES, _reshape),
    "Transpose": _transpose,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "Slice": _slice,
    "Split": _slice,
    "Expand": _expand,
    "Tile": _expand,
    "Pad": _pad,
    "Concat": _concat,
}


def padded(lowering: Lowering, source: ir.Value, x: Tensor, window: Window, name: str) -> Tensor:
    """An image with zeros around it."""
    wide, rank = window.padded().sizes["in"], len(x.shape) - 2
    tables = [np.arange(x.shape[0]), np.arange(x.shape[-1])]
    for size, pad, side in zip(
        *(values[-rank:] for values in (window.sizes["in"], window.sizes["pad"], wide)), strict=True
    ):
        at = np.arange(side) - pad
        tables.append(np.where((at < 0) | (at >= size), -1, at))
    return pick(lowering, x, source, tables, name, "Pad")


OPERATOR = FloatOperator(frozenset(_LOWER), reason, lower)
