"""Let a product on floats finish its own result: clamp it, run an activation over it, add another tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekern._core import MapOp, StepKind
from edgekern.compiler.formula_step import MapStep, Operand, Ref, Result
from edgekern.compiler.steps import Item, KernelStep, Tensor, readers_of

_FINISHING = frozenset({StepKind.CONV_F32, StepKind.DEPTHWISE_F32, StepKind.GEMM_F32, StepKind.CONV_TRANSPOSE_F32})
_ACTIVATIONS = {MapOp.GELU: 1, MapOp.GELU_TANH: 2, MapOp.SILU: 3}  # a product's `activation`


def fuse_epilogues(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Move what the first instructions of an element-wise step do into the product that it alone reads."""
    readers = readers_of(items, outputs)
    maker = {item.output: item for item in items if isinstance(item, KernelStep) and item.kind in _FINISHING}
    kept: list[Item] = []
    for item in items:
        if isinstance(item, MapStep) and item.kind == StepKind.MAP:
            for x in list(item.inputs):
                product = maker.get(x)
                if product is not None and readers[x.root] == 1 and x.shape == item.output.shape:
                    _fuse(product, item)
            if not item.code:
                maker[item.output] = maker.pop(item.inputs[0])
                continue
        kept.append(item)
    return kept


def _fuse(product: KernelStep, step: MapStep) -> None:
    number = step.operands.index(product.output)
    taken = _activation(step, Operand(number))
    if taken is None:
        return
    count, arguments = taken
    product.arguments |= arguments
    product.op = f"{product.op}+{step.op}"
    code = [(op, tuple(_moved(ref, count, number) for ref in refs)) for op, refs in step.code[count:]]
    if code:
        step.code = code
        return
    product.output = step.output
    step.code, step.inputs = [], [product.output]


def _moved(ref: Ref, count: int, number: int) -> Ref:
    """A reference behind so many instructions that are gone; the last one's result is the product's."""
    if not isinstance(ref, Result):
        return ref
    return Operand(number) if ref.number == count - 1 else Result(ref.number - count)


def _activation(step: MapStep, x: Operand) -> tuple[int, dict[str, float]] | None:
    """How many instructions are an activation of ``x``, which nobody else uses, and a product's arguments for it."""
    op, refs = step.code[0]
    found: tuple[int, dict[str, float]] | None = None
    if op == MapOp.CLIP and refs[0] == x and all(isinstance(ref, float) for ref in refs[1:]):
        found = 1, {"lo": refs[1], "hi": refs[2]}  # type: ignore[dict-item]
    elif op in _ACTIVATIONS and refs[0] == x:
        found = 1, {"activation": _ACTIVATIONS[op]}
    elif op == MapOp.SIGMOID and refs[0] == x and len(step.code) > 1:
        second, both = step.code[1]
        if second == MapOp.MUL and set(both) == {x, Result(0)}:
            found = 2, {"activation": _ACTIVATIONS[MapOp.SILU]}
    if found is None:
        return None
    gone = range(found[0] - 1)
    later = [ref for _, refs in step.code[found[0] :] for ref in refs]
    if x in later or any(Result(number) in later for number in gone):
        return None
    if found[1].get("lo", -math.inf) > found[1].get("hi", math.inf):
        return None
    return found
