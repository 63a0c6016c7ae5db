"""The list of all operators that have a kernel on floats, integers or bools."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.compiler.floats import (
    attention,
    contractions,
    convolutions,
    einsum,
    gathers,
    grid_sample,
    integers,
    maps,
    masks,
    moves,
    norms,
    pooling,
    quantize,
    recurrent,
    reductions,
    resize,
    scans,
    scatters,
)
from edgekern.compiler.floats.operator import FloatOperator, shape_reason

_FAMILIES = (
    convolutions.OPERATOR,
    contractions.OPERATOR,
    attention.OPERATOR,
    einsum.OPERATOR,
    maps.OPERATOR,
    masks.OPERATOR,
    moves.OPERATOR,
    reductions.OPERATOR,
    norms.OPERATOR,
    pooling.OPERATOR,
    quantize.OPERATOR,
    resize.OPERATOR,
    gathers.OPERATOR,
    grid_sample.OPERATOR,
    integers.OPERATOR,
    scans.OPERATOR,
    scatters.OPERATOR,
    recurrent.OPERATOR,
)
FLOATS: dict[str, FloatOperator] = {name: family for family in _FAMILIES for name in family.types}


def float_reason(node: ir.Node) -> str | None:
    """Why no kernel computes a node on values as ONNX has them; None where one does."""
    if node.op_type not in FLOATS:
        return f"{node.op_type} has no kernel"
    return shape_reason(node) or FLOATS[node.op_type].reason(node)
