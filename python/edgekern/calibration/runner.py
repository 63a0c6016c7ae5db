"""The float model in onnxruntime: any of its tensors, in as many pieces as keep the memory within bounds.

Nothing is rewritten on the way (``ORT_DISABLE_ALL``): every node is computed as it is written, so that a tensor has the
same bits whichever others are asked for, and wherever the model is cut. Weights are fed, not stored in the session:
onnxruntime reads them where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgekern import _core
from edgekern._onnxruntime import open_session, ort_value
from edgekern.graph.exact_products import exact_products
from edgekern.graph.inference import infer_values
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.subgraphs import names_read

Array = npt.NDArray[Any]

# Tensors that are wanted of one piece take so many bytes at most, unless one alone takes more.
PIECE_BYTES = 64 << 20
_FLOAT_BYTES: dict[int, int] = {onnx.TensorProto.DOUBLE: 8}


@dataclass(frozen=True)
class Piece:
    """A run of nodes as a model of its own.

    Attributes
    ----------
    model : encoded
    reads, gives : names of its inputs and outputs
    wanted : those of ``gives`` that the caller asked for
    done : what no later piece reads
    """

    model: bytes
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    wanted: tuple[str, ...]
    done: tuple[str, ...]


class FloatRunner:
    """Runs a model for its tensors ``names``, none of them an input; ``function`` is for errors.

    Attributes
    ----------
    inputs : onnxruntime's description of what a caller feeds
    """

    def __init__(self, model: Skeleton, names: Sequence[str], *, function: str = "Calibrator") -> None:
        model = exact_products(model, function=function)
        self._model, self._names = model, tuple(names)
        values = {name: weight.array() for name, weight in model.weights.items()}
        self._weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in values.items()}
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model.proto)
        known = {value.name for value in (*tapped.graph.output, *tapped.graph.input)}
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        self._whole = _open(tapped.SerializeToString())
        self.inputs = [value for value in self._whole.get_inputs() if value.name not in self._weights]
        self._pieces: tuple[Piece, ...] = ()
        self._planned_bytes = -1

    def run(self, feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """The tensors of one batch, some at a time; each lives until the next are asked for."""
        if not self._names:
            return
        given = sum(array.nbytes for array in feeds.values())
        if given > self._planned_bytes:
            shapes = {name: array.shape for name, array in feeds.items()}
            self._pieces, self._planned_bytes = plan_pieces(self._model, self._names, shapes), given
        values = self._weights | {n: ort_value(a) for n, a in feeds.items()}
        # An array only views its OrtValue, which has to live as long.
        if len(self._pieces) == 1:
            made = self._whole.run_with_ort_values(self._names, values)
            yield _arrays(self._names, made)
            return
        for piece in self._pieces:
            session = _open(piece.model)
            made = session.run_with_ort_values(piece.gives, {name: values[name] for name in piece.reads})
            del session
            values |= dict(zip(piece.gives, made, strict=True))
            del made
            yield _arrays(piece.wanted, [values[name] for name in piece.wanted])
            for name in piece.done:
                del values[name]

    @property
    def model(self) -> Skeleton:
        """What runs."""
        return self._model

    @property
    def weights(self) -> Mapping[str, Any]:
        """Its large weights by name, as onnxruntime holds them."""
        return self._weights

    @property
    def num_pieces(self) -> int:
        """Of the last run."""
        return len(self._pieces)


def plan_pieces(model: Skeleton, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Piece, ...]:
    """Cut a model so that no piece gives more than :data:`PIECE_BYTES` of the tensors ``names``."""
    inferred = _with_shapes(model.proto, shapes)
    types = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)}
    sizes = _sizes(names, types)
    if sum(sizes.values()) <= PIECE_BYTES:
        return (Piece(b"", (), (), tuple(names), ()),)
    constants = [node for node in inferred.graph.node if _is_constant(node)]
    stored = {tensor.name for tensor in inferred.graph.initializer}
    everywhere = stored | {name for node in constants for name in node.output}
    nodes = [node for node in inferred.graph.node if not _is_constant(node)]
    last_read = {name: at for at, node in enumerate(nodes) for name in names_read(node)}
    borders = list(_cut(nodes, sizes, last_read, types, everywhere))
    outer = {value.name for value in inferred.graph.input}
    pieces = []
    for start, stop in pairwise(borders):
        inside = nodes[start:stop]
        made = dict.fromkeys(name for node in inside for name in node.output if name)
        read = dict.fromkeys(name for node in inside for name in names_read(node) if name not in made)
        reads = [name for name in read if name in types and name not in everywhere]
        wanted = [name for name in made if name in sizes]
        gives = [name for name in made if name in sizes or last_read.get(name, -1) >= stop]
        done = [name for name in (*reads, *gives) if last_read.get(name, -1) < stop and name not in outer]
        graph = onnx.GraphProto(name="piece")
        graph.node.extend([*(node for node in constants if set(node.output) & set(read)), *inside])
        graph.input.extend(_of_any_shape(types[name]) for name in reads)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in gives)
        graph.initializer.extend(tensor for tensor in inferred.graph.initializer if tensor.name in read)
        encoded = _around(inferred, graph).SerializeToString()
        if wanted or any(last_read.get(name, -1) >= stop for name in gives):
            pieces.append(Piece(encoded, tuple(reads), tuple(gives), tuple(wanted), tuple(dict.fromkeys(done))))
    return tuple(pieces)


def _cut(
    nodes: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    last_read: Mapping[str, int],
    types: Mapping[str, onnx.ValueInfoProto],
    everywhere: set[str],
) -> Iterator[int]:
    """Where pieces begin, 0 first, the number of nodes last. What crosses a border is a tensor of known type."""
    yield 0
    filled = 0
    live: dict[str, None] = {}
    for at, node in enumerate(nodes):
        cost = sum(sizes.get(name, 0) for name in node.output)
        live = {name: None for name in live if last_read.get(name, -1) >= at}
        if filled and filled + cost > PIECE_BYTES and all(_is_tensor(types.get(name)) for name in live):
            yield at
            filled = 0
        filled += cost
        live |= {name: None for name in node.output if name and name not in everywhere}
    yield len(nodes)


def _sizes(names: Iterable[str], types: Mapping[str, onnx.ValueInfoProto]) -> dict[str, int]:
    """Bytes of each tensor; where inference does not know, as many as the largest has."""
    sizes: dict[str, int] = {}
    unknown = []
    for name in names:
        kind = types[name].type.tensor_type if name in types else onnx.TypeProto.Tensor()
        sides = [side.dim_value for side in kind.shape.dim if side.HasField("dim_value")]
        if kind.HasField("shape") and len(sides) == len(kind.shape.dim):
            sizes[name] = math.prod(sides) * _FLOAT_BYTES.get(kind.elem_type, 4)
        else:
            unknown.append(name)
    largest = max(sizes.values(), default=0)
    return sizes | dict.fromkeys(unknown, largest)


def _with_shapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with the shapes of this batch, as far as ONNX's own inference carries them."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            for side in shapes[value.name]:
                value.type.tensor_type.shape.dim.add(dim_value=side)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return infer_values(fixed)


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain == ""


def _of_any_shape(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The same value without the shape of the batch that pieces were planned for: the next one may be smaller."""
    free = onnx.ValueInfoProto()
    free.CopyFrom(value)
    free.type.tensor_type.ClearField("shape")
    return free


def _is_tensor(value: onnx.ValueInfoProto | None) -> bool:
    return value is not None and value.type.HasField("tensor_type") and value.type.tensor_type.elem_type != 0


def _around(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model with another graph."""
    made = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    return made


def _open(model: bytes) -> Any:
    # An arena of onnxruntime's keeps, and grows by doubling.
    return open_session(model, num_threads=_core.num_threads(), as_written=True, keep_memory=False)


def _arrays(names: Sequence[str], values: Sequence[Any]) -> dict[str, Array]:
    """Views of OrtValues; copies in versions of onnxruntime that cannot lend. An optional that is not there is not."""
    return {
        name: np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value.numpy())
        for name, value in zip(names, values, strict=True)
        if value.has_value()
    }
