"""Give the free first dimension of every input its size, so that all shapes are known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from edgekern.errors import CompileError
from edgekern.graph.dimensions import forget_inferred, sides_of
from edgekern.graph.skeleton import Skeleton

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes

_CACHE = re.compile("past|cache", re.IGNORECASE)  # as exporters call what a decoder keeps


def fix_batch(model: Skeleton, batch: int, shapes: Shapes | None) -> None:
    """Set free leading dimensions of the inputs to ``batch``, wherever their names stand, and forget inferred shapes.

    Parameters
    ----------
    shapes : what the caller has fixed already

    Raises
    ------
    CompileError
        When another dimension is free, an input has no shape or is no tensor, or a batch is asked for and no dimension
        is free.
    """
    first, names = [], set()
    for value in model.inputs:
        sides = _shape(value).dim
        if sides and not sides[0].dim_value:
            first.append(sides[0])
            names.add(sides[0].dim_param)
    sizes = [[side.dim_value for side in value.type.tensor_type.shape.dim] for value in model.inputs]
    if batch != 1 and all(map(all, sizes)):
        free = "leave a first dimension out of shapes" if shapes else "export the model with a free first dimension"
        raise CompileError(
            f"compile: batch is {batch}, but the inputs have fixed shapes {sizes}{' with shapes' if shapes else ''}; "
            f"{free}, or leave batch out"
        )
    for side in first:
        side.dim_value = batch
    for value in model.inputs:
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            if side.dim_param and side.dim_param in names:
                side.dim_value = batch
            elif not side.dim_value:
                raise CompileError(_free(value, axis) + _of_decoder(model))
    forget_inferred(model.proto)


def _shape(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        raise CompileError(f"compile: input '{value.name}' is a {kind}; a program takes tensors")
    if not value.type.tensor_type.HasField("shape"):
        raise CompileError(
            f"compile: input '{value.name}' has no shape in the model; give it one: shapes={{'{value.name}': (1, ...)}}"
        )
    return value.type.tensor_type.shape


def _of_decoder(model: Skeleton) -> str:
    """What to say of a model that is one step of a decoder, whose cache comes in and goes out."""
    kept = next((value.name for value in model.inputs if _CACHE.search(value.name)), None)
    if kept is None:
        return ""
    return (
        f". '{kept}' looks like a decoder's cache, which grows from run to run: with a size for every length this is a "
        "program for that one step; to generate text, give its checkpoint to edgekern.llm.load"
    )


def _free(value: onnx.ValueInfoProto, axis: int) -> str:
    sides = sides_of(value)
    whole = ", ".join("..." if not side.isdigit() else side for side in sides)
    name = value.type.tensor_type.shape.dim[axis].dim_param
    by_name = f"shapes={{'{name}': ...}} or " if name else ""
    option = f"--shape {name or value.name}=" + ("..." if name else whole.replace(" ", ""))
    return (
        f"compile: input '{value.name}' has a free dimension {axis} ({name or 'unnamed'}), and batch fills the first "
        f"alone; give it a size: {by_name}shapes={{'{value.name}': ({whole})}} ({option}); see docs/operators.md, Free "
        "dimensions"
    )
