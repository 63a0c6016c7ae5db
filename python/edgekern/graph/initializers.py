"""Constants that are added to a graph, under names that it does not have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

FloatArray = npt.NDArray[np.floating]
_COUNTS = "edgekern.counts"


def new_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant under ``name``, or under ``name_1``, ``name_2``, ... where that is taken."""
    return _register(graph, name, ir.Tensor(np.asarray(array)))


def lazy_initializer(graph: ir.Graph, name: str, like: ir.Value, compute: Callable[[], FloatArray]) -> ir.Value:
    """Add a float32 constant of the shape of ``like`` that is computed each time that it is read, and never kept."""
    assert like.const_value is not None
    shape = ir.Shape(like.const_value.shape.numpy())
    return _register(graph, name, ir.LazyTensor(lambda: ir.tensor(compute()), ir.DataType.FLOAT, shape))


def _register(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    counts = graph.meta.setdefault(_COUNTS, {})  # where the search for a free name ended last
    taken, unique, count = graph.initializers, name, counts.get(name, 0)
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    counts[name] = count
    tensor.name = unique
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
