"""Programs of one element-wise chain: operands as NumPy broadcasts them, values named by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from edgekern._core import MapOp, StepKind

from one_step import one_step

Array = npt.NDArray[Any]
RANK = 8


def chain(
    operands: Sequence[Array],
    code: Sequence[tuple[str, *tuple[int, ...]]],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: npt.DTypeLike = np.float32,
    constants: Sequence[float] = (),
    blobs: int = 0,
) -> ek.Program:
    """The last ``blobs`` of the operands are stored in the program. ``code``: an operation and its values."""
    whole = operands[0].dtype == np.int64 or any(x.dtype == np.int64 for x in operands[len(operands) - blobs :])
    shape = np.broadcast_shapes(*(x.shape for x in operands)) if shape is None else shape
    numbers: list[int] = []
    for x in operands:
        steps = [step // x.itemsize for step in np.broadcast_to(np.ascontiguousarray(x), shape).strides]
        numbers += [0] * (RANK - len(shape)) + steps
    for op, *values in code:
        numbers += [MapOp[op], *values, *[0] * (3 - len(values))]
    arguments = {"shape": [1] * (RANK - len(shape)) + list(shape), "operands": len(operands), "code": numbers}
    if not whole:
        arguments["constants"] = list(constants)
    inputs = len(operands) - blobs
    kind = StepKind.MAP_I64 if whole else StepKind.MAP
    return one_step(kind, operands[:inputs], (shape, dtype), operands[inputs:], **arguments)
