"""Bring a float graph into the form that quantization expects: constants as initializers, BatchNormalization folded."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.graph.copies import eliminate_identities
from edgekern.graph.families import affine, batch_norm_affine
from edgekern.graph.initializers import lazy_initializer, new_initializer
from edgekern.graph.values import attribute, float_constant, int_attribute, is_float_constant, sole_consumer
from edgekern.quantization.rules import is_kept
from edgekern.quantization.weights import blocks

FloatArray = npt.NDArray[np.floating]


def prepare(model: ir.Model) -> None:
    """Simplify ``model`` in place; every tensor that is left keeps its name and its meaning.

    Constants become initializers, Identity and inference-time Dropout go, BatchNormalization and constants for each
    channel are folded into the Conv or Gemm before them, a MatMul with a constant bias becomes a Gemm, and every Gemm
    gets ``alpha = beta = 1``.
    """
    for simplify in (
        passes.RemoveInitializersFromInputsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ):
        simplify(model)
    eliminate_identities(model.graph)
    passes.ShapeInferencePass()(model)
    for node in list(model.graph):
        if _fold_channels_of(node):
            continue
        if node.op_type == "BatchNormalization" and node.domain == "":
            _as_depthwise(node)
        elif node.op_type == "Add" and node.domain == "":
            _fuse_matmul_bias(node)
    for node in list(model.graph):
        if node.op_type == "Gemm" and node.domain == "":
            _normalize_gemm(node)
    passes.RemoveUnusedNodesPass()(model)


def fold_channels(graph: ir.Graph) -> None:
    """Fold BatchNormalization, and constants for each channel, into the float Conv or Gemm before them, in place.

    ``(x - mean) * gamma / sqrt(var + epsilon) + beta`` goes into its weights and bias, in float64.
    """
    for node in list(graph):
        _fold_channels_of(node)


@np.errstate(divide="ignore", invalid="ignore")  # what is not finite stays as it is
def _fold_channels_of(node: ir.Node) -> bool:
    if node.op_type != "BatchNormalization":
        return _fold_per_channel(node)
    found = batch_norm_affine(node)
    before = None if found is None else found[0].producer()
    if found is None or before is None or sole_consumer(found[0]) is not node or _is_kept_alone(node, before):
        return False
    return _scale_channels(before, node, *found[1:])


def _is_kept_alone(node: ir.Node, before: ir.Node) -> bool:
    """Whether a rule keeps a node in float32, and not the one that it could become a part of."""
    return is_kept(node) and not is_kept(before)


def _graph(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _shape(value: ir.Value) -> tuple[int, ...]:
    """Of a constant."""
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _take_over(node: ir.Node, later: ir.Node) -> None:
    """Let ``node`` give what ``later`` gave, under the same name, and remove ``later``."""
    old, new = later.outputs[0], node.outputs[0]
    name, new.type, new.shape = old.name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    _graph(later).remove(later, safe=True)
    new.name = name


def _weights_of(node: ir.Node) -> tuple[ir.Value, int] | None:
    """The constant float weights of a Conv, ConvTranspose or Gemm and their output-channel axis."""
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weights = node.inputs[1]
    if weights is None or not is_float_constant(weights):
        return None
    if node.op_type == "ConvTranspose":
        return (weights, 1) if int_attribute(node, "group", 1) == 1 else None
    return weights, 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0


def _scaled(weights: ir.Value, factor: FloatArray, axis: int) -> Callable[[], FloatArray]:
    """``weights`` times a factor for each index of ``axis``, in float64, a few of them at a time."""
    tensor = weights.const_value
    assert tensor is not None

    def compute() -> FloatArray:
        values = tensor.numpy()
        scaled = np.empty(values.shape, np.float32)
        source, target = np.moveaxis(values, axis, 0), np.moveaxis(scaled, axis, 0)
        factors = np.broadcast_to(factor, source.shape[:1]).reshape(-1, *[1] * (values.ndim - 1))
        for rows in blocks(source.shape):
            target[rows] = source[rows] * factors[rows]
        return scaled

    return compute


def _scale_channels(before: ir.Node, node: ir.Node, factor: FloatArray, shift: FloatArray) -> bool:
    """Let a Conv or Gemm give ``x * factor + shift`` as ``node`` behind it did; False if it cannot."""
    found = _weights_of(before)
    bias_value = before.inputs[2] if len(before.inputs) > 2 else None
    bias = np.float32(0) if bias_value is None else float_constant(bias_value)
    if found is None or bias is None or (before.op_type == "Gemm" and attribute(before, "beta", 1.0) != 1.0):
        return False
    weights, axis = found
    graph, name = _graph(node), node.outputs[0].name
    shifted = (bias * factor + shift).astype(np.float32)
    before.resize_inputs(3)
    if np.any(factor != 1.0):
        before.replace_input_with(1, lazy_initializer(graph, f"{name}_weight", weights, _scaled(weights, factor, axis)))
    before.replace_input_with(2, new_initializer(graph, f"{name}_bias", shifted))
    _take_over(before, node)
    return True


def _fold_per_channel(node: ir.Node) -> bool:
    """Fold a constant for each channel, added or multiplied, into the Conv or Gemm before it; False where it cannot."""
    found = affine(node)
    before = None if found is None else found[0].producer()
    layer = None if before is None else _weights_of(before)
    if found is None or before is None or layer is None:
        return False
    source, factor, shift = found
    if before.op_type == "Gemm":
        rank = 2
    elif source.shape is not None:
        rank = len(source.shape)
    else:
        return False  # the axis that a constant runs along counts from the last one
    weights, axis = layer
    channels = _shape(weights)[axis]
    shape = (1,) * (rank - factor.ndim) + factor.shape
    if (
        _is_kept_alone(node, before)
        or sole_consumer(source) is not node
        or channels == 1
        or shape != (1, channels, *[1] * (rank - 2))
    ):
        return False
    if not np.isfinite([factor, shift]).all():
        return False  # as weights and a bias they would be refused under names that the model does not have
    return _scale_channels(before, node, factor.reshape(-1), shift.reshape(-1))


@np.errstate(divide="ignore", invalid="ignore")
def _as_depthwise(node: ir.Node) -> None:
    """Let a depthwise 1x1 Conv, which has an integer kernel, do a BatchNormalization of an image that no Conv gave."""
    found = batch_norm_affine(node)
    if found is None:
        return
    source, factor, shift = found
    if source.shape is None or len(source.shape) != 4:
        return
    graph, name = _graph(node), node.outputs[0].name
    weights = new_initializer(graph, f"{name}_weight", factor.astype(np.float32).reshape(-1, 1, 1, 1))
    bias = new_initializer(graph, f"{name}_bias", shift.astype(np.float32))
    conv = ir.Node("", "Conv", [source, weights, bias], [ir.AttrInt64("group", factor.size)], name=node.name)
    conv.meta.update(node.meta)
    graph.insert_before(node, conv)
    _take_over(conv, node)


def _fuse_matmul_bias(node: ir.Node) -> None:
    """Write ``MatMul(x, w) + b`` as a Gemm where x and w are matrices, so that the bias becomes an int32 one."""
    for product, addend in (node.inputs, reversed(node.inputs)):
        before = None if product is None else product.producer()
        if before is None or product is None or before.op_type != "MatMul" or sole_consumer(product) is not node:
            continue
        if _is_kept_alone(node, before):
            continue
        weights, x = before.inputs[1], before.inputs[0]
        if weights is None or x is None or x.shape is None or not is_float_constant(weights):
            continue
        shape, bias = _shape(weights), float_constant(addend)
        if len(x.shape) != 2 or len(shape) != 2 or bias is None or bias.shape not in ((shape[1],), (1, shape[1])):
            continue
        gemm = ir.Node("", "Gemm", [x, before.inputs[1], addend], name=before.name)
        gemm.meta.update(before.meta)
        graph = _graph(node)
        graph.insert_before(node, gemm)
        _take_over(gemm, node)
        graph.remove(before, safe=True)
        return


def _normalize_gemm(node: ir.Node) -> None:
    """Fold ``alpha`` into constant weights and ``beta`` into a constant bias, and make the bias a vector."""
    found = _weights_of(node)
    if found is None:
        return
    weights, axis = found
    graph, channels = _graph(node), _shape(weights)[axis]
    if (alpha := attribute(node, "alpha", 1.0)) != 1.0:
        compute = _scaled(weights, np.array([alpha]), axis)
        node.replace_input_with(1, lazy_initializer(graph, f"{node.outputs[0].name}_weight", weights, compute))
        node.attributes.pop("alpha")
    bias = float_constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None or (bias.ndim == 2 and bias.shape[0] != 1):
        return
    beta = attribute(node, "beta", 1.0)
    if beta == 1.0 and bias.shape == (channels,):
        return
    vector = np.broadcast_to((bias * np.float64(beta)).astype(np.float32).reshape(-1), (channels,)).copy()
    node.replace_input_with(2, new_initializer(graph, f"{node.outputs[0].name}_bias", vector))
    node.attributes.pop("beta", None)
