"""LSTM, GRU and RNN."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.compiler.floats.operator import FloatOperator
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor


def reason(node: ir.Node) -> str | None:
    return f"{node.op_type} has no kernel"


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    raise NotImplementedError


OPERATOR = FloatOperator(frozenset({"LSTM", "GRU", "RNN"}), reason, lower)
