"""The recipe "auto": for each product, what calibration shows to suit it.

One scale for a tensor is chosen for its largest values. Where few are large (the outliers of transformers), the rest is
rounded to noise, and the product carries that noise into everything behind. How much is known before anything runs: the
error of rounding the tensor, which calibration measured, times the weights' energy, and the tensor's power times what
rounding adds to the weights, against the power of the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.calibration import Ranges, TensorRange
from edgekern.graph.dynamic import takes_rows, weight_inputs
from edgekern.graph.families import CONVOLUTIONS, PRODUCTS, RECURRENT
from edgekern.graph.prices import float_price
from edgekern.graph.values import float_attribute, float_constant, int_attribute, is_float_constant
from edgekern.quantization.config import Granularity
from edgekern.quantization.regions import reads_convolution, regions
from edgekern.quantization.rules import give, is_kept, is_named, is_wide

# A region with a product under it multiplies by rows. Ordinary products have 35 dB and more.
ROWS_DB = 30.0
# What all convolutions together may lose: errors add up, however deep the net, and where more is lost, little is right.
TOTAL_DB = 15.0


def choose_recipes(graph: ir.Graph, results: Mapping[ir.Node, float | None]) -> None:
    """Mark the nodes of a prepared graph that are not to be "w8a8", by what :func:`results_db` knows of the products.

    Nodes that a rule has named are as it wants.

    *Rows.* A region is what hangs together between convolutions. Where no convolution gives it 8-bit codes (one that
    cuts a picture into patches gives it rows), or a Gemm or MatMul by a matrix in it would lose too much, its products
    multiply by rows, and all between them is float32, for it would be rounded again. Recurrent layers are: they feed
    their own rounding back, step by step.

    *Float.* The errors of all 8-bit products add up as powers. While the sum is too large, the convolution that adds
    most for a multiply-add goes to float32, or by rows where it reads each number once.
    """
    for region in regions(graph):
        products = [node for node in region if node in results and node.op_type in PRODUCTS and not is_named(node)]
        rows = [node for node in products if takes_rows(node)]
        lossy = any((db := results[node]) is not None and db < ROWS_DB for node in rows)
        if rows and (lossy or not any(map(reads_convolution, region))):
            for node in region:
                if not is_named(node):
                    give(node, "w8a8-dynamic" if node in rows else "float32")
    errors = {
        node: 10 ** (-db / 10)
        for node, db in results.items()
        if db is not None and not is_kept(node) and not is_wide(node)
    }
    total, allowed = sum(errors.values()), 10 ** (-TOTAL_DB / 10)
    convolutions = [node for node in errors if node.op_type in CONVOLUTIONS and not is_named(node)]
    for node in sorted(convolutions, key=lambda node: errors[node] / max(float_price(node).macs, 1), reverse=True):
        if total <= allowed:
            break
        give(node, "w8a8-dynamic" if takes_rows(node) else "float32")
        total -= errors[node]


def results_db(graph: ir.Graph, ranges: Ranges, granularity: Granularity = "channel") -> dict[ir.Node, float | None]:
    """For each product by constant weights, the signal to noise of its result where its input and they are rounded.

    As calibration chose, and in steps of each column, or of all of them; the errors count as white, but for channels
    that are always 0, which bring none, whatever their weights. None where the ranges do not know, and of recurrent
    layers.
    """
    products = (node for node in graph if node.domain == "" and node.op_type in PRODUCTS | RECURRENT)
    return {
        node: _result_db(node, ranges, granularity) if node.op_type in PRODUCTS else None
        for node in products
        if all(is_float_constant(node.inputs[at]) for at in weight_inputs(node))
    }


def _result_db(node: ir.Node, ranges: Ranges, granularity: Granularity) -> float | None:
    source = node.inputs[0]
    read = None if source is None else ranges.get(str(source.name))
    made = ranges.get(str(node.outputs[0].name))
    if read is None or made is None or read.noise is None or not made.power:
        return None
    weights = float_constant(node.inputs[1])
    if weights is None or not weights.size:
        return None
    outputs = weights.size // weights.shape[max(weights.ndim - 2, 0)]  # of a Gemm or MatMul
    if node.op_type == "Conv" or int_attribute(node, "transB", 0):
        outputs = weights.shape[0]
    elif node.op_type == "ConvTranspose":
        outputs = weights.shape[1] * int_attribute(node, "group", 1)
    live = _live(node, read, weights)
    flat = (weights if live is None else weights * live).reshape(-1)
    energy = float(np.einsum("i,i->", flat, flat, dtype=np.float64)) / outputs
    noise = read.noise * energy + (read.power or 0.0) * _rounding(node, weights, live, granularity) / outputs
    if live is not None:  # what calibration measured is the mean of all channels
        noise *= live.size / max(int(live.sum()), 1)
    noise *= float_attribute(node, "alpha", 1.0) ** 2
    return 10 * math.log10(made.power / noise) if noise > 0 else math.inf


def _live(node: ir.Node, read: TensorRange, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """1 for each weight of a Conv that meets more than zeros, 0 for the others; None where all do.

    A channel of values that are never negative and whose mean is 0 holds nothing else. Depthwise layers have huge
    weights there, once a BatchNormalization is folded into them.
    """
    means = read.channel_means
    if node.op_type != "Conv" or means is None or read.lo < 0 or 0.0 not in means:
        return None
    groups = int_attribute(node, "group", 1)
    by_group = (np.array(means) != 0).astype(np.float32).reshape(groups, 1, -1)
    rows = np.broadcast_to(by_group, (groups, len(weights) // groups, by_group.shape[-1])).reshape(len(weights), -1)
    return np.broadcast_to(rows.reshape(*rows.shape, *[1] * (weights.ndim - 2)), weights.shape)


def _rounding(
    node: ir.Node,
    weights: npt.NDArray[np.float32],
    live: npt.NDArray[np.float32] | None,
    granularity: Granularity,
) -> float:
    """The energy that rounding adds to all weights that are live: a twelfth of the square of each one's step."""
    axis = 1 - int_attribute(node, "transB", 0) if node.op_type in ("Gemm", "MatMul") else 0
    axis = 1 if node.op_type == "ConvTranspose" else axis
    axis = min(axis, weights.ndim - 1)
    others = tuple(at for at in range(weights.ndim) if at != axis)
    steps = np.abs(weights).max(axis=others, initial=0).astype(np.float64) / 127
    if granularity == "tensor":
        steps[:] = steps.max(initial=0)
    counts = weights.size / max(len(steps), 1) if live is None else live.sum(axis=others, dtype=np.float64)
    return float((steps**2 * counts).sum()) / 12
