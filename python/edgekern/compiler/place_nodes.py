"""Decide for every value how it is held, and for every node who computes it.

First a walk forward: what could each value be? Then a walk back from the outputs: what is needed of it? A node that no
kernel on 8 bits computes, or whose float result is needed, is one for kernels on floats; what they do not take, either,
goes to the host.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekern.compiler.floats.table import FLOATS, float_reason
from edgekern.compiler.operators.table import OPERATORS
from edgekern.compiler.roles import Placement, Role
from edgekern.graph.families import OPTIMIZED, is_integer, is_optimized
from edgekern.graph.values import captured, constant_or_dequantized, is_constant, operands
from edgekern.graph.wide import wide_quant


def place_nodes(graph: ir.Graph) -> Placement:
    """Place a simplified graph with known shapes."""
    placement = Placement()
    for value in graph.inputs:
        placement.role[value] = Role.FLOAT
    for node in graph:
        reason = _give_role(placement, node)
        if reason is not None:
            placement.reasons[node] = reason
            placement.role.update(dict.fromkeys(node.outputs, Role.HOST))
    placement.plain.update(value for value in graph.outputs if constant_or_dequantized(value) is None)
    for node in reversed(list(graph)):
        _demand(placement, node)
    return placement


def _give_role(p: Placement, node: ir.Node) -> str | None:
    """Give the node's outputs a role, or say why no kernel can compute them."""
    if is_optimized(node):
        return f"{OPTIMIZED}: compile the model as it was exported"
    if is_integer(node) and node.op_type not in FLOATS:
        return "its quantization is written in integers: export the model in QDQ form"
    if node.domain != "" and wide_quant(node) is None:
        return f"operators of domain {node.domain} have no kernel"
    if any(value is not None and is_constant(value) for value in node.outputs):
        return "it is constant"
    if next(operands(node), None) is None:
        return "it reads nothing"
    if node.op_type in OPERATORS:
        reason = OPERATORS[node.op_type].role(p, node)
        if reason is None:
            return None
        p.float_reasons[node] = reason
        if node.op_type not in FLOATS:
            return reason
    reason = float_reason(node)
    if reason is None:
        p.role.update(dict.fromkeys(node.outputs, Role.FLOAT))
    return reason


def _demand(p: Placement, node: ir.Node) -> None:
    """What this node must read, given what is read of it."""
    for result in node.outputs:
        role = p.role_of(result)
        if result in p.plain and role is Role.BYTES:
            p.native.add(result)
        if result in p.native and role is Role.BYTES:
            _demand_bytes(p, node)
        elif result in p.native:
            p.plain.add(result)
        if result not in p.plain or role is Role.BYTES:
            continue
        if role is Role.PRODUCT:
            p.native.update(p.operands(result))
            continue
        reason = p.reasons.get(node)
        if reason is None and role is not Role.FLOAT:
            reason = float_reason(node) if node.op_type in FLOATS else "its result is float: no QuantizeLinear follows"
        if reason is None:
            p.plain.update(operands(node))
        else:
            p.hosts.add(node)
            p.reasons[node] = reason
            p.plain.update(captured(node))


def _demand_bytes(p: Placement, node: ir.Node) -> None:
    """Only a QuantizeLinear reads what is not 8-bit yet."""
    for x in operands(node):
        if p.role_of(x) is Role.BYTES:
            p.native.add(x)
        elif p.fuses(node):
            p.native.update(p.operands(x))
        else:
            p.plain.add(x)
