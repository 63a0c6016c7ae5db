"""Do element-wise steps in one pass over memory: one that alone reads another computes it itself."""

from __future__ import annotations

from collections.abc import Sequence

from edgekern._core import DType, MapOp
from edgekern.compiler.formula_step import MapStep, Result
from edgekern.compiler.steps import Item, KernelStep, Tensor, readers_of

# Values of a block lie in the cache; more would not.
_MOST_OPERANDS, _MOST_INSTRUCTIONS = 16, 48
# What an instruction's result is as it is: a conversion, which is made where a value is stored, is none.
_UNCONVERTED = (DType.F32, DType.I64, DType.BOOL)
# Conversions that an instruction does, too.
_ROUNDED = {DType.F16: MapOp.ROUND_F16, DType.BF16: MapOp.ROUND_BF16}


def fuse_maps(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Fuse each element-wise step into its only reader, where that has as many elements."""
    readers = readers_of(items, outputs)
    maker = {item.output: item for item in items if isinstance(item, MapStep)}
    gone: set[KernelStep] = set()
    for item in items:
        if not isinstance(item, MapStep):
            continue
        waiting = list(item.inputs)
        while waiting:
            x = waiting.pop(0)
            made = maker.get(x)
            if made is None or made in gone or readers[x.root] != 1 or not _fits(made, item):
                continue
            both = [tensor for tensor in made.inputs if tensor in item.inputs]
            if x.dtype in _ROUNDED:
                made.code.append((_ROUNDED[x.dtype], (Result(len(made.code) - 1),)))
            item.inline(x, made)
            gone.add(made)
            for tensor in both:  # two readers are one now, which may have been all
                readers[tensor.root] -= 1
            waiting += both
    return [item for item in items if item not in gone]


def _fits(made: MapStep, step: MapStep) -> bool:
    return (
        made.kind == step.kind
        and made.output.shape == step.output.shape
        and (made.output.dtype in _UNCONVERTED or made.output.dtype in _ROUNDED)
        and len(made.operands) + len(step.operands) - 1 <= _MOST_OPERANDS
        and len(made.code) + len(step.code) <= _MOST_INSTRUCTIONS
    )
