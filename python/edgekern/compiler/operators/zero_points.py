"""Products by weights whose zero points int8 does not take in: what is left of them is subtracted from the sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import emit_map
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor
from edgekern.graph.values import label

Codes = npt.NDArray[np.int8]
Wide = npt.NDArray[np.int64]
EXACT = 2**24  # whole numbers up to it are float32


def fits_float(weights: Codes, zero: Wide, columns: int, bias: Wide | None = None) -> bool:
    """Whether sums of codes times weights, and of codes times the zero points, are float32 numbers all."""
    rows = np.moveaxis(weights, columns, 0).reshape(weights.shape[columns], -1)
    sizes = 255 * np.abs(rows, dtype=np.int32).sum(axis=1, dtype=np.int64) + (0 if bias is None else np.abs(bias))
    return bool(max(sizes.max(initial=0), 255 * rows.shape[1] * np.abs(zero).max(initial=0)) <= EXACT)


def without_zero(lowering: Lowering, node: ir.Node, sums: Tensor, own: Tensor, zero: Wide, *, real: bool) -> Tensor:
    """Products ``sums`` less the zero points of the weights times ``own``, the sums of the codes of each row and group.

    As int32, or (``real``, where both fit) as the float32 number next to it.
    """
    rows = sums.size // zero.size
    groups = own.size // rows
    inner = sums.shape if groups == 1 else (rows, groups, zero.size // groups)
    outer = sums.shape if zero.size == 1 else (*inner[:-1], 1)
    y = Tensor(sums.name, DType.F32 if real else DType.I32, inner, order=sums.order if groups == 1 else ())
    step = MapStep(StepKind.MAP if real else StepKind.MAP_I64, label(node), node.op_type, [], y)
    parts = [x if x.shape == shape else view(x, shape=shape, order=()) for x, shape in ((sums, inner), (own, outer))]
    step.operands = [*parts, zero if groups == 1 else zero.reshape(inner[1:])]
    code: list[Instruction] = [(MapOp.MUL, (Operand(1), Operand(2))), (MapOp.SUB, (Operand(0), Result(0)))]
    left = emit_map(lowering, step, code)
    return left if groups == 1 else view(left, shape=sums.shape, order=sums.order)
