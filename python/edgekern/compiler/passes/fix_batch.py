"""Give the free first dimension of every input its size, so that all shapes are known."""

from __future__ import annotations

from edgekern.errors import CompileError
from edgekern.graph.skeleton import Skeleton


def fix_batch(model: Skeleton, batch: int) -> None:
    """Set free leading dimensions of the inputs to ``batch`` and forget shapes that were inferred before.

    Raises
    ------
    CompileError
        When another dimension is free, or a batch is asked for and no dimension is free.
    """
    fixed, graph = 0, model.proto.graph
    for value in model.inputs:
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            if side.HasField("dim_value") and side.dim_value > 0:
                continue
            if axis != 0:
                raise CompileError(
                    f"compile: input '{value.name}' has a free dimension {axis} ({side.dim_param or 'unnamed'}); "
                    "only the first may be free, export the model with a fixed size"
                )
            side.Clear()
            side.dim_value = batch
            fixed += 1
    if fixed == 0 and batch != 1:
        sizes = [[side.dim_value for side in value.type.tensor_type.shape.dim] for value in model.inputs]
        raise CompileError(
            f"compile: batch is {batch}, but the inputs have fixed shapes {sizes}; export the model with a free first "
            "dimension, or leave batch out"
        )
    del graph.value_info[:]
    inputs = {value.name: value for value in graph.input}
    for value in graph.output:
        if value.name in inputs:
            value.CopyFrom(inputs[value.name])
        else:
            value.type.tensor_type.ClearField("shape")
