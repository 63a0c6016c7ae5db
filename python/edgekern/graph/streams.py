"""Streams: what one factor for each channel can go through, from the layers that make it to those that read it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from edgekern.graph.families import AVERAGES, CLIP, MAXIMA, PRODUCTS, RESHAPES, RESIZES, crops, limits, reduced_axes
from edgekern.graph.values import (
    constant,
    float_constant,
    int_attribute,
    ints_attribute,
    is_constant,
    is_float_constant,
    scalar,
    text_attribute,
)

_UNITS = frozenset({"Relu", "LeakyRelu", "PRelu"})
_CHANNELS = 1  # the axis


@dataclass
class Stream:
    """Tensors whose channels (axis 1) can be multiplied by positive factors, if the layers at both ends divide by them.

    Attributes
    ----------
    tensors : in the order of the graph
    makers, readers : Conv, ConvTranspose, Gemm and MatMul with constant weights
    clamps : Clip nodes between them whose limits no factor goes through
    """

    tensors: list[ir.Value] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)
    clamps: list[ir.Node] = field(default_factory=list)


def find_streams(graph: ir.Graph) -> list[Stream]:
    """Those of a prepared graph that only layers make and only layers read."""
    groups = _Groups()
    closed: list[ir.Value] = [*graph.inputs, *graph.outputs]
    found: dict[ir.Value, Stream] = {}
    for node in graph:
        through = _goes_through(node)
        for value in through:
            groups.join(value, node.outputs[0])
        reads = [value for value in node.inputs if value is not None and not is_constant(value)]
        if is_layer(node):
            reads = [value for value in reads if value is not node.inputs[0]]
        closed += [value for value in reads if value not in through]
        if not through:
            closed += node.outputs if not is_layer(node) else node.outputs[1:]
    closed += _read_in_bodies(graph)
    shut = {groups.of(value) for value in closed}
    for node in graph:
        if not node.inputs or not node.outputs:
            continue
        source, result = node.inputs[0], node.outputs[0]
        stream = found.setdefault(groups.of(result), Stream())
        stream.tensors.append(result)
        if is_layer(node):
            assert source is not None
            stream.makers.append(node)
            found.setdefault(groups.of(source), Stream()).readers.append(node)
        elif _bends(node):
            stream.clamps.append(node)
    return [stream for root, stream in found.items() if root not in shut and stream.makers and stream.readers]


def settled(stream: Stream) -> list[ir.Value]:
    """Tensors of a stream that somebody reads as they are, not an activation behind them."""
    units = _UNITS | {CLIP}
    return [value for value in stream.tensors if any(use.node.op_type not in units for use in value.uses())]


def is_layer(node: ir.Node) -> bool:
    """Whether a factor for each channel of what a node reads or gives can go into its constant weights and bias."""
    if node.domain != "" or node.op_type not in PRODUCTS or not is_float_constant(node.inputs[1]):
        return False
    x, weights = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weights is None or weights.shape is None or is_constant(x):
        return False
    if bias is not None and ((values := float_constant(bias)) is None or values.ndim != 1):
        return False
    if node.op_type == "ConvTranspose":
        return int_attribute(node, "group", 1) == 1
    flat = x.shape is not None and len(x.shape) == 2 and len(weights.shape) == 2
    return node.op_type == "Conv" or (flat and not int_attribute(node, "transA", 0))


def _bends(node: ir.Node) -> bool:
    """Whether a Clip has a limit that is neither 0 nor infinite."""
    if node.op_type != CLIP or node.domain != "":
        return False
    return any(math.isfinite(limit) and limit for limit in limits(node) or ())


def _goes_through(node: ir.Node) -> list[ir.Value]:
    """What a node reads whose channels can have any factor, if its result has the same."""
    if node.domain != "" or not node.inputs or len([out for out in node.outputs if out.uses()]) > 1:
        return []
    x, op = node.inputs[0], node.op_type
    if x is None or is_constant(x) or x.shape is None or len(x.shape) < 2:
        return []
    result = node.outputs[0]
    if op == "Add":
        operands = [value for value in node.inputs if value is not None]
        alike = not any(map(is_constant, operands)) and len({_channels(value) for value in operands}) == 1
        return operands if alike and _channels(x) is not None else []
    if op in RESHAPES:
        through = _keeps_channels(x, result)
    elif op == "ReduceMean":
        through = min(reduced_axes(node, len(x.shape)), default=0) > _CHANNELS
    elif op == CLIP:
        between = limits(node)
        through = between is not None and between[0] <= 0 <= between[1]
    elif op == "PRelu":
        through = is_float_constant(node.inputs[1])
    elif op in RESIZES:
        through = not crops(node) and _channels(x) is not None and _channels(x) == _channels(result)
    elif op == "Pad":
        through = _pads_pictures(node, len(x.shape))
    else:
        through = op in _UNITS | MAXIMA | AVERAGES
    return [x] if through else []


def _channels(value: ir.Value) -> tuple[int, int] | None:
    """How many axes a tensor has, and how many channels."""
    if value.shape is None or len(value.shape) < 2:
        return None
    channels = value.shape[_CHANNELS]
    return (len(value.shape), channels) if isinstance(channels, int) else None


def _keeps_channels(x: ir.Value, result: ir.Value) -> bool:
    """Whether a Reshape or its like leaves rows and channels, or joins each channel with all that lies in it."""
    if x.shape is None or result.shape is None or len(result.shape) < 2:
        return False
    before, after = (
        [side for side in value.shape[1:] if isinstance(side, int)] for value in (x, result) if value.shape
    )
    if len(before) != len(x.shape) - 1 or len(after) != len(result.shape) - 1:
        return False
    return math.prod(before) == math.prod(after) and (before[0] == after[0] or len(after) == 1)


def _pads_pictures(node: ir.Node, rank: int) -> bool:
    """Whether a Pad adds to axes behind the channels alone, zeros or what it finds."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    pads = ints_attribute(node, "pads", []) if given is None else constant(given)
    filler = node.inputs[2] if len(node.inputs) > 2 else None
    zeros = scalar(filler) == 0 if filler is not None else "value" not in node.attributes
    if pads is None or len(pads) != 2 * rank or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return False
    if text_attribute(node, "mode", "constant") == "constant" and not zeros:
        return False
    return not any(pads[at] for at in (0, _CHANNELS, rank, rank + _CHANNELS))


def _read_in_bodies(graph: ir.Graph) -> Iterator[ir.Value]:
    """What bodies of If, Loop and Scan read of the graph around them."""
    for node in graph.all_nodes():
        if node.graph is not graph:
            yield from (value for value in node.inputs if value is not None)
    yield from (value for node in graph for value in node.outputs if value.is_graph_output())


class _Groups:
    """Values that belong together."""

    def __init__(self) -> None:
        self._above: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value) -> ir.Value:
        """One value that stands for all of its group."""
        while (above := self._above.get(value)) is not None:
            value = above
        return value

    def join(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.of(one), self.of(other)
        if first is not second:
            self._above[first] = second
