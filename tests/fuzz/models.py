"""Damaged ONNX models for ``readers.py``: graphs that still parse, with one thing or a few in them changed.

Only edgekern's errors may come out of ``compile``, ``quantize`` and a run.
"""

import contextlib
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 64, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1]
_FEW_BYTES = 1 << 26


def seeds(folder: Path) -> list[Path]:
    """QDQ models of every kind, and some float ones."""
    sys.path.insert(0, str(Path(__file__).parent.parent))  # as for pytest
    from test_float_nets import transformer

    from float_models import small_cnn
    from qdq_models import MODELS

    made = {f"qdq{at}": build() for at, build in enumerate(MODELS.values())}
    made |= {
        "cnn": small_cnn(),
        "old": small_cnn(opset=9),
        "transformer": transformer(),
        "plain": transformer(mask=False),
    }
    paths = []
    for name, model in made.items():
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    return paths


def damage_model(content: bytes, rng: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_DAMAGES)(model.graph, rng)
    return model.SerializeToString()


def attempt(path: Path) -> object:
    """Compile it, and where it is small run it on zeros; quantize it."""
    import edgekern as ek
    from edgekern.calibration import Ranges, TensorRange, model_hash
    from edgekern.errors import EdgekernError
    from edgekern.graph.model import open_model

    opened = open_model(path, function="fuzz").proto
    names = {name for node in opened.graph.node for name in (*node.input, *node.output)}
    with contextlib.suppress(EdgekernError):
        ek.quantize(path, Ranges(dict.fromkeys(names, TensorRange(-1.0, 1.0)), model_hash(path), "max"))
    program = ek.compile(path)
    if program.index.arena_bytes > _FEW_BYTES:
        return None
    session = ek.InferenceSession(program, num_threads=1)
    feeds = {info.name: np.zeros(info.shape, info.dtype) for info in program.inputs}
    try:
        return session.run(None, feeds)
    except EdgekernError:
        return None


# --- damages: each changes a graph in place


def _any(items: Any, rng: random.Random) -> Any:
    return rng.choice(list(items)) if len(items) else None


def _names(graph: onnx.GraphProto) -> list[str]:
    made = [name for node in graph.node for name in node.output]
    return [*made, *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer), "", "ghost"]


def _rewire(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = _any(graph.node, rng)
    if node is not None and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(graph))


def _rename_result(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = _any(graph.node, rng)
    if node is not None:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(graph))


def _drop(graph: onnx.GraphProto, rng: random.Random) -> None:
    part = rng.choice((graph.node, graph.initializer, graph.input, graph.output, graph.value_info))
    if part:
        del part[rng.randrange(len(part))]


def _repeat(graph: onnx.GraphProto, rng: random.Random) -> None:
    part = rng.choice((graph.node, graph.initializer, graph.input, graph.output))
    if part:
        part.add().CopyFrom(rng.choice(list(part)))


def _swap(graph: onnx.GraphProto, rng: random.Random) -> None:
    if len(graph.node) > 1:
        one, other = rng.sample(range(len(graph.node)), 2)
        kept = onnx.NodeProto()
        kept.CopyFrom(graph.node[one])
        graph.node[one].CopyFrom(graph.node[other])
        graph.node[other].CopyFrom(kept)


def _other_operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    node, other = _any(graph.node, rng), _any(graph.node, rng)
    if node is not None:
        kinds = ("Reshape", "Transpose", "Expand", "Concat", "Gather", "Conv", "MatMul", "Softmax", "Tile", "Cast")
        node.op_type = rng.choice((other.op_type, *kinds))


def _operands(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = _any(graph.node, rng)
    if node is not None and node.input and rng.random() < 0.5:
        del node.input[-1]
    elif node is not None:
        node.input.append(rng.choice(_names(graph)))


def _attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    held = [attribute for node in graph.node for attribute in node.attribute]
    attribute = _any(held, rng)
    if attribute is None:
        return
    if attribute.ints and rng.random() < 0.8:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    elif attribute.ints:
        attribute.ints.append(rng.choice(NUMBERS))
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice((b"", b"SAME_UPPER", b"wrap", b"linear", b"\xff"))
    else:
        attribute.name = "axis"


def _size(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = _any([*graph.input, *graph.output, *graph.value_info], rng)
    if value is not None and value.type.tensor_type.shape.dim:
        side = rng.choice(list(value.type.tensor_type.shape.dim))
        side.dim_value = rng.choice(NUMBERS)


def _type(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = _any([*graph.input, *graph.output, *graph.value_info], rng)
    if value is not None:
        value.type.tensor_type.elem_type = rng.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 99))


def _constant(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = _any(graph.initializer, rng)
    if tensor is None:
        return
    what = rng.randrange(4)
    if what == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        return
    if what == 1:
        tensor.data_type = rng.choice((1, 2, 3, 6, 7, 9, 10, 11, 16, TensorProto.STRING))
        return
    try:
        array = numpy_helper.to_array(tensor).reshape(-1).copy()
    except (ValueError, TypeError):  # damaged before
        return
    if array.size and array.dtype.kind in "iuf":
        numbers = (0.0, -1.0, np.nan, np.inf, 1e30) if array.dtype.kind == "f" else (0, 1, -1, 2, 2**16, 2**40)
        with np.errstate(over="ignore"):
            array[rng.randrange(array.size)] = np.asarray(rng.choice(numbers)).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name))


_DAMAGES = (
    *(_rewire, _rename_result, _drop, _repeat, _swap, _other_operator, _operands, _attribute, _attribute, _attribute),
    *(_size, _type, _constant, _constant, _constant),
)
