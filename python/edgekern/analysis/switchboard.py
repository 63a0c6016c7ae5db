"""A quantized model of which each layer can be rounded alone, and which runs from any layer on.

The float model is the QDQ model whose nodes read, in the place of every dequantized tensor, the float one that it
stands for. A layer is rounded when it reads its own dequantized tensors again: the Q, the DQ and the integers are those
that ``quantize`` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekern import _core
from edgekern._onnxruntime import open_session, ort_value
from edgekern.compiler import compile
from edgekern.errors import ArgumentValueError
from edgekern.graph.dynamic import is_marked
from edgekern.graph.families import QDQ
from edgekern.graph.subgraphs import bodies, names_read
from edgekern.quantization.quantize_model import Switchable
from edgekern.runtime import InferenceSession

Array = npt.NDArray[Any]
Values = dict[str, Any]  # OrtValues by name


@dataclass(frozen=True)
class Layer:
    """A node that quantization rounds something of.

    Attributes
    ----------
    name, op : the node's, or that of its first result
    place : among the nodes of the float model
    weights, activations : dequantized tensors that it reads
    results : dequantized tensors that stand for its own, and that only the caller reads
    by_rows : whether it quantizes the rows that it reads by itself, as it runs
    """

    name: str
    op: str
    place: int
    weights: frozenset[str]
    activations: frozenset[str]
    results: frozenset[str]
    by_rows: bool

    def rounded(self, what: str) -> frozenset[str]:
        """The dequantized tensors of "weights", "activations" or "both"."""
        weights = self.weights if what != "activations" else frozenset[str]()
        return weights | (self.activations | self.results if what != "weights" else frozenset())


@dataclass
class Position:
    """Where a run of the float model stands: before which node, with what is still to be read, of each feed."""

    place: int
    values: list[Values] = field(repr=False)


class Switchboard:
    """Takes a model apart; ``function`` is for errors.

    Attributes
    ----------
    layers : in the order of the model
    inputs, fed : names of what a caller feeds, and what the model says of each
    nodes : of the float model, in order
    """

    def __init__(self, made: Switchable, *, function: str) -> None:
        graph = made.proto.graph
        self._function, self._made = function, made
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._stands_for = dict(made.stands_for)
        rounding = {
            name for node in graph.node if node.op_type in QDQ for name in node.output
        } | self._stands_for.keys()
        self._written = [node for node in graph.node if rounding.isdisjoint(node.output)]
        self.nodes = [self._float(node, frozenset()) for node in self._written]
        self._reads = [names_read(node) for node in self.nodes]
        self._steps: dict[str, list[str]] = {}  # of the Qs that read a tensor
        for node in graph.node:
            if node.op_type in QDQ and node.input[0] not in rounding | self._constants.keys():
                self._steps.setdefault(node.input[0], []).append(node.input[1])
        self._outputs = [value.name for value in graph.output]
        self.fed = [value for value in graph.input if value.name not in self._constants]
        self.inputs = [value.name for value in self.fed]
        self.layers = tuple(self._layers())

    def start(self, feeds: Iterable[Mapping[str, Array]]) -> Position:
        """Before the first node."""
        return Position(0, [{name: ort_value(array) for name, array in fed.items()} for fed in feeds])

    def advance(self, position: Position, place: int) -> None:
        """Go on in float32, unless something else than a tensor would be left to read."""
        later = self._read_from(place)
        runs = self._through(position.place, place, {}, position.values)
        if not all(value.has_value() and value.is_tensor() for values in runs for value in values.values()):
            return
        for values, found in zip(position.values, runs, strict=True):
            values |= found
            for name in values.keys() - later:
                del values[name]
        position.place = place

    def outputs(self, position: Position, layers: Sequence[Layer], what: str) -> list[dict[str, Array]]:
        """Of each feed the outputs of the model, some layers rounded, by their names."""
        kept = frozenset(name for layer in layers for name in layer.rounded(what))
        places = {layer.place: layer.rounded(what) for layer in layers}
        start, feeds = position.place, position.values
        for layer in layers:
            if layer.by_rows and what == "both":
                before = self._through(start, layer.place, places, feeds)
                feeds = [values | found for values, found in zip(feeds, before, strict=True)]
                feeds = [values | self._by_rows(layer, values) for values in feeds]
                start = layer.place + 1
        outputs = self._outputs_of(kept)
        nodes, there = self._rounded_nodes(start, len(self._written), places)
        runs = self._run([*nodes, *self._leading_to(outputs, there)], outputs, feeds)
        return [
            {name: np.array(found[made].numpy()) for name, made in zip(self._outputs, outputs, strict=True)}
            for found in runs
        ]

    def _layers(self) -> Iterator[Layer]:
        for place, node in enumerate(self._written):
            read = {name for name in names_read(node) if name in self._stands_for}
            weights = frozenset(name for name in read if self._is_constant(name))
            activations = frozenset() if self._moves(node, read - weights) else frozenset(read - weights)
            results = frozenset(o for o in self._outputs if self._stands_for.get(o) in set(node.output))
            if not (weights or activations or results):
                continue
            first = node.output[0]
            told = next((o for o in self._outputs if self._stands_for.get(o) == first), first)
            yield Layer(node.name or told, node.op_type, place, weights, activations, results, is_marked(node))

    def _is_constant(self, name: str) -> bool:
        """Whether a dequantized tensor is made of stored integers."""
        while (maker := self._makers.get(name)) is not None and (maker.op_type in QDQ or name in self._stands_for):
            name = maker.input[0]
        return name in self._constants

    def _moves(self, node: onnx.NodeProto, read: set[str]) -> bool:
        """Whether what a node reads is rounded again, in the same steps, behind it: nothing is lost in between."""
        before = {self._makers[name].input[1] for name in read}
        behind = [self._steps.get(name, []) for name in node.output]
        return all(len(steps) == 1 and before == set(steps) for steps in behind)

    def _float(self, node: onnx.NodeProto, kept: frozenset[str]) -> onnx.NodeProto:
        """A node that reads floats but for the dequantized tensors ``kept``."""
        names = {name: self._stands_for[name] for name in names_read(node) - kept if name in self._stands_for}
        if not names:
            return node
        made = onnx.NodeProto()
        made.CopyFrom(node)
        _rename(made, names)
        while made.input and not made.input[-1]:
            del made.input[-1]
        return made

    def _read_from(self, place: int) -> set[str]:
        """What is read from a node on, in float32, and the outputs."""
        return set(self._outputs_of(frozenset())).union(*self._reads[place:])

    def _rounded_nodes(
        self, start: int, stop: int, places: Mapping[int, frozenset[str]]
    ) -> tuple[list[onnx.NodeProto], set[str]]:
        """Some nodes, with the Q and DQ of those that are rounded, and what these make."""
        nodes: list[onnx.NodeProto] = []
        there: set[str] = set()
        for at in range(start, stop):
            node = self._float(self._written[at], places[at]) if at in places else self.nodes[at]
            nodes += [*self._leading_to(names_read(node), there), node]
        return nodes, there

    def _through(
        self, start: int, stop: int, places: Mapping[int, frozenset[str]], feeds: Sequence[Values]
    ) -> list[Values]:
        """What some nodes make that is read behind them, of each feed."""
        nodes, _ = self._rounded_nodes(start, stop, places)
        later = self._read_from(stop)
        made = [name for node in self.nodes[start:stop] for name in node.output if name in later]
        return list(self._run(nodes, made, feeds))

    def _by_rows(self, layer: Layer, values: Values) -> Values:
        """What a layer that quantizes its rows makes of a feed, on our own kernels: ONNX has no word for that."""
        nodes, _ = self._rounded_nodes(layer.place, layer.place + 1, {layer.place: layer.rounded("both")})
        later = self._read_from(layer.place + 1)
        wanted = [name for name in nodes[-1].output if name in later]
        read = {name for node in nodes for name in names_read(node)}
        given = [name for name in values if name in read]
        session = InferenceSession(compile(self._model(nodes, wanted, given, [values])))
        made = session.run(wanted, {name: values[name].numpy() for name in given})
        return {name: ort_value(array) for name, array in zip(wanted, made, strict=True)}

    def _outputs_of(self, kept: frozenset[str]) -> list[str]:
        return [name if name in kept else self._stands_for.get(name, name) for name in self._outputs]

    def _leading_to(self, names: Iterable[str], there: set[str]) -> list[onnx.NodeProto]:
        """The Q and DQ that make dequantized tensors, and are not there yet."""
        nodes: list[onnx.NodeProto] = []
        for name in sorted(names):
            maker = self._makers.get(name)
            if name in there or maker is None or (maker.op_type not in QDQ and name not in self._stands_for):
                continue
            there.add(name)
            nodes += [*self._leading_to(maker.input, there), maker]
        return nodes

    def _run(self, nodes: list[onnx.NodeProto], wanted: Sequence[str], feeds: Sequence[Values]) -> Iterator[Values]:
        """What some nodes make of each feed."""
        if not wanted:
            return iter([{} for _ in feeds])
        read = {name for node in nodes for name in names_read(node)}
        made = {name for node in nodes for name in node.output}
        through = [name for name in dict.fromkeys(wanted) if name not in made]
        asked = [name for name in dict.fromkeys(wanted) if name in made]
        if not asked:
            return iter([{name: self._value(name, values) for name in through} for values in feeds])
        given = [name for name in feeds[0] if name in read]
        model = self._model(nodes, asked, given, feeds)
        try:
            encoded = model.SerializeToString()
        except ValueError as error:  # protobuf's limit
            raise ArgumentValueError(
                f"{self._function}: float_model must have less than 2 GB, for onnxruntime is given what follows each "
                "layer in one piece; look at a part of it"
            ) from error
        with self._named_errors():
            session = open_session(encoded, num_threads=_core.num_threads(), as_written=False, fold=True, spin=False)
        return self._results(session, asked, given, through, feeds)

    def _value(self, name: str, values: Values) -> Any:
        """Something that is there, or a constant: a model may give one as its output."""
        return values[name] if name in values else ort_value(numpy_helper.to_array(self._constants[name]))

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime raises a class per status, all private
            raise ArgumentValueError(
                f"{self._function}: float_model cannot run the feeds in data: {' '.join(str(error).split())}"
            ) from error

    def _model(
        self, nodes: Sequence[onnx.NodeProto], asked: Sequence[str], given: Sequence[str], feeds: Sequence[Values]
    ) -> onnx.ModelProto:
        """Some nodes as a model, for feeds of their sizes."""
        read = {name for node in nodes for name in names_read(node)}
        graph = onnx.GraphProto(name="piece", node=nodes)
        graph.input.extend(_described(name, [values[name] for values in feeds]) for name in given)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
        graph.initializer.extend(self._constants[name] for name in sorted(read & self._constants.keys()))
        model = onnx.ModelProto(ir_version=self._made.proto.ir_version, graph=graph)
        model.opset_import.extend(self._made.proto.opset_import)
        model.functions.extend(self._made.proto.functions)
        return model

    def _results(
        self, session: Any, asked: list[str], given: list[str], through: list[str], feeds: Sequence[Values]
    ) -> Iterator[Values]:
        for values in feeds:
            read = {name: values[name] for name in given}
            with self._named_errors():
                found = session.run_with_ort_values(asked, read)
            yield dict(zip(asked, found, strict=True)) | {name: self._value(name, values) for name in through}


def _described(name: str, values: Sequence[Any]) -> onnx.ValueInfoProto:
    """An input of the type that the values have; a side that they do not share is free."""
    shapes = [tuple(value.shape()) for value in values]
    if len({len(shape) for shape in shapes}) != 1:
        return helper.make_tensor_value_info(name, values[0].element_type(), None)
    sides = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)]
    return helper.make_tensor_value_info(name, values[0].element_type(), sides)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """What a node and its bodies read; no name within a body hides one of ours."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(node):
        for inside in body.node:
            _rename(inside, names)
        for value in body.output:
            value.name = names.get(value.name, value.name)
