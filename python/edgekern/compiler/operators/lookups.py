"""Element-wise functions of one 8-bit tensor: a table of 256 bytes. Relu and Clip cost nothing behind other kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Chain, Placement, Role
from edgekern.compiler.steps import KernelStep, Tensor, dtype_of
from edgekern.graph.evaluate import evaluate, to_proto
from edgekern.graph.families import UNARY, WITH_CONSTANT, limits
from edgekern.graph.formulas import elementwise_operands
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import (
    Quant,
    constant,
    float_constant,
    is_code,
    is_constant,
    label,
    leading_to,
    operands,
    sole_consumer,
)

Codes = npt.NDArray[np.int64]


def role(p: Placement, node: ir.Node) -> str | None:
    if _is_clamp(p, node) or is_table(p, node):
        return None
    return p.needs_bytes(node) or f"{node.op_type} of these operands has no kernel"


def _is_clamp(p: Placement, node: ir.Node) -> bool:
    """Whether the kernel before it clamps its own result."""
    source, interval = next(operands(node)), limits(node)
    before = p.role_of(source)
    alone = before is Role.PENDING or (before is Role.PRODUCT and sole_consumer(source) is node)
    if interval is None or not alone:
        return False
    p.extend(source, p.chain[source].then(node, clamp=interval))
    return True


def is_table(p: Placement, node: ir.Node) -> bool:
    """Whether all its operands come from one 8-bit tensor."""
    found, result = elementwise_operands(node), node.outputs[0]
    if not found:
        return False
    roots = {p.root.get(value, value) for value in found}
    root = roots.pop()
    if (
        roots
        or p.role_of(root) is not Role.BYTES
        or is_code(root)
        or any(p.role_of(v) not in (Role.BYTES, Role.TABLE) for v in found)
    ):
        return False
    if node.op_type == "Relu" and found == [root]:
        p.keep(node, p.quant[root])  # max(0, x) is a value that x could have
    else:
        p.role[result], p.root[result] = Role.TABLE, root
    return True


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    assert quant is not None
    root = lowering.placement.root.get(value)
    if root is not None:
        x = lowering.stored(root)
        table, nodes = _table_of(lowering.model, value, root, x.q, quant)
        return lookup(lowering, x, quant, table, nodes[0], nodes)
    x = lowering.stored(next(operands(node)))
    x = view(x, quant=quant) if x.quant is None else x
    return lookup(lowering, x, quant, quant.quantize(quant.dequantize(quant.codes()).clip(0)), node, [node])


def lookup(
    lowering: Lowering, x: Tensor, quant: Quant, codes: Codes | None, node: ir.Node, nodes: list[ir.Node]
) -> Tensor:
    """Map every byte of ``x``: to ``codes``, in the order of bytes, or (None) to the scale of ``quant``."""
    if codes is None:
        codes = quant.quantize(x.q.dequantize(x.q.codes()))
    table = (codes & 0xFF).astype(np.uint8)
    if np.array_equal(table, np.arange(256)):
        return view(x, quant=quant, dtype=dtype_of(quant)) if x.quant != quant else x
    y = Tensor(x.name, dtype_of(quant), x.shape, quant, x.order, x.flat)
    op = "+".join(item.op_type for item in nodes) or "Clip"
    return lowering.emit(KernelStep(StepKind.LOOKUP, label(node), op, [x], y, [table.tobytes()]))


def clamped(lowering: Lowering, x: Tensor, chain: Chain, quant: Quant) -> Tensor:
    """The result of a step without limits of its own, clamped by its chain."""
    return lookup(lowering, x, quant, chain.clamped(quant.codes(), quant), chain.nodes[0], []) if chain.clamps else x


def _table_of(
    model: Skeleton, value: ir.Value, root: ir.Value, source: Quant, quant: Quant
) -> tuple[Codes, list[ir.Node]]:
    """Codes of the function that leads from ``root`` to ``value``: onnxruntime computes it on the 256 values."""
    nodes = leading_to(value, lambda operand: operand is not root and not is_constant(operand))
    x = source.dequantize(source.codes())
    constants = {}
    for node in nodes:
        for operand in node.inputs:
            if operand is not None and is_constant(operand):
                real = float_constant(operand)
                array = constant(operand) if real is None else real
                assert array is not None
                constants[str(operand.name)] = to_proto(array.reshape(()), str(operand.name))
    protos = [ir.to_proto(node) for node in nodes]
    [result] = evaluate(model, protos, constants, [str(value.name)], {str(root.name): x})
    return quant.quantize(np.broadcast_to(result, (256,))), nodes


OPERATOR = Operator(UNARY | WITH_CONSTANT - {"Add"}, role, lower)
