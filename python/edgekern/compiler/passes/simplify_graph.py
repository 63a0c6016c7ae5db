"""Drop what computes nothing, and merge what computes the same."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.graph.copies import remove_copies
from edgekern.graph.families import QDQ

_CONTRIB = "com.microsoft"


def simplify_graph(model: ir.Model) -> None:
    """Lift constants, remove Identity and inference-time Dropout, merge equal nodes, remove unused ones.

    onnxruntime's own 8-bit QuantizeLinear and DequantizeLinear become ONNX's: they mean the same.
    """
    for node in model.graph:
        if node.domain == _CONTRIB and node.op_type in QDQ:
            node.domain = ""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    remove_copies(model.graph)
    # Tools write one scale a pair; equal ones have to be one tensor before equal pairs are seen to be equal.
    passes.DeduplicateInitializersPass(size_limit=64)(model)
    passes.CommonSubexpressionEliminationPass(size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)
