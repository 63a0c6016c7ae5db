"""Rows of a table of 16-bit codes: Gather and the DequantizeLinear behind it, as two tables of bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import Code, emit_map, new_map
from edgekern.compiler.formula_step import Operand
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import consumers, int_attribute, is_constant, known_shape, label
from edgekern.graph.wide import wide_quant

_WIDE = frozenset({ir.DataType.INT16, ir.DataType.UINT16})


def is_wide_table(node: ir.Node) -> bool:
    """Whether a Gather takes 16-bit codes out of a constant that nothing but DequantizeLinear reads."""
    table = node.inputs[0] if node.domain == "" and node.op_type == "Gather" else None
    if table is None or table.dtype not in _WIDE or not is_constant(table) or node.outputs[0].is_graph_output():
        return False
    return all(wide_quant(reader) is not None for reader in consumers(node.outputs[0]))


def table_behind(node: ir.Node) -> ir.Node | None:
    """The Gather whose codes a DequantizeLinear reads, where it is such a one."""
    gather = None if node.inputs[0] is None else node.inputs[0].producer()
    return gather if gather is not None and node.op_type == "DequantizeLinear" and is_wide_table(gather) else None


def lower_table(lowering: Lowering, node: ir.Node, value: ir.Value, gather: ir.Node) -> Tensor:
    """``(256 * high + low - zero_point) * scale``, exact up to the last product."""
    quant = wide_quant(node)
    table = gather.inputs[0]
    assert quant is not None
    assert table is not None
    codes = lowering.constant(table)
    high = (codes >> 8).astype(np.int8 if quant.signed else np.uint8)
    step = new_map(node, value, tuple(range(len(known_shape(value)))))
    step.operands += [
        _gathered(lowering, gather, value, high, DType.S8 if quant.signed else DType.U8, "high"),
        _gathered(lowering, gather, value, codes.astype(np.uint8), DType.U8, "low"),
    ]
    code = Code()
    whole = code(MapOp.ADD, code(MapOp.MUL, Operand(0), 256.0), Operand(1))
    if quant.zero_point:
        whole = code(MapOp.SUB, whole, float(quant.zero_point))
    code(MapOp.MUL, whole, quant.scale)
    return emit_map(lowering, step, code.instructions)


def _gathered(
    lowering: Lowering, gather: ir.Node, value: ir.Value, plane: npt.NDArray[Any], dtype: DType, part: str
) -> Tensor:
    y = Tensor(f"{gather.outputs[0].name}.{part}", dtype, known_shape(value))
    return lowering.emit(constant_gather(lowering, gather, plane, y))


def constant_gather(lowering: Lowering, gather: ir.Node, table: npt.NDArray[Any], y: Tensor) -> KernelStep:
    """A step that takes what a Gather does out of a table, which may stand for its own."""
    indices = gather.inputs[1]
    assert indices is not None
    axis = int_attribute(gather, "axis", 0) % table.ndim
    arguments = {
        "outer": math.prod(table.shape[:axis]),
        "n": table.shape[axis],
        "inner_bytes": math.prod(table.shape[axis + 1 :]) * table.itemsize,
        "count": math.prod(known_shape(indices)),
    }
    blobs = [np.ascontiguousarray(table).tobytes()]
    return KernelStep(StepKind.GATHER, label(gather), "Gather", [lowering.plain(indices)], y, blobs, arguments)
