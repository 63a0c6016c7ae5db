"""Drop what computes nothing, and merge what computes the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.graph.copies import eliminate_identities
from edgekern.graph.families import QDQ, RANDOM
from edgekern.graph.values import coded, is_code

_CONTRIB = "com.microsoft"
_DISTINCT = "edgekern.distinct"


def simplify_graph(model: ir.Model) -> None:
    """Lift constants, remove Identity and inference-time Dropout, merge equal nodes, remove unused ones.

    onnxruntime's own 8-bit QuantizeLinear and DequantizeLinear become ONNX's: they mean the same.
    """
    for node in model.graph:
        if node.domain == _CONTRIB and node.op_type in QDQ and is_code(coded(node)):
            node.domain = ""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    eliminate_identities(model.graph)
    # Tools write one scale a pair; equal ones have to be one tensor before equal pairs are seen to be equal.
    with _quiet(passes.DeduplicateInitializersPass.__module__):
        passes.DeduplicateInitializersPass(size_limit=64)(model)
    # Two draws are two numbers, however equal the nodes; a Dropout that is left here draws.
    draws = [node for node in model.graph if node.op_type in RANDOM | {"Dropout"}]
    for number, node in enumerate(draws):
        node.attributes[_DISTINCT] = ir.AttrInt64(_DISTINCT, number)
    passes.CommonSubexpressionEliminationPass(size_limit=0)(model)
    for node in draws:
        node.attributes.pop(_DISTINCT, None)
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
