"""The list of all operators that have a kernel."""

from __future__ import annotations

from edgekern.compiler.operators import (
    arithmetic,
    concat,
    lookups,
    moves,
    picks,
    pooling,
    products,
    quantize,
    resize,
    softmax,
)
from edgekern.compiler.operators.operator import Operator

_FAMILIES = (
    quantize.OPERATOR,
    products.OPERATOR,
    pooling.OPERATOR,
    arithmetic.OPERATOR,
    lookups.OPERATOR,
    concat.OPERATOR,
    moves.OPERATOR,
    picks.OPERATOR,
    resize.OPERATOR,
    softmax.OPERATOR,
)
OPERATORS: dict[str, Operator] = {name: family for family in _FAMILIES for name in family.types}
