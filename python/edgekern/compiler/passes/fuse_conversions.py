"""Let steps on floats read and write 8 bits themselves, where a conversion stands beside them."""

from __future__ import annotations

from collections.abc import Sequence

from edgekern._core import StepKind
from edgekern.compiler.formula_step import MapStep
from edgekern.compiler.operators.weights import STRIP
from edgekern.compiler.passes.drop_unread import drop_unread
from edgekern.compiler.steps import REAL_PRODUCTS, Item, KernelStep, Tensor, readers_of

_WRITING = REAL_PRODUCTS | {StepKind.MAP}  # kinds whose result may be 8-bit
_MOST_TAPS = 16  # neighbors of a resizing that are dequantized at once


def fuse_conversions(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Leave out conversions whose work the step behind or before them does, with the same rounding."""
    readers = readers_of(items, outputs)
    steps = [item for item in items if isinstance(item, KernelStep)]
    codes = {step.output: step.inputs[0] for step in steps if step.kind == StepKind.DEQUANTIZE}
    maker = {step.output: step for step in steps if step.kind in _WRITING or _resamples_codes(step)}
    gone: set[Item] = set()
    for step in steps:
        if isinstance(step, MapStep) and step.kind == StepKind.MAP:
            step.operands = [_codes_of(x, codes) if isinstance(x, Tensor) else x for x in step.operands]
            step.read()
        elif _resamples_codes(step):
            step.inputs = [_codes_of(x, codes) for x in step.inputs]
        if step.kind == StepKind.QUANTIZE:
            [x] = step.inputs
            made = maker.get(x)
            if made is not None and readers[x.root] == 1 and x.shape == step.output.shape:
                made.output, made.op = step.output, f"{made.op}+{step.op}"
                gone.add(step)
    return drop_unread([item for item in items if item not in gone], outputs)


def _resamples_codes(step: KernelStep) -> bool:
    """Whether a step resizes along an axis, rows and neighbors being as its kernel wants them for 8 bits."""
    return step.kind == StepKind.RESAMPLE and step.arguments["inner"] >= STRIP and step.arguments["taps"] <= _MOST_TAPS


def _codes_of(x: Tensor, codes: dict[Tensor, Tensor]) -> Tensor:
    found = codes.get(x)
    return x if found is None or found.shape != x.shape else found
