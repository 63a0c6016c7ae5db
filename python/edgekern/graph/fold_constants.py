"""Compute once what does not depend on the inputs: constants, shapes, weights that are moved or cast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekern.errors import CompileError
from edgekern.graph.counted import Types, known_types
from edgekern.graph.evaluate import Piece, evaluate
from edgekern.graph.families import RANDOM, SHAPED_BY_VALUES
from edgekern.graph.halves import cast_to
from edgekern.graph.infer_shapes import ShapeInference
from edgekern.graph.inference import infer_values
from edgekern.graph.skeleton import NUMPY_TYPES, Skeleton, Weight
from edgekern.graph.subgraphs import bodies, inline_constant_ifs, leading_to, names_read, with_inner

Array = npt.NDArray[Any]

# Random results are no constants, and a Dropout may be one; a dequantized weight stays what it is, so that later passes
# see its int8.
_KEPT = RANDOM | {"Dropout", "DequantizeLinear"}
# Operators that onnxruntime has; what others compute is not known here.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# What nodes may make of constants: no message holds a larger one, and all that grows is held at one time.
_MOST_BYTES = 2**31 - 1
_MOST_GROWN_BYTES = 2**32
# A result of so many bytes that few nodes lead to is computed whenever it is read, and never kept.
_LAZY_BYTES = 1 << 20
_FEW = 8


def folded(model: Skeleton, *, function: str) -> Skeleton:
    """A copy with its constants folded but for what is made of shapes: it runs on inputs of any size that it ran on.

    Types and shapes are inferred anew, and taken from the model where inference knows nothing.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    copy = Skeleton(proto, dict(model.weights))
    fold_constants(copy, shapes=False, function=function)
    graph = proto.graph
    known = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    made = {name for node in graph.node for name in node.output} - known
    graph.value_info.extend(value for value in model.proto.graph.value_info if value.name in made)
    return copy


def fold_constants(model: Skeleton, *, shapes: bool = True, function: str = "compile") -> None:
    """Infer shapes and replace constant nodes by initializers, in place, until nothing changes.

    What onnxruntime cannot compute stays as it is.

    Parameters
    ----------
    shapes : whether inferred shapes are constants, and an If that is decided becomes the body that runs
    function : for errors
    """
    inference = ShapeInference(function)
    while True:
        if shapes:
            inference.infer(model)
        else:
            model.proto.graph.CopyFrom(infer_values(model.proto).graph)
        changed = _fold_once(model, shapes, function)
        if shapes and inline_constant_ifs(model):  # else the tensors in them have no ranges
            changed = True
        if not changed:
            return


def _fold_once(model: Skeleton, fold_shapes: bool, function: str) -> bool:
    graph = model.proto.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    functions = _steady_functions(model.proto)
    sizes = known_types([*graph.input, *graph.value_info, *graph.output])
    types = sizes if fold_shapes else {}
    constant: list[onnx.NodeProto] = []
    arrays: dict[str, Array] = {}
    names = {*known, *model.weights}
    for node in graph.node:
        value = _plain_value(node, types) if node.domain == "" else None
        value = _as_bfloat16(model, node, known) if value is None else value
        if value is not None:
            arrays[node.output[0]] = value
        elif (
            node.op_type not in _KEPT
            and cast_to(node) != onnx.TensorProto.BFLOAT16
            and (node.domain in _DOMAINS or (node.domain, node.op_type) in functions)
            and not any(bodies(node))
            and all(name in names for name in node.input if name)
            and not _waits(node, sizes, known)
        ):
            constant.append(node)
        else:
            continue
        names.update(node.output)
    if not constant and not arrays:
        return False
    _refuse_growth(constant, {**sizes, **_stored_types(known)}, function)
    made = {name for node in constant for name in node.output} | set(arrays)
    read = {name for node in graph.node if not set(node.output) <= made for name in names_read(node)}
    read.update(value.name for value in graph.output)
    inner = {name for node in constant for name in node.input}
    known |= {name: numpy_helper.from_array(array, name) for name, array in arrays.items() if name in inner}
    lazy = _lazy_weights(model, constant, known, read, function)
    wanted = sorted(name for name in made & read if name and name not in arrays and name not in lazy)
    computed = _computed(model, constant, known, wanted, needed=fold_shapes, function=function)
    found = {*arrays, *computed, *lazy}
    kept = _unfolded(graph, made, found)
    if not found and len(kept) == len(graph.node):
        return False
    del graph.node[:]
    graph.node.extend(kept)
    inferred = [value for value in graph.value_info if value.name not in found]  # of a constant, its array says it
    del graph.value_info[:]
    graph.value_info.extend(inferred)
    for name, array in (*arrays.items(), *computed.items()):
        model.add_constant(np.asarray(array), name)
    for weight in lazy.values():
        model.add_weight(weight)
    return True


def _waits(node: onnx.NodeProto, sizes: Types, known: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether nobody can tell the size of its results before what it reads has been computed."""
    if node.domain != "" or all(name in sizes for name in node.output if name):
        return False
    return any(at < len(node.input) and node.input[at] not in known for at in SHAPED_BY_VALUES.get(node.op_type, ()))


def _stored_types(known: Mapping[str, onnx.TensorProto]) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {name: (tensor.data_type, tuple(tensor.dims)) for name, tensor in known.items()}


def _refuse_growth(nodes: Sequence[onnx.NodeProto], sizes: Types, function: str) -> None:
    """A few bytes of a file can ask for more memory than there is."""

    def nbytes(name: str) -> int:
        kind, shape = sizes.get(name, (0, (0,)))
        return math.prod(shape) * (np.dtype(NUMPY_TYPES[kind]).itemsize if kind in NUMPY_TYPES else 64)

    grown = 0
    for node in nodes:
        for name in node.output:
            size = nbytes(name)
            grown += max(size - sum(map(nbytes, node.input)), 0)
            if size > _MOST_BYTES or grown > _MOST_GROWN_BYTES:
                shape = list(sizes[name][1])
                raise CompileError(
                    f"{function}: {node.op_type} '{node.name or name}' makes a constant of the shape {shape}, {size} "
                    f"bytes; one may have {_MOST_BYTES}, and all that grow {_MOST_GROWN_BYTES}: make it at run time of "
                    "an input, or smaller"
                )


def _steady_functions(proto: onnx.ModelProto) -> set[tuple[str, str]]:
    """Domains and names of the functions in which nothing is drawn, nor in those that they call."""
    random: set[tuple[str, str]] = set()
    while True:
        found = {
            (function.domain, function.name)
            for function in proto.functions
            if any(
                node.op_type in RANDOM or (node.domain, node.op_type) in random for node in with_inner(function.node)
            )
        }
        if found <= random:
            return {(function.domain, function.name) for function in proto.functions} - random
        random |= found


def _unfolded(graph: onnx.GraphProto, constant: set[str], found: set[str]) -> list[onnx.NodeProto]:
    """The nodes that stay: those that make more than constants, or a constant that is not ``found`` and is read.

    Beside that one, it may make others that are found: their names belong to the initializers now.
    """
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if set(node.output) <= constant:
            if read.isdisjoint(set(node.output) - found - {""}):
                continue
            node.output[:] = [f"{name}.edgekern.unread" if name in found else name for name in node.output]
        kept.append(node)
        read |= names_read(node)
    return kept[::-1]


def _computed(
    model: Skeleton,
    nodes: Sequence[onnx.NodeProto],
    known: Mapping[str, onnx.TensorProto],
    wanted: Sequence[str],
    *,
    needed: bool,
    function: str,
) -> dict[str, Array]:
    """Those results of nodes that onnxruntime can give: where they are ``needed``, its failing is an error."""
    if not wanted:
        return {}
    try:
        return dict(zip(wanted, evaluate(model, nodes, known, wanted, function=function), strict=True))
    except CompileError as error:
        if len(wanted) == 1:
            if needed and type(error.__cause__).__name__ == "Fail":
                raise
            return {}
    computed: dict[str, Array] = {}
    for half in (wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]):
        computed |= _computed(model, leading_to(half, nodes), known, half, needed=needed, function=function)
    return computed


def _lazy_weights(
    model: Skeleton,
    nodes: Sequence[onnx.NodeProto],
    known: Mapping[str, onnx.TensorProto],
    read: set[str],
    function: str,
) -> dict[str, Weight]:
    """Large results that few nodes lead to: weights behind a Transpose, mostly."""
    makers = {name: node for node in nodes for name in node.output}
    place = {id(node): at for at, node in enumerate(nodes)}
    found = {}
    for value in model.proto.graph.value_info:
        kind = value.type.tensor_type
        sides = [side.dim_value for side in kind.shape.dim if side.dim_value > 0]
        if value.name not in makers or value.name not in read or kind.elem_type not in NUMPY_TYPES:
            continue
        if not kind.HasField("shape") or len(sides) != len(kind.shape.dim):
            continue
        header = helper.make_tensor(value.name, kind.elem_type, [0], b"", raw=True)
        header.ClearField("raw_data")
        header.dims[:] = sides
        if math.prod(sides) * np.dtype(NUMPY_TYPES[kind.elem_type]).itemsize < _LAZY_BYTES:
            continue
        chain: dict[int, onnx.NodeProto] = {}
        waiting = [value.name]
        while waiting and len(chain) <= _FEW:
            node = makers.get(waiting.pop())
            if node is not None and id(node) not in chain:
                chain[id(node)] = node
                waiting += node.input
        if len(chain) <= _FEW:
            leading = sorted(chain.values(), key=lambda node: place[id(node)])
            try:
                found[value.name] = _lazy_weight(model, leading, known, header, function)
            except CompileError:  # of this type onnxruntime does not know it
                continue
    return found


def _lazy_weight(
    model: Skeleton,
    nodes: Sequence[onnx.NodeProto],
    known: Mapping[str, onnx.TensorProto],
    header: onnx.TensorProto,
    function: str,
) -> Weight:
    """A weight that is computed each time that it is read; CompileError where onnxruntime does not take its nodes."""
    whole = onnx.ModelProto(ir_version=model.proto.ir_version)
    whole.opset_import.extend(model.proto.opset_import)
    whole.functions.extend(model.proto.functions)
    read = {name for node in nodes for name in node.input}
    source = Skeleton(whole, {name: model.weights[name] for name in read if name in model.weights})
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    constants = {name: known[name] for name in read if name in known}
    Piece(source, copies, constants, [header.name], {}, function=function)  # fails here, if at all

    def read_part(start: int, stop: int) -> memoryview:
        [array] = evaluate(source, copies, constants, [header.name], function=function)
        content = np.ascontiguousarray(array.reshape(tuple(header.dims)))
        return content.reshape(-1).view(np.uint8).data[start:stop]

    return Weight(header, 1 << 62, read_part, in_pieces=False)


def _as_bfloat16(model: Skeleton, node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> Array | None:
    """A float32 constant that a Cast rounds to bfloat16, which onnxruntime's Python has no arrays of."""
    if cast_to(node) != onnx.TensorProto.BFLOAT16:
        return None
    name = node.input[0]
    array = model.weights[name].array() if name in model.weights else None
    if array is None and name in known:
        array = numpy_helper.to_array(known[name])
    if array is None or array.dtype != np.float32:
        return None
    with np.errstate(over="ignore"):
        return array.astype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))


def _plain_value(node: onnx.NodeProto, types: Types) -> Array | None:
    """What a Constant holds, or what Shape, Size and EyeLike give of a known shape."""
    if node.op_type == "Constant":
        [held] = node.attribute
        return numpy_helper.to_array(held.t) if held.name == "value" and held.t.data_type in NUMPY_TYPES else None
    if node.op_type not in ("Shape", "Size", "EyeLike") or node.input[0] not in types:
        return None
    kind, shape = types[node.input[0]]
    if node.op_type == "EyeLike":
        given = {attribute.name: attribute.i for attribute in node.attribute}
        kind = given.get("dtype", kind)
        known = len(shape) == 2 and kind in NUMPY_TYPES and math.prod(shape) * 8 <= _MOST_BYTES
        return np.eye(shape[0], shape[1], given.get("k", 0), NUMPY_TYPES[kind]) if known else None
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)
