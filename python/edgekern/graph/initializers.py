"""Constants that are added to a graph, under names that it does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import bodies

FloatArray = npt.NDArray[np.floating]
_NAMES = "edgekern.names"


def new_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant under ``name``, or under ``name_1``, ``name_2``, ... where that is taken."""
    return _register(graph, name, ir.Tensor(np.asarray(array)))


def lazy_initializer(graph: ir.Graph, name: str, like: ir.Value, compute: Callable[[], FloatArray]) -> ir.Value:
    """Add a float32 constant of the shape of ``like`` that is computed each time that it is read, and never kept."""
    assert like.const_value is not None
    shape = ir.Shape(like.const_value.shape.numpy())
    return _register(graph, name, ir.LazyTensor(lambda: ir.tensor(compute()), ir.DataType.FLOAT, shape))


def free_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name_1``, ``name_2``, ... where it is taken; nothing else is called so from now on.

    A name is one of the graph or of a body in it, where it would hide what is outside; of a tensor or of a node.
    """
    if _NAMES not in graph.meta:
        graph.meta[_NAMES] = dict.fromkeys(_names(graph), 0)
    counts: dict[str, int] = graph.meta[_NAMES]  # where the search behind each of them ended last
    unique = name
    while unique in counts:
        counts[name] += 1
        unique = f"{name}_{counts[name]}"
    counts[unique] = 0
    return unique


def _names(graph: ir.Graph) -> Iterator[str]:
    yield from (str(value.name) for value in _given(graph))
    for node in graph.all_nodes():
        yield str(node.name)
        for value in (*node.outputs, *(value for body in bodies(node) for value in _given(body))):
            yield str(value.name)


def _given(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()


def _register(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    unique = tensor.name = free_name(graph, name)
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
