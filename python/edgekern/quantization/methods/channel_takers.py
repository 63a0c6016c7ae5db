"""Who takes a factor for each channel of an activation, so that the layers that read it can have the inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.channel_moves import Numbers, Reader, along_last, numbered, readers, source_of
from edgekern.graph.families import AFFINE, HOMOGENEOUS, LOOKUP, NORM_CONSTANTS
from edgekern.graph.initializers import new_initializer
from edgekern.graph.values import int_attribute, label, sole_consumer
from edgekern.quantization.methods.float_model import float32_of, replace_constant
from edgekern.quantization.methods.linear_layers import Linear, linear_giving, linear_of

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Giver:
    """What gives an activation, and can multiply each of its channels by a factor above 0.

    Attributes
    ----------
    numbers : which channel stands where in the activation
    channels : how many there are
    multiply : takes (channels,) factors
    """

    numbers: Numbers
    channels: int
    multiply: Callable[[FloatArray], None]


@dataclass(frozen=True, eq=False)
class Place:
    """Linear layers that read the same channels.

    Attributes
    ----------
    layers : each with the channel that each of its inputs is
    channels : how many there are
    multiply : multiplies what the layers read by (channels,) factors, where it is made
    """

    layers: tuple[tuple[Linear, npt.NDArray[np.int64]], ...]
    channels: int
    multiply: Callable[[FloatArray], None]

    @property
    def name(self) -> str:
        return ", ".join(layer.name for layer, _ in self.layers)

    def move(self, factors: FloatArray) -> None:
        """Divide the activation by (channels,) factors, and multiply the weights by them; of what is read alone."""
        read = np.zeros(self.channels, bool)
        for _, channel in self.layers:
            read[channel] = True
        factors = np.where(read, factors, 1.0)
        self.multiply(1 / factors)
        for layer, channel in self.layers:
            layer.change_inputs(lambda weights, channel=channel: weights * factors[channel])  # type: ignore[misc]


def places_of(graph: ir.Graph) -> tuple[list[Place], dict[Linear, str]]:
    """The places in a model whose activation is made by what can be multiplied; the layers of others, and why."""
    groups: dict[ir.Value, list[Linear]] = {}
    for node in graph:
        if (layer := linear_of(node)) is not None:
            groups.setdefault(source_of(layer.input), []).append(layer)
    found: list[Place] = []
    left: dict[Linear, str] = {}
    for value, layers in groups.items():
        place = _place(value, layers)
        if isinstance(place, Place):
            found.append(place)
        else:
            left |= dict.fromkeys(layers, place)
    return found, left


def inserted(layers: list[Linear]) -> list[Place]:
    """Places of layers, by what they read, with a Mul of their own before them."""
    groups: dict[ir.Value, list[Linear]] = {}
    for layer in layers:
        groups.setdefault(layer.input, []).append(layer)
    return [_with_product(value, group) for value, group in groups.items()]


def _with_product(value: ir.Value, layers: list[Linear]) -> Place:
    first, k = layers[0].node, layers[0].weights.shape[1]
    graph = first.graph
    assert isinstance(graph, ir.Graph)

    def multiply(factors: FloatArray) -> None:
        by = new_initializer(graph, f"{value.name}_factors", factors.astype(np.float32))
        node = ir.Node("", "Mul", [value, by], name=f"{first.name or first.outputs[0].name}_factors")
        node.outputs[0].name = f"{by.name}_scaled"
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        graph.insert_before(first, node)
        for layer in layers:
            layer.node.replace_input_with(0, node.outputs[0])

    return Place(tuple((layer, np.arange(k)) for layer in layers), k, multiply)


def _place(value: ir.Value, layers: list[Linear]) -> Place | str:
    giver = _giver(value)
    if isinstance(giver, str):
        return giver
    by_node = {layer.node: layer for layer in layers}
    found = []
    for reader in readers(value, giver.numbers):
        channel = along_last(reader.numbers)
        if reader.node not in by_node or reader.at != 0 or channel is None:
            return f"{_called(reader)} reads what they read"
        layer = by_node[reader.node]
        if layer.weights.shape[1] != len(channel):
            return "their inputs cannot be followed"
        found.append((layer, channel))
    return Place(tuple(found), giver.channels, giver.multiply)


def _called(reader: Reader) -> str:
    return "the caller" if reader.node is None else f"{reader.node.op_type} {label(reader.node)!r}"


def _giver(value: ir.Value) -> Giver | str:
    """Who gives a value, or why nobody can multiply its channels."""
    node, numbers = value.producer(), numbered(value)
    if node is None or node.domain not in ("", "com.microsoft"):
        return "what they read comes from outside" if node is None else f"{node.op_type} takes no factors"
    nobody = f"{node.op_type} {label(node)!r} takes no factors"
    if node.op_type == "MatMul" and float32_of(node.inputs[1]) is None:
        return _mixed(value, node) or nobody
    if numbers is None:
        return "nobody knows how many channels they read"
    k = numbers.shape[-1]
    if node.op_type in NORM_CONSTANTS:
        return _norm(node, numbers) or nobody
    if (layer := linear_giving(value)) is not None:
        return Giver(numbers, k, lambda factors: layer.change_outputs(lambda given: given * factors))
    if node.op_type in AFFINE:
        return _arithmetic(node, numbers) or nobody
    if node.op_type in HOMOGENEOUS:
        return _along(node, 0, numbers) or nobody
    if node.op_type == LOOKUP and int_attribute(node, "axis", 0) == 0:
        table = float32_of(node.inputs[0])
        if table is not None and table.ndim == 2:
            return Giver(numbers, k, lambda factors: replace_constant(node, 0, table * factors))
    return nobody


def _norm(node: ir.Node, numbers: Numbers) -> Giver | None:
    """By its gain and its bias; over the last axis alone."""
    if int_attribute(node, "axis", -1) not in (-1, numbers.ndim - 1):
        return None
    inputs = [at for at in NORM_CONSTANTS[node.op_type] if at < len(node.inputs) and node.inputs[at] is not None]
    if any(extra.uses() for extra in node.outputs[1:]):
        return None
    if not inputs or any(float32_of(node.inputs[at]) is None for at in inputs):
        return None
    return Giver(numbers, numbers.shape[-1], lambda factors: _multiply(node, inputs, factors))


def _multiply(node: ir.Node, inputs: list[int], factors: FloatArray) -> None:
    for at in inputs:
        given = float32_of(node.inputs[at])
        assert given is not None
        replace_constant(node, at, given * factors)


def _arithmetic(node: ir.Node, numbers: Numbers) -> Giver | None:
    """A constant for each channel takes factors: at once as a factor, with what is before it as an addend."""
    constants = [at for at in (0, 1) if float32_of(node.inputs[at]) is not None]
    if not constants:
        if node.op_type != "Mul":
            return None
        return _along(node, 0, numbers) or _along(node, 1, numbers)
    at = constants[0]
    given = float32_of(node.inputs[at])
    assert given is not None
    if given.ndim > numbers.ndim or len(constants) > 1:
        return None
    if node.op_type == "Mul":
        return Giver(numbers, numbers.shape[-1], lambda factors: _multiply(node, [at], factors))
    before = _along(node, 1 - at, numbers)
    if before is None or (node.op_type == "Div" and at == 0):
        return None
    if node.op_type == "Div":
        return before

    def multiply(factors: FloatArray) -> None:
        before.multiply(factors)
        _multiply(node, [at], factors)

    return Giver(numbers, numbers.shape[-1], multiply)


def _along(node: ir.Node, at: int, numbers: Numbers) -> Giver | None:
    """Who gives an operand that nobody else reads, with the same channels."""
    value = node.inputs[at]
    if value is None or sole_consumer(value) is not node:
        return None
    found = _giver(value)
    if isinstance(found, str):
        return None
    channel = along_last(found.numbers)
    same = channel is not None and np.array_equal(channel, np.arange(numbers.shape[-1]))
    return found if same and found.channels == numbers.shape[-1] else None


def _mixed(value: ir.Value, node: ir.Node) -> Giver | None:
    """Attention: rows of values are mixed by weights that sum over tokens, and channels stay what they are."""
    values = node.inputs[1]
    if values is None:
        return None
    source = source_of(values)
    before = _giver(source)
    if isinstance(before, str):
        return None
    numbers = numbers_read(source, before.numbers, node)
    mixed = None if numbers is None else mixed_numbers(value, numbers)
    return None if mixed is None else Giver(mixed, before.channels, before.multiply)


def mixed_numbers(value: ir.Value, numbers: Numbers) -> Numbers | None:
    """The channels of a mixture of rows, by those of the rows."""
    if value.shape is None or len(value.shape) != numbers.ndim:
        return None
    tokens = value.shape[-2] if isinstance(value.shape[-2], int) else 2
    return np.broadcast_to(numbers[..., :1, :], (*numbers.shape[:-2], tokens, numbers.shape[-1]))


def numbers_read(source: ir.Value, numbers: Numbers, product: ir.Node) -> Numbers | None:
    """The channels that a product mixes, the same for each token; None where others read them, too."""
    found: Numbers | None = None
    others: list[Numbers] = []
    for reader in readers(source, numbers):
        if reader.node is product and reader.at == 1 and found is None:
            found = reader.numbers
        else:
            others.append(reader.numbers)
    if found is None or found.ndim < 3 or (found != found[..., :1, :]).any():
        return None
    read = np.unique(found)
    return None if any(np.isin(read, other).any() for other in others) else found
