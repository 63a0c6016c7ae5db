"""Models in float16 and bfloat16: computed in float32, with Casts where halves come in and go out.

Every half is a float32, so weights and inputs keep their values. Results are not rounded to halves from node to node: a
Cast to halves rounds, and nothing else does. What a caller gives and gets has the type that the model says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from edgekern.graph.cast_like import value_types
from edgekern.graph.skeleton import LARGE, Reader, Skeleton, Weight, as_input
from edgekern.graph.subgraphs import bodies, with_inner

FloatArray = npt.NDArray[np.float32]

FLOAT = onnx.TensorProto.FLOAT
HALVES: dict[int, str] = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
HALVES_KEY = "edgekern.halves"  # of a model's metadata: the types of its halves before they were widened
# Integers that name a type, of operators that are no Cast.
_TYPES = frozenset({"dtype", "output_dtype", "stash_type", "softmax_precision", "precision"})


def widen_halves(model: Skeleton) -> Skeleton:
    """The model in float32, where it holds halves; it may be changed.

    Half inputs and outputs, and what a Cast rounds to halves, keep their names and types; ``name_float32`` is what
    nodes read and make of them.
    """
    kinds = sorted({HALVES[kind] for kind in _kinds(model) if kind in HALVES})
    if not kinds:
        return model
    proto = model.proto
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    model = _Widening(Skeleton(proto, dict(model.weights))).done()
    if all(entry.key != HALVES_KEY for entry in proto.metadata_props):
        proto.metadata_props.add(key=HALVES_KEY, value=",".join(kinds))
    return model


def stored_halves(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The types of halves that a model held before :func:`widen_halves`."""
    found = next((entry.value for entry in proto.metadata_props if entry.key == HALVES_KEY), "")
    return tuple(name for name in HALVES.values() if name in found.split(","))


def widened(content: Any, kind: int) -> FloatArray:
    """The bytes of halves as float32."""
    if kind == onnx.TensorProto.FLOAT16:
        return np.frombuffer(content, "<f2").astype(np.float32)
    return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)


def _kinds(model: Skeleton) -> Iterator[int]:
    """All types that a model speaks of."""
    yield from (weight.header.data_type for weight in model.weights.values())
    graphs = [model.proto.graph]
    for owner in (model.proto.graph, *model.proto.functions):
        for node in with_inner(owner.node):
            graphs += bodies(node)
            for attribute in node.attribute:
                yield from (tensor.data_type for tensor in (attribute.t, *attribute.tensors))
                if attribute.name == "to" or attribute.name in _TYPES:
                    yield attribute.i
    for graph in graphs:
        yield from (tensor.data_type for tensor in graph.initializer)
        yield from (_element(value.type).elem_type for value in (*graph.input, *graph.output))


def _element(kind: onnx.TypeProto) -> Any:
    """The tensor type in a type."""
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, name).elem_type
    return kind.tensor_type


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in HALVES


def cast_to(node: onnx.NodeProto) -> int:
    """The type that a Cast gives; 0 of any other node."""
    is_cast = node.op_type == "Cast" and node.domain in ("", "ai.onnx")
    return next((a.i for a in node.attribute if a.name == "to"), 0) if is_cast else 0


class _Widening:
    """One model on its way."""

    def __init__(self, model: Skeleton) -> None:
        self._model, self._graph = model, model.proto.graph
        nodes = list(with_inner(self._graph.node))
        self._names = {name for node in nodes for name in (*node.input, *node.output)}
        self._names.update(value.name for value in (*self._graph.input, *self._graph.output))
        self._names.update(model.weights)
        self._types = value_types(model)
        # What is read as a half by a Cast to float32 alone needs no second one.
        self._read = {name for node in nodes if cast_to(node) != FLOAT for name in node.input}
        self._read |= {value.name for node in nodes for body in bodies(node) for value in body.output}
        self._rounded = {node.output[0] for node in nodes if cast_to(node) in HALVES}

    def done(self) -> Skeleton:
        graph = self._graph
        renamed: dict[str, str] = {}  # what other nodes make, in place of what the caller gets
        given = {value.name for value in graph.input if value.name not in self._model.weights}
        casts = []
        for value in graph.output:
            kind = self._types.get(value.name, 0)
            if kind in HALVES and value.name not in self._rounded | given:
                renamed[value.name] = self._new_name(value.name)
                casts.append(helper.make_node("Cast", [renamed[value.name]], [value.name], to=kind))
        self._widen_constants(renamed)
        nodes, names = [], dict(renamed)
        for value in graph.input:
            if value.name in given and _is_half(value) and value.name in self._read:
                names[value.name] = self._new_name(value.name)
                nodes.append(helper.make_node("Cast", [value.name], [names[value.name]], to=FLOAT))
        kept = [value for value in graph.value_info if not _is_half(value)]
        del graph.value_info[:]
        graph.value_info.extend(kept)
        nodes += self._widened_nodes(graph.node, names)
        del graph.node[:]
        graph.node.extend([*nodes, *casts])
        return self._model

    def _new_name(self, name: str) -> str:
        name = f"{name}_float32"
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _widened_nodes(self, nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> Iterator[onnx.NodeProto]:
        """The nodes of one graph. ``names``: what stands for halves, and for names that have gone; it grows."""
        for node in nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            if (kind := cast_to(node)) not in HALVES:
                self._widen_attributes(node, names)
            yield node
            if kind in HALVES and node.output[0] in self._read:
                names[node.output[0]] = self._new_name(node.output[0])
                yield helper.make_node("Cast", [node.output[0]], [names[node.output[0]]], to=FLOAT)

    def _widen_attributes(self, node: onnx.NodeProto, names: dict[str, str]) -> None:
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.data_type in HALVES:
                    tensor.CopyFrom(_widened_tensor(tensor))
            if attribute.name in _TYPES and attribute.i in HALVES:
                attribute.i = FLOAT
            if attribute.HasField("tp"):
                _widen_type(attribute.tp)
        for body in bodies(node):
            inner = dict(names)  # what a body names is its own
            for tensor in body.initializer:
                if tensor.data_type in HALVES:
                    tensor.CopyFrom(_widened_tensor(tensor))
            for value in (*body.input, *body.output, *body.value_info):
                _widen_type(value.type)
            inside = list(self._widened_nodes(body.node, inner))
            del body.node[:]
            body.node.extend(inside)
            for value in body.output:
                value.name = inner.get(value.name, value.name)

    def _widen_constants(self, names: dict[str, str]) -> None:
        """Initializers and large weights, some under new names."""
        graph, weights = self._graph, self._model.weights
        inputs = [value for value in graph.input if value.name not in weights]
        kept = []
        for place, source in enumerate(list(self._model.initializers())):
            name = names.get(source.name, source.name)
            if isinstance(source, Weight):
                weights[name] = _renamed(weights.pop(source.name), name)
            elif source.data_type not in HALVES:
                source.name = name
                kept.append(source)
            elif 2 * len(content := numpy_helper.to_array(source).tobytes()) < LARGE:
                kept.append(_widened_tensor(source))
                kept[-1].name = name
            else:
                header = onnx.TensorProto(name=name, data_type=source.data_type, dims=source.dims)
                weights[name] = _renamed(Weight(header, place, _slices(content)), name)
        del graph.initializer[:]
        graph.initializer.extend(kept)
        del graph.input[:]
        graph.input.extend([*inputs, *(as_input(weight.header) for weight in weights.values())])


def _slices(content: bytes) -> Reader:
    return lambda start, stop: memoryview(content)[start:stop]


def _widen_type(kind: onnx.TypeProto) -> None:
    tensor = _element(kind)
    if tensor.elem_type in HALVES:
        tensor.elem_type = FLOAT


def _widened_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _renamed(weight: Weight, name: str) -> Weight:
    """A weight of another name, in float32 where it holds halves."""
    header, kind = onnx.TensorProto(), weight.header.data_type
    header.CopyFrom(weight.header)
    header.name = name
    if kind not in HALVES:
        return replace(weight, header=header)
    header.data_type = FLOAT

    def read(start: int, stop: int) -> memoryview:
        first = start // 4
        content = widened(weight.read(2 * first, 2 * -(-stop // 4)), kind)
        return content.view(np.uint8).data[start - 4 * first : stop - 4 * first]

    return Weight(header, weight.place, read, weight.in_pieces)
