"""What reads a tensor, as small models of their own: what a rounded tensor costs is seen at their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgekern import _core
from edgekern._onnxruntime import open_session, ort_value
from edgekern.graph.families import PRODUCTS, SAME_VALUES
from edgekern.graph.subgraphs import bodies

if TYPE_CHECKING:
    from edgekern.graph.skeleton import Skeleton

Array = npt.NDArray[Any]

_MANY = 1 << 18  # values; for fewer, threads cost more to start than they save


class Constants:
    """The constants of a model: its large weights as onnxruntime holds them, its small ones, its Constant nodes."""

    def __init__(self, model: Skeleton, large: Mapping[str, Any]) -> None:
        graph = model.proto.graph
        self.large = large
        self.small = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = {name: node for node in graph.node if node.op_type == "Constant" for name in node.output}
        self._types = {value.name: value for value in graph.input}
        self._around = onnx.ModelProto(ir_version=model.proto.ir_version)
        self._around.opset_import.extend(model.proto.opset_import)

    def __contains__(self, name: str) -> bool:
        return name in self.small or name in self.large or name in self.nodes

    def run_of(self, reader: Reader, arrays: Mapping[str, Array]) -> Callable[[Array], Array]:
        """What gives a reader's output for a form of its tensor, beside ``arrays``; it holds a megabyte."""
        session = self._open(reader, arrays)
        names = [value.name for value in session.get_inputs()]
        values = {name: self.large[name] if name in self.large else ort_value(arrays[name]) for name in names}

        def run(x: Array) -> Array:
            made: Array = session.run_with_ort_values([reader.output], values | {reader.tensor: ort_value(x)})[
                0
            ].numpy()
            return made

        return run

    def _open(self, reader: Reader, arrays: Mapping[str, Array]) -> Any:
        model = onnx.ModelProto()
        model.CopyFrom(self._around)
        graph = model.graph
        graph.name = "reader"
        inside = {name for node in reader.nodes for name in node.output}
        for name in dict.fromkeys(name for node in reader.nodes for name in node.input):
            if name in self.nodes:
                graph.node.append(self.nodes[name])
            elif name in self.small:
                graph.initializer.append(self.small[name])
            elif name in self.large:
                graph.input.append(self._types[name])
            elif name and name not in inside:
                kind = helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, None))
        graph.node.extend(reader.nodes)
        graph.output.append(onnx.ValueInfoProto(name=reader.output))
        threads = _core.num_threads() if arrays[reader.tensor].size >= _MANY else 1
        return open_session(model.SerializeToString(), num_threads=threads, as_written=True, keep_memory=False)


@dataclass(eq=False)
class Reader:
    """What reads a tensor: a node, behind nodes that only move its values.

    Attributes
    ----------
    tensor : name of what is read
    nodes : in order; the first output of the last is what they are for
    others : activations that are read beside the tensor
    """

    tensor: str
    nodes: tuple[onnx.NodeProto, ...]
    others: tuple[str, ...]

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])


def readers_of(model: Skeleton, constants: Constants, known: Iterable[str]) -> dict[str, list[Reader]]:
    """For each tensor in ``known`` that is no constant's, what reads it and can be run by itself.

    All else that a reader reads is constant or in ``known``, and so is what it makes.
    """
    activations = set(known)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    fixed: set[str] = set()  # follows from constants alone
    for node in model.proto.graph.node:
        if node.input and all(not name or name in constants or name in fixed for name in node.input):
            fixed.update(node.output)
        for name in dict.fromkeys(node.input):
            consumers.setdefault(name, []).append(node)

    def follow(tensor: str, at: str, before: tuple[onnx.NodeProto, ...]) -> Iterator[Reader]:
        for node in consumers.get(at, ()):
            others = [name for name in node.input if name and name != at and name not in constants]
            made = node.output[0]
            if next(bodies(node), None) is not None or not activations.issuperset([*others, made]):
                continue
            chain, after = (*before, node), consumers.get(made, [])
            if node.op_type in SAME_VALUES and not others:  # what reads those reads the tensor
                yield from follow(tensor, made, chain)
                continue
            if node.op_type in PRODUCTS and len(after) == 1 and after[0].op_type == "BatchNormalization":
                chain = (*chain, after[0])  # a channel's noise counts as that makes of it
            yield Reader(tensor, chain, tuple(dict.fromkeys(others)))

    found = {name: list(follow(name, name, ())) for name in activations - fixed}
    return {name: readers for name, readers in found.items() if readers}


def rounded(x: Array, lo: float, hi: float, num_bits: int) -> Array:
    """An array as 2**num_bits levels over a range give it back."""
    last = 2**num_bits - 1
    scale = x.dtype.type((hi - lo) / last) or x.dtype.type(1)
    zero_point = round(-lo / float(scale))
    codes: Array = np.divide(x, scale, out=np.empty_like(x))
    np.rint(codes, out=codes)
    np.clip(codes, -zero_point, last - zero_point, out=codes)
    np.multiply(codes, scale, out=codes)
    return codes
