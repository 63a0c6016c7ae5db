"""Concat: pieces one behind the other."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.lookups import clamped, lookup
from edgekern.compiler.operators.operator import Operator
from edgekern.compiler.roles import Chain, Placement, Role
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import Quant, int_attribute, is_code, label, operands, shape_of

_MOST_PIECES = 4096  # that a step of an index holds


def role(p: Placement, node: ir.Node) -> str | None:
    reason = p.needs_bytes(node, codes=True)
    if reason is not None:
        return reason
    inputs = list(operands(node))
    if len(inputs) != len(node.inputs):
        return "Concat with a constant has no kernel"
    if len(inputs) > _MOST_PIECES:
        return f"Concat of more than {_MOST_PIECES} tensors has no kernel"
    if any(shape_of(value) is None or len(shape_of(value) or ()) > 4 for value in inputs):
        return "Concat of more than 4 dimensions has no kernel"
    quant = p.quant[inputs[0]]
    if any(is_code(value) for value in inputs) or all(p.quant[value] == quant for value in inputs):
        p.keep(node, quant)
    else:
        p.begin(node, Role.PENDING)
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value, quant: Quant | None) -> Tensor:
    assert quant is not None
    chain = lowering.placement.chain.get(value)
    pieces = lowering.alike([v for v in node.inputs if v is not None])
    if chain is None:  # all of one scale
        return _joined(lowering, Chain([node]), pieces, pieces[0].quant or quant)
    return clamped(lowering, _joined(lowering, chain, pieces, quant), chain, quant)


def _joined(lowering: Lowering, chain: Chain, pieces: list[Tensor], quant: Quant) -> Tensor:
    """Each piece is brought to the scale of the result first."""
    node, value = chain.nodes[0], chain.nodes[-1].outputs[0]
    pieces = [piece if piece.quant is None else lookup(lowering, piece, quant, None, node, [node]) for piece in pieces]
    order = pieces[0].order or tuple(range(len(pieces[0].shape)))
    axis = order.index(int_attribute(node, "axis", 0) % len(order))
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    rows = math.prod(shape[:axis])
    arguments = {"rows": rows, "bytes": [math.prod(piece.shape[axis:]) * piece.item_bytes for piece in pieces]}
    y = Tensor(str(value.name), pieces[0].dtype, tuple(shape), quant, pieces[0].order)
    return lowering.emit(KernelStep(StepKind.CONCAT, label(node), chain.op, pieces, y, arguments=arguments))


OPERATOR = Operator({"Concat"}, role, lower)
