"""Which opsets are taken, and how newer ones are written as one that onnxruntime runs."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto, helper

OLDEST_OPSET = 7
WORKING_OPSET = 13  # the first with per-axis QuantizeLinear
# Up to here somebody has looked at what changed: since 13 nothing that kernels compute, and since 23 operators only
# take more types, or attributes that no older model has.
_KNOWN_OPSET = 28


def newest_opset() -> int:
    """The newest that the installed onnx defines."""
    return int(onnx.defs.onnx_opset_version())


@functools.cache
def newest_running_opset() -> int:
    """The newest in which the installed onnxruntime runs QuantizeLinear and DequantizeLinear.

    It reads models of a new opset before it has all of its operators.
    """
    import onnxruntime

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph(nodes, "probe", [x], [y], [helper.make_tensor("s", TensorProto.FLOAT, [], [1.0])])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for opset in range(newest_opset(), WORKING_OPSET, -1):
        probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime raises a class per status, all private
            continue
        return opset
    return WORKING_OPSET


def lowered(proto: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, str | None]:
    """The model in an opset that onnxruntime runs, and what keeps it from meaning the same there, if anything does."""
    target = newest_running_opset()
    if opset <= min(target, _KNOWN_OPSET):
        return proto, None
    for node in _nodes(proto.graph.node):
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
            since = onnx.defs.get_schema(node.op_type, opset, "").since_version
            name = f"{node.op_type} '{node.name or node.output[0]}'"
            if since > _KNOWN_OPSET:
                return (
                    proto,
                    f"{name} has changed in opset {since}, and this edgekern knows operators up to {_KNOWN_OPSET}",
                )
            if since > target and not onnx.defs.has(node.op_type, target, ""):
                return (
                    proto,
                    f"{name} exists since opset {since}, and this onnxruntime runs models up to opset {target}",
                )
    if opset <= target:
        return proto, None
    lower = onnx.ModelProto()
    lower.CopyFrom(proto)
    for owner in (lower, *lower.functions):
        for entry in owner.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = min(entry.version, target)
    return lower, None


def _nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All of them, and those in their bodies."""
    waiting = deque(nodes)
    while waiting:
        node = waiting.popleft()
        yield node
        for attribute in node.attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                waiting += body.node
