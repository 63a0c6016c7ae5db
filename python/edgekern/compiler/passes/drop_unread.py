"""Drop steps whose result nobody reads."""

from __future__ import annotations

from collections.abc import Sequence

from edgekern.compiler.steps import Item, KernelStep, Tensor


def drop_unread(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """The items that host nodes or the caller need: a Transpose goes that a product reads through, for one."""
    read = {y.root for y in outputs}
    kept: list[Item] = []
    for item in reversed(items):
        if isinstance(item, KernelStep):
            if item.output.root not in read:
                continue
            read.update(x.root for x in item.inputs)
        else:
            read.update(x.root for x in item.inputs.values())
        kept.append(item)
    return kept[::-1]
