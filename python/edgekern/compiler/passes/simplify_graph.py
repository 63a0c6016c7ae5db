"""Drop what computes nothing, and merge what computes the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.graph.copies import eliminate_identities
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
    eliminate_identities(model.graph)
    # Tools write one scale a pair; equal ones have to be one tensor before equal pairs are seen to be equal.
    with _quiet(passes.DeduplicateInitializersPass.__module__):
        passes.DeduplicateInitializersPass(size_limit=64)(model)
    passes.CommonSubexpressionEliminationPass(size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the warnings of a logger: here, that a constant which is an output keeps its name, as it has to."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
