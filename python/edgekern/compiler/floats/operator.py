"""What an operator's file says of its kernels on floats."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from edgekern.compiler.lowering import DTYPES, Lowering
from edgekern.compiler.steps import Tensor
from edgekern.graph.values import known_shape, shape_of

FLOAT = frozenset({ir.DataType.FLOAT})
WHOLE = frozenset({ir.DataType.INT64, ir.DataType.INT32})
CODES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})
BOOL = frozenset({ir.DataType.BOOL})
ANY = FLOAT | WHOLE | CODES | BOOL


@dataclass(frozen=True)
class FloatOperator:
    """A family of ONNX operators that kernels compute on values as ONNX has them.

    Attributes
    ----------
    types : their names in ONNX's own domain
    reason : why no kernel computes a node; None where one does
    lower : the step or steps that compute one of its values, in any order of its axes
    """

    types: Collection[str]
    reason: Callable[[ir.Node], str | None]
    lower: Callable[[Lowering, ir.Node, ir.Value], Tensor]


def type_reason(node: ir.Node, allowed: Collection[ir.DataType], given: Collection[ir.DataType] = ANY) -> str | None:
    """Why the types of what it reads, or of what is read of it, are not those of its kernels."""
    for values, types, what in ((node.inputs, allowed, "reads"), (used_outputs(node), given, "gives")):
        for value in values:
            if value is not None and value.dtype not in types:
                name = "an unknown type" if value.dtype is None else value.dtype.name
                remedy = "; export the model in float32" if value.dtype == ir.DataType.DOUBLE else ""
                return f"it {what} {name}, for which {node.op_type} has no kernel{remedy}"
    return None


def used_outputs(node: ir.Node) -> list[ir.Value]:
    """Those that anybody reads."""
    return [value for value in node.outputs if value.uses() or value.is_graph_output()]


def shape_reason(node: ir.Node) -> str | None:
    """Why its shapes do not allow a step."""
    values = [*node.inputs, *used_outputs(node)]
    known = all(value is None or shape_of(value) is not None for value in values)
    return None if known else "its shape is not known"


def new_tensor(value: ir.Value, shape: tuple[int, ...] | None = None, order: tuple[int, ...] = ()) -> Tensor:
    """The tensor that a value becomes; ``shape`` in the order of memory, ONNX's where it is None."""
    assert value.dtype is not None
    return Tensor(str(value.name), DTYPES[value.dtype], known_shape(value) if shape is None else shape, order=order)
