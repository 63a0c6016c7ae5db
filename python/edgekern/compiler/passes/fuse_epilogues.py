"""Let a product on floats finish its own result: add a bias and another tensor, clamp it, run an activation over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.formula_step import MapStep, Operand, Ref, Result
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.steps import REAL_PRODUCTS, Item, KernelStep, Tensor, readers_of

_COLUMNS = ("columns", "out_channels", "channels")  # what a product calls the numbers side by side in its result
_ACTIVATIONS = {MapOp.GELU: 1, MapOp.GELU_TANH: 2, MapOp.SILU: 3}  # a product's `activation`


def fuse_epilogues(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Move what the first instructions of an element-wise step do into the last product that it alone reads."""
    readers = readers_of(items, outputs)
    maker = {item.output: item for item in items if isinstance(item, KernelStep) and item.kind in REAL_PRODUCTS}
    position = {item: at for at, item in enumerate(items)}
    before: dict[Item, KernelStep] = {}  # products by the steps that they have moved to
    for item in items:
        if not isinstance(item, MapStep) or item.kind != StepKind.MAP:
            continue
        found = [maker[x] for x in item.inputs if x in maker and readers[x.root] == 1]
        for product in sorted(found, key=position.__getitem__, reverse=True):
            made = product.output
            if product.output.shape == item.output.shape and _fuse(product, item):
                before[item] = product
                del maker[made]  # it finishes once
                break
    moved = set(before.values())
    kept: list[Item] = []
    for item in items:
        if item in moved:
            continue
        if item in before:
            kept.append(before[item])
        if not isinstance(item, MapStep) or item.code:
            kept.append(item)
    return kept


def _fuse(product: KernelStep, step: MapStep) -> bool:
    """Whether a product has taken instructions over. It stands before the step from now on, or in its place."""
    x: Ref = Operand(next(at for at, operand in enumerate(step.operands) if operand is product.output))
    arguments: dict[str, Any] = {}
    inputs, count, last = list(product.inputs), 0, x
    row = _row(step, x, product)
    if row is not None:
        count, last = 1, Result(0)
    addend = _addend(step, count, last)
    if addend is not None:
        arguments["addend_first"] = 1
        inputs.append(addend)
        count, last = count + 1, Result(count)
    active = _activation(step, count, last)
    if active is not None:
        count += active[0]
        last = Result(count - 1)
        arguments |= active[1]
    if addend is None and count > 0:
        addend = _addend(step, count, last)
        if addend is not None:
            inputs.append(addend)
            count, last = count + 1, Result(count)
    inner = {x, *(Result(number) for number in range(count - 1))}
    converts = count == len(step.code) and step.output.dtype != product.output.dtype
    if count == 0 or converts or any(ref in inner for _, refs in step.code[count:] for ref in refs):
        return False
    if row is not None:
        product.blobs[-1] = pad_strips(row, product.arguments.get("groups", 1))
    product.inputs = inputs
    product.arguments |= arguments

    def moved(ref: Ref) -> Ref:
        if not isinstance(ref, Result):
            return ref
        return x if ref == last else Result(ref.number - count)

    step.code = [(op, tuple(map(moved, refs))) for op, refs in step.code[count:]]
    operators = step.op.split("+")
    if step.code:
        product.output.names.clear()  # it holds another tensor of the model now
        taken = min(count, len(operators) - 1)  # one operator an instruction, in what a product takes
    else:
        product.output = step.output
        taken = len(operators)
    product.op = "+".join([product.op, *operators[:taken]])
    step.op = "+".join(operators[taken:])
    return True


def _row(step: MapStep, x: Ref, product: KernelStep) -> npt.NDArray[np.float32] | None:
    """What the first instruction adds to ``x``, the result of a product without bias: constants, one a column."""
    other = _added(step, 0, x)
    array = step.operands[other.number] if isinstance(other, Operand) else other
    columns = next(product.arguments[key] for key in _COLUMNS if key in product.arguments)
    if isinstance(array, Tensor | Result | None) or np.frombuffer(product.blobs[-1], np.float32).any():
        return None
    values = np.asarray(array, np.float32)
    if values.size != 1 and not step.output.shape[-1:] == values.shape[-1:] == (columns,) == (values.size,):
        return None
    return np.broadcast_to(values.reshape(-1), (columns,))


def _added(step: MapStep, at: int, x: Ref) -> Ref | None:
    """What an instruction adds to ``x``."""
    if at >= len(step.code) or step.code[at][0] != MapOp.ADD or x not in step.code[at][1]:
        return None
    a, b = step.code[at][1]
    return (b if a == x else a) if a != b else None


def _addend(step: MapStep, at: int, x: Ref) -> Tensor | None:
    """The tensor that an instruction adds to ``x``, element by element."""
    other = _added(step, at, x)
    tensor = step.operands[other.number] if isinstance(other, Operand) else None
    full = isinstance(tensor, Tensor) and tensor.shape == step.output.shape and tensor.dtype == DType.F32
    return tensor if isinstance(tensor, Tensor) and full else None


def _activation(step: MapStep, at: int, x: Ref) -> tuple[int, dict[str, Any]] | None:
    """How many instructions from one on are an activation of ``x``, and a product's arguments for it."""
    if at >= len(step.code):
        return None
    op, refs = step.code[at]
    if refs[0] == x and op in _ACTIVATIONS:
        return 1, {"activation": _ACTIVATIONS[op]}
    if op == MapOp.CLIP and refs[0] == x and all(isinstance(ref, float) for ref in refs[1:]):
        lo, hi = refs[1:]
        return (1, {"lo": lo, "hi": hi}) if lo <= hi else None  # type: ignore[operator]
    if op == MapOp.SIGMOID and refs[0] == x and at + 1 < len(step.code):
        second, both = step.code[at + 1]
        if second == MapOp.MUL and set(both) == {x, Result(at)}:
            return 2, {"activation": _ACTIVATIONS[MapOp.SILU]}
    return None
