"""Let an integer product multiply its sums by their scale, which is known at run time alone, as they leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.formula_step import MapStep, Operand, Ref, Result
from edgekern.compiler.operators.weights import pad_strips
from edgekern.compiler.steps import NO_EPILOGUE, Item, KernelStep, Tensor, readers_of

_DEEPEST = 2**30 // (255 * 128)  # GEMM_SCALED's longest sum: half of int32


def fuse_scales(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Make a GEMM_SCALED of each GEMM_INTEGER that is cast to float32 and multiplied by one number, or one a column."""
    readers = readers_of(items, outputs)
    maker = {item.output: item for item in items if isinstance(item, KernelStep) and item.kind == StepKind.GEMM_INTEGER}
    gone: set[KernelStep] = set()
    kept: list[Item] = []
    for item in items:
        if isinstance(item, MapStep) and item.kind == StepKind.MAP:
            found = next((maker[x] for x in item.inputs if x in maker and readers[x.root] == 1), None)
            scaled = [] if found is None else _scaled(found, item)
            if found is not None and scaled:
                gone.add(found)
                kept += scaled
                if not item.code:
                    continue
        kept.append(item)
    return [item for item in kept if item not in gone]


def _scaled(product: KernelStep, step: MapStep) -> list[KernelStep]:
    """The product with its scale, where ``step`` begins with that; the step goes on behind it.

    In front of it what gives its scale, where that is known already.
    """
    columns = product.arguments["columns"]
    x = Operand(next(at for at, operand in enumerate(step.operands) if operand is product.output))
    if product.output.shape != step.output.shape or product.arguments["k"] > _DEEPEST or len(step.code) < 2:
        return []
    (first, cast), (second, factors) = step.code[:2]
    if (first, cast) != (MapOp.COPY, (x,)) or second != MapOp.MUL or Result(0) not in factors:
        return []
    scale = factors[1] if factors[0] == Result(0) else factors[0]
    if isinstance(scale, Result):
        return []
    given = step.operands[scale.number] if isinstance(scale, Operand) else np.float32(scale)
    if given.size != 1 and not given.size == given.shape[-1] == columns:
        return []
    made = [] if isinstance(given, Tensor) else [_constant(product, np.asarray(given, np.float32))]
    tensor = given if isinstance(given, Tensor) else made[0].output
    if tensor.dtype != DType.F32:
        return []
    if any(ref in (x, Result(0)) for _, refs in step.code[2:] for ref in refs):
        return []
    y = step.output if len(step.code) == 2 else replace(product.output, dtype=DType.F32, names=[])
    if len(step.code) == 2 and y.dtype != DType.F32:
        return []
    operators = step.op.split("+")
    taken = len(operators) if len(step.code) == 2 else 2
    bias = pad_strips(np.zeros(columns, np.float32))
    scaled = KernelStep(
        StepKind.GEMM_SCALED,
        product.name,
        "+".join([product.op, *operators[:taken]]),
        [*product.inputs, tensor],
        y,
        [*product.blobs, bias],
        {**product.arguments, **NO_EPILOGUE},
    )
    step.operands[x.number] = y

    def moved(ref: Ref) -> Ref:
        if not isinstance(ref, Result):
            return ref
        return x if ref == Result(1) else Result(ref.number - 2)

    step.code = [(op, tuple(map(moved, refs))) for op, refs in step.code[2:]]
    step.op = "+".join(operators[taken:])
    step.read()
    return [*made, scaled]


def _constant(product: KernelStep, values: npt.NDArray[np.float32]) -> KernelStep:
    y = Tensor(f"{product.name} scale", DType.F32, (values.size,))
    return KernelStep(StepKind.CONSTANT, y.name, "Constant", [], y, [values.tobytes()])
