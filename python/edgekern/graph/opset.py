"""Which opsets are taken, and how newer ones are written as one that onnxruntime runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekern._onnxruntime import open_session
from edgekern.graph.subgraphs import with_inner

OLDEST_OPSET = 7
WORKING_OPSET = 13  # the first with per-axis QuantizeLinear
FIRST_WITH_MODES = 11  # of Resize
# Up to here somebody has looked at what changed: since 13 nothing that kernels compute, and since 23 operators only
# take more types, or attributes that no older model has.
_KNOWN_OPSET = 28
_SCAN_WITHOUT_BATCH = 9
_OTHER_MEANING = frozenset({"Mod"})  # of floats, since 28


def newest_opset() -> int:
    """The newest that the installed onnx defines."""
    return int(onnx.defs.onnx_opset_version())


@functools.cache
def newest_running_opset() -> int:
    """The newest in which the installed onnxruntime runs QuantizeLinear and DequantizeLinear.

    It reads models of a new opset before it has all of its operators.
    """
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph(nodes, "probe", [x], [y], [helper.make_tensor("s", TensorProto.FLOAT, [], [1.0])])
    for opset in range(newest_opset(), WORKING_OPSET, -1):
        probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            open_session(probe.SerializeToString(), num_threads=1, as_written=True)
        except Exception:  # onnxruntime raises a class per status, all private
            continue
        return opset
    return WORKING_OPSET


def unknown_change(proto: onnx.ModelProto, opset: int) -> str | None:
    """An operator that has changed since somebody looked, or that onnx's converter gives another meaning, if any."""
    for node, _ in _since(proto) if opset < _SCAN_WITHOUT_BATCH else ():
        if node.op_type == "Scan":
            return f"{_name(node)} has a batch, which Scan has not since opset {_SCAN_WITHOUT_BATCH}"
    for node, since in _since(proto):
        if since > _KNOWN_OPSET:
            return f"{_name(node)} has changed in opset {since}, and this edgekern knows operators up to {_KNOWN_OPSET}"
    return None


def downgraded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """The model in an opset in which onnxruntime runs Q and DQ; what would change its meaning there, if anything."""
    target = newest_running_opset()
    if max(map(opset_of, (proto, *proto.functions))) <= target:
        return proto, None
    for node, since in _since(proto):
        if since > target and (node.op_type in _OTHER_MEANING or not onnx.defs.has(node.op_type, target, "")):
            return proto, f"{_name(node)} is of opset {since}, and this onnxruntime runs Q and DQ up to opset {target}"
    lower = onnx.ModelProto()
    lower.CopyFrom(proto)
    for owner in (lower, *lower.functions):
        for entry in owner.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = min(entry.version, target)
    try:
        onnx.shape_inference.infer_shapes(lower, check_type=True)
    except onnx.shape_inference.InferenceError as error:  # a type that an operator takes since then
        reason = " ".join(str(error).split())
        return (
            proto,
            f"it cannot be written in opset {target}, the newest in which this onnxruntime runs Q and DQ: {reason}",
        )
    return lower, None


def opset_of(proto: onnx.ModelProto | onnx.FunctionProto) -> int:
    """Of ONNX's own domain; 1 where the model or function does not say."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)


def restore_resizes(proto: onnx.ModelProto) -> None:
    """Give the Resizes of a model that onnx's converter has brought to a newer opset their old meaning back, in place.

    Before opset 11 Upsample and Resize knew no modes of coordinates: an element of the result came from its index over
    the scale, rounded down, or up where the image shrinks, as onnxruntime has it. The converter leaves the new default.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node, _ in _nodes(proto) if node.op_type == "Constant"}
    for node, _ in _nodes(proto):
        if node.op_type == "Resize" and node.domain in ("", "ai.onnx"):
            scales = constants.get(node.input[2]) if len(node.input) > 2 else None
            shrinks = scales is not None and bool((numpy_helper.to_array(scales) <= 1).all())
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def has_quantization(proto: onnx.ModelProto) -> bool:
    """Whether a Q or DQ stands anywhere in the model."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node, _ in _nodes(proto))


def _since(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """ONNX's own operators, with the opset in which each has become what it is here."""
    for node, opset in _nodes(proto):
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, opset, ""):
            yield node, onnx.defs.get_schema(node.op_type, opset, "").since_version


def _nodes(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """All nodes, those in bodies and functions as well, with their opset."""
    for nodes, opset in [
        (proto.graph.node, opset_of(proto)),
        *((function.node, opset_of(function)) for function in proto.functions),
    ]:
        yield from ((node, opset) for node in with_inner(nodes))


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name or node.output[0]}'"
