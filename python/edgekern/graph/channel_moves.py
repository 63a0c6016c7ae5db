"""Where the channels of a tensor go: reshaped, transposed, split into heads, and side by side again.

Channels are followed as numbers: a tensor of channel numbers goes through the same moves, with a 2 for sizes that
nobody knows. What comes out says which channel stands where, whatever way the exporter took.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.families import is_scalar
from edgekern.graph.values import constant, int_attribute, ints_attribute

Numbers = npt.NDArray[Any]

_FREE = 2
_MOST = 1 << 24  # elements of a tensor of numbers


@dataclass(frozen=True, eq=False)
class Reader:
    """Who reads channels when they have been moved: input ``at`` of a node, or nobody in the graph (None)."""

    node: ir.Node | None
    at: int
    value: ir.Value
    numbers: Numbers


def numbered(value: ir.Value) -> Numbers | None:
    """A tensor whose last axis is channels, as their numbers; None where there is no telling how many."""
    if value.shape is None or len(value.shape) == 0 or not isinstance(value.shape[-1], int):
        return None
    sides = [side if isinstance(side, int) else _FREE for side in value.shape]
    if np.prod(sides, dtype=np.float64) > _MOST or 0 in sides:
        return None
    return np.broadcast_to(np.arange(sides[-1]), sides)


def readers(value: ir.Value, numbers: Numbers) -> Iterator[Reader]:
    """All that read a value, at once or moved, but for those that only ask for its shape."""
    if value.is_graph_output():
        yield Reader(None, 0, value, numbers)
    for use in value.uses():
        node = use.node
        if node.domain == "" and node.op_type in ("Shape", "Size"):
            continue
        moved = _moved(node, use.idx, numbers) if node.graph is value.graph or value.graph is None else None
        if moved is None:
            yield Reader(node, use.idx, value, numbers)
            continue
        for output, found in zip(node.outputs, moved, strict=True):
            yield from readers(output, found)


def source_of(value: ir.Value) -> ir.Value:
    """What a value was before it was moved."""
    while True:
        node = value.producer()
        before = None if node is None or not node.inputs else node.inputs[0]
        if node is None or before is None or _moved(node, 0, None) is None:
            return value
        value = before


def along_last(numbers: Numbers) -> npt.NDArray[np.int64] | None:
    """The channels along the last axis, where they are the same wherever else one looks; None where not."""
    rows = numbers.reshape(-1, numbers.shape[-1])
    return rows[0].astype(np.int64) if len(rows) and (rows == rows[0]).all() else None


_MOVES = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice", "Gather", "Expand"}
)
_SCALED = frozenset({"Mul", "Div"})  # by one number, which commutes with factors and rotations


def _moved(node: ir.Node, at: int, numbers: Numbers | None) -> list[Numbers] | None:
    """The results of a move; None where it is none. Without numbers: an empty list for what may be one."""
    if node.domain != "":
        return None
    if node.op_type in _SCALED:
        other = node.inputs[1 - at]
        one = is_scalar(other, 0) and not (node.op_type == "Div" and at == 1)
        return ([] if numbers is None else [numbers]) if one else None
    if node.op_type not in _MOVES or at != 0 or (node.op_type == "Gather" and constant(node.inputs[1]) is None):
        return None
    if numbers is None:
        return []
    try:
        return _run(node, numbers)
    except (ValueError, IndexError, TypeError):
        return None


def _run(node: ir.Node, x: Numbers) -> list[Numbers] | None:
    kind = node.op_type
    if kind == "Identity":
        return [x]
    if kind == "Transpose":
        return [x.transpose(ints_attribute(node, "perm", list(range(x.ndim))[::-1]))]
    if kind == "Reshape":
        return _reshaped(node, x)
    if kind == "Flatten":
        axis = int_attribute(node, "axis", 1) % (x.ndim + 1)
        return [x.reshape(int(np.prod(x.shape[:axis])), -1)]
    if kind in ("Squeeze", "Unsqueeze"):
        axes = _integers(node, 1, "axes")
        if axes is None:
            return None
        return [np.squeeze(x, tuple(axes))] if kind == "Squeeze" else [np.expand_dims(x, tuple(axes))]
    if kind == "Expand":
        target = constant(node.inputs[1])
        return None if target is None else [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(target)))]
    if kind == "Gather":
        index = constant(node.inputs[1])
        axis = int_attribute(node, "axis", 0)
        return None if index is None else [np.take(x, index, axis=axis, mode="wrap")]
    if kind == "Split":
        axis, count = int_attribute(node, "axis", 0), len(node.outputs)
        sizes = _integers(node, 1, "split") or [-(-x.shape[axis] // count)] * count
        return np.split(x, np.cumsum(sizes)[:-1], axis=axis)
    return _sliced(node, x)


def _reshaped(node: ir.Node, x: Numbers) -> list[Numbers] | None:
    target = constant(node.inputs[1])
    if target is not None:
        sizes = [int(size) for size in target]
        if not int_attribute(node, "allowzero", 0):
            sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
        return [x.reshape(sizes)]
    shape = node.outputs[0].shape
    if shape is None:
        return None
    # Free sizes keep their places; one that is left is what remains.
    sizes = [side if isinstance(side, int) else -1 for side in shape]
    free = [at for at, size in enumerate(sizes) if size == -1]
    for at in free[:-1] if len(free) > 1 else ():
        sizes[at] = x.shape[at]
    return [x.reshape(sizes)]


def _sliced(node: ir.Node, x: Numbers) -> list[Numbers] | None:
    starts, ends, axes, steps = (_integers(node, at) for at in range(1, 5))
    if starts is None or ends is None:
        return None
    place = [slice(None)] * x.ndim
    count = len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(count), steps or [1] * count, strict=True):
        if step < 0:
            return None
        place[axis] = slice(start, end, step)
    made = x[tuple(place)]
    return [made] if made.size else None


def _integers(node: ir.Node, at: int, name: str = "") -> list[int] | None:
    """Those of a constant input, or of an attribute."""
    found = constant(node.inputs[at]) if len(node.inputs) > at else None
    if found is not None:
        return [int(each) for each in found.reshape(-1)]
    return ints_attribute(node, name, []) or None
