"""Sparse initializers and sparse Constants, made dense when a model is opened: no room after that knows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgekern.errors import ArgumentValueError
from edgekern.graph.skeleton import Array, Skeleton
from edgekern.graph.subgraphs import bodies

# All of them together take so many bytes at most: a few bytes of a file could ask for any number.
_MOST_BYTES = 1 << 31
_LARGEST_ITEM = 8


def refuse_huge(proto: onnx.ModelProto, function: str) -> None:
    """Before anything is made.

    Raises
    ------
    ArgumentValueError
        When the sparse tensors of a model would take more than 2 GiB.
    """
    total = 0
    for name, tensor in _sparse_tensors(proto):
        size = math.prod(tensor.dims)
        total += size * _LARGEST_ITEM
        if total > _MOST_BYTES:
            raise ArgumentValueError(
                f"{function}: model has the sparse tensor {name!r} of {list(tensor.dims)}, and edgekern makes sparse "
                f"tensors dense: all of them may have {_MOST_BYTES // _LARGEST_ITEM} elements; split it, or compute "
                "it with Gather or ScatterND of what is not zero"
            )


def make_dense(model: Skeleton) -> None:
    """Put dense tensors in the place of sparse ones, in place; onnx's checker has read them."""
    graph = model.proto.graph
    made = {tensor.values.name: _dense(tensor) for tensor in graph.sparse_initializer}
    del graph.sparse_initializer[:]
    if made:  # before IR 4 initializers had to be inputs, too
        inputs = [value for value in graph.input if value.name not in made]
        del graph.input[:]
        graph.input.extend(inputs)
    for name, array in made.items():
        model.add_constant(array, name)
    for body in _graphs(model.proto):
        body.initializer.extend(numpy_helper.from_array(_dense(t), t.values.name) for t in body.sparse_initializer)
        del body.sparse_initializer[:]
    for attribute in _constants(model.proto):
        array = _dense(attribute.sparse_tensor)
        attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))


def _dense(tensor: onnx.SparseTensorProto) -> Array:
    values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:  # one row a value
        dense[tuple(indices.T)] = values
    return dense


def _sparse_tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.SparseTensorProto]]:
    for graph in _graphs(proto):
        yield from ((tensor.values.name, tensor) for tensor in graph.sparse_initializer)
    yield from (("value of a Constant", attribute.sparse_tensor) for attribute in _constants(proto))


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and all bodies, those in functions, too."""
    yield proto.graph
    waiting = [body for node in _outer_nodes(proto) for body in bodies(node)]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [body for node in graph.node for body in bodies(node)]


def _outer_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from proto.graph.node
    yield from (node for function in proto.functions for node in function.node)


def _constants(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """Attributes that hold a sparse tensor."""
    inner = (node for graph in _graphs(proto) for node in graph.node)
    functions = (node for function in proto.functions for node in function.node)
    for node in (*inner, *functions):
        yield from (attribute for attribute in node.attribute if attribute.HasField("sparse_tensor"))
