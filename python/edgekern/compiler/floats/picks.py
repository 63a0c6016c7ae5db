"""What moves elements of any type: tables of places, which say what each axis becomes, and blocks of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import Emitter, eight, places, transposed, view
from edgekern.compiler.steps import KernelStep, Tensor, channels_last
from edgekern.graph.values import constant, int_attribute, known_shape, label, operands, text_attribute

Table = npt.NDArray[Any]
PAD_MODES = ("constant", "edge", "reflect", "wrap")


def pick_places(steps: Emitter, x: Tensor, tables: Sequence[Table], name: str, op: str, filler_bits: int = 0) -> Tensor:
    """``y[i, j, ...] = x[tables[0][i], tables[1][j], ...]``, the tables by ONNX's axes; -1 is the filler."""
    order = x.order or tuple(range(len(x.shape)))
    stored = [tables[axis].astype(np.int32) for axis in order]
    shape = tuple(len(table) for table in stored)
    if shape == x.shape and all(np.array_equal(table, np.arange(len(table))) for table in stored):
        return view(x)
    y = Tensor(name, x.dtype, shape, x.quant, x.order)
    arguments = {
        "x_shape": eight(x.shape),
        "y_shape": eight(shape),
        "item_bytes": x.item_bytes,
        "filler": filler_bits,
    }
    content = places(stored)
    return steps.emit(KernelStep(StepKind.PICK, name, op, [x], y, [content], arguments))


def slice_tables(node: ir.Node, value: ir.Value) -> list[Table]:
    """Of what a Slice or Split gives as ``value``."""
    start, step = slice_ranges(node, value)
    return [begin + by * np.arange(side) for begin, by, side in zip(start, step, known_shape(value), strict=True)]


def slice_ranges(node: ir.Node, value: ir.Value) -> tuple[list[int], list[int]]:
    """Start and step of every axis of what a Slice or Split gives as ``value``; the lengths are those of the value."""
    shape = known_shape(node.inputs[0])
    if node.op_type == "Split":
        axis = int_attribute(node, "axis", 0) % len(shape)
        earlier = node.outputs[: list(node.outputs).index(value)]
        cut = [0] * len(shape)
        cut[axis] = sum(known_shape(piece)[axis] for piece in earlier)
        return cut, [1] * len(shape)
    given = [constant(value) for value in node.inputs[1:]]
    starts, ends = ([int(item) for item in array] if array is not None else [] for array in given[:2])
    axes = (
        [int(axis) % len(shape) for axis in given[2]] if len(given) > 2 and given[2] is not None else range(len(starts))
    )
    steps = [int(step) for step in given[3]] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    begin, stride = [0] * len(shape), [1] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        begin[axis], _, stride[axis] = slice(start, end, step).indices(shape[axis])
    return begin, stride


def expand_tables(node: ir.Node, value: ir.Value) -> list[Table]:
    """Of an Expand or Tile, whose operand has ones in front up to the rank of the result."""
    sides, before = known_shape(value), known_shape(next(operands(node)))
    plain = (1,) * (len(sides) - len(before)) + before
    if node.op_type == "Tile":
        return [np.arange(side) % max(size, 1) for size, side in zip(plain, sides, strict=True)]
    return [
        np.arange(side) if size == side else np.zeros(side, np.int64) for size, side in zip(plain, sides, strict=True)
    ]


def pad_widths(node: ir.Node, rank: int) -> tuple[list[int], list[int]]:
    given = constant(node.inputs[1])
    assert given is not None
    pads = [int(pad) for pad in given]
    axes = list(range(rank))
    if len(node.inputs) > 3 and (chosen := constant(node.inputs[3])) is not None:
        axes = [int(axis) % rank for axis in chosen]
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(axes):
        before[axis], after[axis] = pads[at], pads[at + len(axes)]
    return before, after


def pad_tables(node: ir.Node, value: ir.Value) -> list[Table]:
    """Of a Pad of any mode; -1 is its constant."""
    sides, mode = known_shape(next(operands(node))), text_attribute(node, "mode", "constant")
    before, _ = pad_widths(node, len(sides))
    tables = []
    for size, side, lead in zip(sides, known_shape(value), before, strict=True):
        at = np.arange(side) - lead
        if mode == "constant":
            at = np.where((at < 0) | (at >= size), -1, at)
        elif mode == "edge":
            at = at.clip(0, size - 1)
        elif mode == "wrap":
            at = at % size
        else:
            period = max(2 * (size - 1), 1)
            at = at % period
            at = np.where(at >= size, period - at, at)
        tables.append(at)
    return tables


def move_blocks(steps: Emitter, node: ir.Node, x: Tensor) -> Tensor:
    """DepthToSpace or SpaceToDepth of an image with its channels last; so is its result."""
    block = int_attribute(node, "blocksize", 1)
    batch, height, width, channels = x.shape
    if node.op_type == "SpaceToDepth":
        parts = view(x, shape=(batch, height // block, block, width // block, block, channels), order=())
        rows = text_attribute(node, "mode", "DCR") == "DCR"
        y = transposed(steps, parts, (0, 1, 3, 2, 4, 5) if rows else (0, 1, 3, 5, 2, 4), (), label(node))
        shape = (batch, height // block, width // block, channels * block * block)
    else:
        depth = channels // (block * block)
        if text_attribute(node, "mode", "DCR") == "DCR":
            parts = view(x, shape=(batch, height, width, block, block, depth), order=())
            y = transposed(steps, parts, (0, 1, 3, 2, 4, 5), (), label(node))
        else:
            parts = view(x, shape=(batch, height, width, depth, block, block), order=())
            y = transposed(steps, parts, (0, 1, 4, 2, 5, 3), (), label(node))
        shape = (batch, height * block, width * block, depth)
    return view(y, shape=shape, order=channels_last(4))
