"""Do tables of bytes where their input is made: table after table is one table, a clamp belongs to what it clamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekern._core import StepKind
from edgekern.compiler.steps import Item, KernelStep, Tensor, readers_of


def fold_lookups(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Fold each table whose input nobody else reads into the step before it."""
    kept: list[Item] = []
    maker: dict[Tensor, KernelStep] = {}
    readers = readers_of(items, outputs)
    for item in items:
        if isinstance(item, KernelStep):
            source = maker.get(item.inputs[0]) if item.kind == StepKind.LOOKUP else None
            if source is not None and readers[item.inputs[0].root] == 1 and _fold(source, item):
                source.output = item.output
                item = source
            else:
                kept.append(item)
            maker[item.output] = item
        else:
            kept.append(item)
    return kept


def _fold(source: KernelStep, lookup: KernelStep) -> bool:
    table = np.frombuffer(lookup.blobs[0], np.uint8)
    if source.kind == StepKind.LOOKUP:
        source.blobs = [table[np.frombuffer(source.blobs[0], np.uint8)].tobytes()]
        source.op = f"{source.op}+{lookup.op}"
        return True
    before, after = source.output.quant, lookup.output.quant
    if source.clamp is None or before is None or before != after:
        return False
    codes = before.codes()
    mapped = codes[table]
    if not np.array_equal(mapped, codes.clip(mapped.min(), mapped.max())):
        return False
    lo, hi = float(mapped.min() - before.zero_point), float(mapped.max() - before.zero_point)
    for limit in source.clamp:
        source.arguments[limit] = min(max(source.arguments[limit], lo), hi)
    source.op = f"{source.op}+{lookup.op}"
    return True
