"""The residual stream of a transformer: who writes it, who reads it, and its rotation.

A norm commutes with rotations, but for its gain and bias, which go to the layers that read it. A LayerNormalization
takes the mean away first: it commutes with rotations that keep ``(1, ..., 1)`` where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.channel_moves import Numbers, Reader, along_last, numbered, readers, source_of
from edgekern.graph.families import AVERAGES, CENTERED, LOOKUP, NORM_CONSTANTS, REPEATED, reduced_axes
from edgekern.graph.values import int_attribute, label
from edgekern.quantization.methods.float_model import float32_of, replace_constant
from edgekern.quantization.methods.hadamard import Rotation, keeping_ones
from edgekern.quantization.methods.linear_layers import Linear, linear_giving, linear_of

FloatArray = npt.NDArray[np.floating]


class _Fixed(Exception):
    """Why a stream cannot be rotated."""


@dataclass(eq=False)
class Stream:
    """Values that are added up, and all that writes and reads them.

    Attributes
    ----------
    channels : int
    values : what it consists of
    writers : each takes the rotation into what it writes
    norms : those that read it, each with the layers that read what it gives
    layers : those that read it without a norm
    """

    channels: int
    values: dict[ir.Value, None] = field(default_factory=dict)
    writers: dict[object, Callable[[Rotation], None]] = field(default_factory=dict)
    norms: dict[ir.Node, tuple[Linear, ...]] = field(default_factory=dict)
    layers: dict[ir.Node, Linear] = field(default_factory=dict)

    def rotate(self, rotation: Rotation) -> None:
        """By a matrix (channels, channels); where norms take means away, by one near it that keeps them."""
        if any(node.op_type == CENTERED for node in self.norms):
            rotation = keeping_ones(rotation)
        for write in self.writers.values():
            write(rotation)
        for node, layers in self.norms.items():
            _move_gain(node, layers, rotation)
        for layer in (*self.layers.values(), *(layer for layers in self.norms.values() for layer in layers)):
            layer.change_inputs(lambda weights: weights @ rotation)


def streams_of(graph: ir.Graph) -> tuple[list[Stream], list[str]]:
    """The streams of a model that can be rotated, and what is said of others."""
    found: list[Stream] = []
    left: list[str] = []
    seen: set[ir.Value] = set()
    for node in graph:
        if node.op_type not in NORM_CONSTANTS or node.domain not in ("", "com.microsoft"):
            continue
        value = node.inputs[0]
        if value is None or source_of(value) in seen:
            continue
        numbers = numbered(value)
        stream = Stream(0 if numbers is None else numbers.shape[-1])
        try:
            _explore(stream, value)
            found.append(stream)
        except _Fixed as reason:
            left.append(f"the stream that {node.op_type} {label(node)!r} reads ({reason})")
        seen |= set(stream.values)
    return found, left


def _explore(stream: Stream, first: ir.Value) -> None:
    waiting = [source_of(first)]
    while waiting:
        value = waiting.pop()
        if value in stream.values:
            continue
        stream.values[value] = None
        waiting += _written(stream, value)
        numbers = _numbers(value, stream.channels)
        for reader in readers(value, numbers):
            waiting += _read(stream, reader)


def _numbers(value: ir.Value, channels: int) -> Numbers:
    """Along the last axis; of a convolution along axis 1."""
    node = value.producer()
    if node is not None and node.op_type == "Conv" and value.shape is not None and value.shape[1] == channels:
        sides = [side if isinstance(side, int) else 2 for side in value.shape]
        return np.broadcast_to(np.arange(channels).reshape(-1, *[1] * (len(sides) - 2)), sides)
    numbers = numbered(value)
    if numbers is None or numbers.shape[-1] != channels:
        raise _Fixed(f"{value.name!r} has its channels elsewhere")
    return numbers


def _written(stream: Stream, value: ir.Value) -> list[ir.Value]:
    """Note what writes a value; what else of the stream it is made of."""
    node = value.producer()
    if node is None:
        raise _Fixed("the caller writes it")
    if (layer := linear_giving(value)) is not None:
        stream.writers[layer.node] = lambda rotation: layer.change_outputs(lambda outputs: outputs @ rotation)
        return []
    if node.domain != "":
        raise _Fixed(f"{node.op_type} {label(node)!r} writes it")
    if node.op_type in ("Add", "Concat"):
        rank = len(value.shape) if value.shape is not None else 0
        if node.op_type == "Concat" and int_attribute(node, "axis", 0) in (-1, rank - 1):
            raise _Fixed(f"Concat {label(node)!r} joins channels")
        parts: list[ir.Value] = []
        for at, part in enumerate(node.inputs):
            assert part is not None
            if float32_of(part) is not None:
                stream.writers[node, at] = _constant_writer(node, at, stream.channels)
            else:
                parts.append(source_of(part))
        return parts
    if node.op_type == LOOKUP and int_attribute(node, "axis", 0) == 0:
        table = float32_of(node.inputs[0])
        if table is not None and table.ndim == 2:
            stream.writers[node] = _constant_writer(node, 0, stream.channels)
            return []
    if node.op_type == "Conv":
        return _convolved(stream, node)
    if node.op_type == REPEATED and float32_of(node.inputs[0]) is not None:
        stream.writers[node] = _constant_writer(node, 0, stream.channels)
        return []
    raise _Fixed(f"{node.op_type} {label(node)!r} writes it")


def _constant_writer(node: ir.Node, at: int, channels: int) -> Callable[[Rotation], None]:
    def write(rotation: Rotation) -> None:
        given = float32_of(node.inputs[at])
        assert given is not None
        replace_constant(node, at, np.broadcast_to(given, (*given.shape[:-1], channels)) @ rotation)

    return write


def _convolved(stream: Stream, node: ir.Node) -> list[ir.Value]:
    weights = float32_of(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if weights is None or len(weights) != stream.channels or (bias is not None and float32_of(bias) is None):
        raise _Fixed(f"Conv {label(node)!r} writes it")

    def write(rotation: Rotation) -> None:
        replace_constant(node, 1, np.tensordot(rotation.T, weights, axes=1))
        if bias is not None:
            _constant_writer(node, 2, stream.channels)(rotation)

    stream.writers[node] = write
    return []


def _read(stream: Stream, reader: Reader) -> list[ir.Value]:
    """Note who reads the stream; what it goes on as."""
    node, order = reader.node, along_last(reader.numbers)
    if node is None:
        raise _Fixed("the caller reads it")
    if order is None or not np.array_equal(order, np.arange(stream.channels)):
        raise _Fixed(f"{node.op_type} {label(node)!r} reads it with its channels elsewhere")
    if node.op_type in ("Add", "Concat") and node.domain == "":
        return [node.outputs[0]]
    if reader.at == 0 and node.op_type in NORM_CONSTANTS and node.domain in ("", "com.microsoft"):
        stream.norms[node] = _behind(node, reader.numbers.ndim, stream.channels)
        return []
    layer = linear_of(node) if reader.at == 0 else None
    if layer is None:
        raise _Fixed(f"{node.op_type} {label(node)!r} reads it")
    stream.layers[node] = layer
    return []


def _behind(node: ir.Node, rank: int, channels: int) -> tuple[Linear, ...]:
    """The layers that read what a norm gives, and nobody else."""
    if int_attribute(node, "axis", -1) not in (-1, rank - 1) or any(extra.uses() for extra in node.outputs[1:]):
        raise _Fixed(f"{node.op_type} {label(node)!r} is over other axes")
    constants = [float32_of(node.inputs[at]) for at in NORM_CONSTANTS[node.op_type] if at < len(node.inputs)]
    if any(array is None for array in constants) or (len(constants) > 1 and not np.all(constants[0])):
        raise _Fixed(f"{node.op_type} {label(node)!r} has no constants that its layers could take")
    return tuple(_layers_reading(node.outputs[0], channels))


def _layers_reading(value: ir.Value, channels: int) -> list[Linear]:
    numbers, found = numbered(value), []
    assert numbers is not None
    for reader in readers(value, numbers):
        order = along_last(reader.numbers)
        straight = order is not None and np.array_equal(order, np.arange(channels))
        if reader.node is not None and straight and reader.at == 0 and _averages_tokens(reader):
            found += _layers_reading(reader.node.outputs[0], channels)
            continue
        layer = None if reader.node is None or reader.at != 0 or not straight else linear_of(reader.node)
        if layer is None:
            who = "the caller" if reader.node is None else f"{reader.node.op_type} {label(reader.node)!r}"
            raise _Fixed(f"{who} reads a norm of it")
        found.append(layer)
    return found


def _averages_tokens(reader: Reader) -> bool:
    """Means over tokens are of each channel alone."""
    node, rank = reader.node, reader.numbers.ndim
    if node is None or node.op_type not in AVERAGES or node.outputs[0].shape is None:
        return False
    return rank - 1 not in reduced_axes(node, rank)


def _move_gain(node: ir.Node, layers: tuple[Linear, ...], rotation: Rotation) -> None:
    """Let the layers multiply by the gain: what is left of a norm is its bias, in parts of the gain."""
    places = [at for at in NORM_CONSTANTS[node.op_type] if at < len(node.inputs) and node.inputs[at] is not None]
    if not places:
        return
    gain = float32_of(node.inputs[places[0]])
    assert gain is not None
    if len(places) > 1:
        bias = float32_of(node.inputs[places[1]])
        assert bias is not None
        replace_constant(node, places[1], (bias / gain) @ rotation)
    replace_constant(node, places[0], np.ones_like(gain))
    for layer in layers:
        layer.change_inputs(lambda weights: weights * gain)
