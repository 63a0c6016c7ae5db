"""What a search gives recipes to: the layers of a model, and what hangs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from edgekern.analysis.switchboard import Layer, Switchboard
from edgekern.graph.families import HANDING_ON, JUNCTIONS
from edgekern.graph.subgraphs import names_read


@dataclass(frozen=True)
class Unit:
    """Nodes that have one recipe together.

    Attributes
    ----------
    nodes : their names, of the first the unit is called
    op : operator of the first
    is_product : whether it is a Conv, Gemm, MatMul or recurrent layer by constant weights; else it has 8 bits or floats
    """

    nodes: tuple[str, ...]
    op: str
    is_product: bool

    @property
    def name(self) -> str:
        return self.nodes[0]


@dataclass(frozen=True)
class Units:
    """All of a model.

    Attributes
    ----------
    rows : a :class:`Unit` each, in the order of the model
    edges : pairs of numbers of units, where the second reads what the first gives, as it is held
    followers : (name of a node that is float32 and reads what others have in 8 bits, the numbers of those units)
    """

    rows: tuple[Unit, ...]
    edges: tuple[tuple[int, int], ...]
    followers: tuple[tuple[str, tuple[int, ...]], ...]


def units_of(board: Switchboard, products: Sequence[str], split: Switchboard | None = None) -> Units:
    """Units of a model that is quantized alike everywhere.

    Two nodes that are no products, as those of an attention or of a GELU that is written out, are one unit where one
    leads to the other through nodes that are no layers: to quantize one alone would convert in between.

    Parameters
    ----------
    products : names of the products by constant weights
    split : the same with nothing but products in 8 bits. What still reads 8 bits there follows the layers that it
        shares them with; what reads the same as before has nothing of its own to choose.
    """
    known = set(products)
    following = [layer for layer in (split.layers if split else ()) if layer.name not in known]
    tied = {layer.name: layer.activations for layer in following}
    others = {
        layer.name: layer
        for layer in board.layers
        if layer.name not in known and tied.get(layer.name) != layer.activations
    }
    joined = _joined(board.nodes, known, others)
    member: dict[str, int] = {}
    rows: list[list[tuple[str, str]]] = []
    for node in board.nodes:
        name = label(node)
        if name in known or name in joined:
            leader = joined.get(name, name)
            at = member.setdefault(leader, len(rows))
            if at == len(rows):
                rows.append([])
            member[name] = at
            if all(name != other for other, _ in rows[at]):
                rows[at].append((name, node.op_type))
    units = tuple(Unit(tuple(name for name, _ in row), row[0][1], row[0][0] in known) for row in rows)
    return Units(units, _edges(board.nodes, member), _followers(board.layers, following, member))


def read_behind(board: Switchboard, products: Sequence[str]) -> dict[str, list[Layer]]:
    """Of each product what is rounded of the nodes that read what it gives, and are no products."""
    layers = [layer for layer in board.layers if layer.name not in set(products)]
    names = [*products, *(layer.name for layer in layers)]
    found: dict[str, list[Layer]] = {}
    for first, second in _edges(board.nodes, {name: at for at, name in enumerate(names)}):
        if first < len(products) <= second:
            found.setdefault(names[first], []).append(layers[second - len(products)])
    return found


def label(node: onnx.NodeProto) -> str:
    """As rules call it."""
    return node.name or node.output[0]


def _joined(nodes: Sequence[onnx.NodeProto], products: set[str], others: dict[str, Layer]) -> dict[str, str]:
    """Of each node that is part of a unit without a product, the first one of that unit."""
    leaders: dict[str, str] = {}
    behind: dict[str, set[str]] = {}  # of a tensor: the layers that lead to it, each by its name
    through: dict[tuple[str, str], set[str]] = {}  # (layer, tensor): the nodes between, by name
    for node in nodes:
        name, made = label(node), set[str]()
        if name in products:
            continue
        reads = names_read(node)
        if name in others:
            leaders.setdefault(name, name)
            if node.op_type not in JUNCTIONS:
                for tensor in reads:
                    for layer in behind.get(tensor, ()):
                        _join(leaders, layer, {*through[layer, tensor], name})
                made = {name}
        else:
            made = set().union(*(behind.get(tensor, set()) for tensor in reads))
        for layer in made:
            path = {label(node)} - {layer}
            for tensor in reads:
                path |= through.get((layer, tensor), set())
            for output in node.output:
                behind.setdefault(output, set()).add(layer)
                through[layer, output] = path
    return leaders


def _join(leaders: dict[str, str], layer: str, others: set[str]) -> None:
    first = leaders[layer]
    for other in others:
        before = leaders.get(other)
        leaders[other] = first
        if before is not None and before != first:
            leaders.update({name: first for name, leader in leaders.items() if leader == before})


def _edges(nodes: Sequence[onnx.NodeProto], member: dict[str, int]) -> tuple[tuple[int, int], ...]:
    holds: dict[str, int] = {}  # of a tensor, the unit that gives it
    found: dict[tuple[int, int], None] = {}
    for node in nodes:
        at, reads = member.get(label(node)), [name for name in names_read(node) if name in holds]
        if at is not None:
            found.update({(holds[name], at): None for name in reads if holds[name] != at})
            holds.update(dict.fromkeys(node.output, at))
        elif len(reads) == 1 and node.op_type in HANDING_ON:
            holds.update(dict.fromkeys(node.output, holds[reads[0]]))
    return tuple(found)


def _followers(
    layers: Sequence[Layer], following: Sequence[Layer], member: dict[str, int]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    found = []
    for layer in following:
        others = [each for each in layers if each.name in member and each.name != layer.name]
        beside = {member[each.name] for each in others if each.activations & layer.activations}
        if beside:
            found.append((layer.name, tuple(sorted(beside))))
    return tuple(found)
