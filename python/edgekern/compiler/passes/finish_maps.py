"""Write the element-wise steps as an index has them."""

from __future__ import annotations

from collections.abc import Sequence

from edgekern.compiler.formula_step import MapStep
from edgekern.compiler.steps import Item


def finish_maps(items: Sequence[Item]) -> None:
    """Fill in inputs, blobs and arguments, in place."""
    for item in items:
        if isinstance(item, MapStep):
            item.finish()
