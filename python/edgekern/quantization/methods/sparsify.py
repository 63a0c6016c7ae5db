"""Sparsity: weights that matter least become 0, by magnitude or by Wanda (Sun et al., arXiv 2306.11695).

Magnitude compares all weights of a layer; Wanda multiplies each by the norm of what it is multiplied by, and compares
those of one output. N:M keeps N of every M weights side by side along the inputs, by either score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgekern._arguments import number, string
from edgekern._warn import warn_caller
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning, QuantizationError
from edgekern.graph.values import label
from edgekern.quantization.methods.float_model import (
    Samples,
    float32_of,
    opened_float,
    replace_constant,
    see,
    written_float,
)
from edgekern.quantization.methods.linear_layers import linear_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekern.graph.model import ModelLike

FloatArray = npt.NDArray[np.floating]
SHARE = 0.5


def sparsify(
    model: ModelLike,
    *,
    method: Literal["magnitude", "wanda"] = "magnitude",
    sparsity: float | None = None,
    pattern: str | None = None,
    samples: Samples | None = None,
    keep: Sequence[str] = (),
) -> onnx.ModelProto:
    """Set the least important weights of Conv, Gemm and MatMul to 0.

    The weights stay dense arrays of the same size: nothing gets faster on dense kernels, which edgekern's are, and the
    file gets smaller only where it is compressed. What a model loses is for its owner to measure.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32. It is not changed.
    method : "magnitude" or "wanda"
        A weight's score: its magnitude, or that times the norm of the input channel that it multiplies.
    sparsity : float, optional
        The share of each layer that becomes 0, from 0 to below 1: of the whole layer by magnitude, of each output by
        Wanda. 0.5 where neither this nor a pattern is given.
    pattern : str, optional
        ``"2:4"`` keeps 2 of every 4 weights side by side along the input channels, instead of a share. Layers whose
        input channels no such group divides are left.
    samples : Calibrator, or iterable of feeds, optional
        For Wanda: what the model is run on.
    keep : sequence of str
        Rules for layers that stay as they are: an operator's type, or a pattern of node names.

    Returns
    -------
    onnx.ModelProto
        :func:`edgekern.quantization.sparsity_of` measures it.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, a rule names no layer, or the model is not ONNX.
    CalibrationError
        When there are no samples, or onnxruntime cannot run the model on them.
    QuantizationError
        When the model is quantized, or has no layer that takes it.

    Warns
    -----
    EdgekernWarning
        Of layers that a pattern does not fit.

    Examples
    --------
    >>> sparse = ek.sparsify("model.onnx", pattern="2:4")                # doctest: +SKIP
    >>> ek.quantization.sparsity_of(sparse)                              # doctest: +SKIP
    {'/fc1/MatMul': 0.5, '/fc2/MatMul': 0.5}
    """
    if method not in ("magnitude", "wanda"):
        raise ArgumentValueError(f"sparsify: method must be 'magnitude' or 'wanda', got {method!r}")
    if (method == "wanda") != (samples is not None):
        raise ArgumentValueError(
            "sparsify: method 'wanda' needs samples; give feeds (the command: DATA), or take 'magnitude'"
            if samples is None
            else "sparsify: samples are for method 'wanda', got some for 'magnitude'"
        )
    if sparsity is not None and pattern is not None:
        raise ArgumentValueError(f"sparsify: sparsity must not be given with a pattern, got {sparsity} and {pattern!r}")
    share, group = _share(SHARE if sparsity is None else sparsity), _pattern(pattern)
    opened = opened_float(model, function="sparsify")
    layers = _chosen(_layers(opened.graph), keep)
    norms = {} if samples is None else _norms(opened, layers, samples)
    left = []
    for node in layers:
        weights = _by_input(node)
        score = np.abs(weights)
        if method == "wanda":
            norm = norms.get(node)
            if norm is None or norm.shape[-1] != weights.shape[-1]:
                left.append(node)  # groups of a convolution read different channels
                continue
            score = score * norm
        if group is not None:
            if weights.shape[-1] % group[1]:
                left.append(node)
                continue
            zeros = _least(score.reshape(-1, group[1]), group[1] - group[0])
        else:
            rows = score.reshape(len(weights), -1) if method == "wanda" else score.reshape(1, -1)
            zeros = _least(rows, round(share * rows.shape[1]))
        _replace(node, np.where(zeros.reshape(weights.shape), 0.0, weights))
    if len(left) == len(layers):
        raise QuantizationError(
            "sparsify: no layer of model by constant weights takes the method and the pattern; "
            "take a pattern that divides their inputs, or a share (sparsity=)"
        )
    if left:
        shown = ", ".join(repr(label(node)) for node in left[:4])
        warn_caller(
            f"sparsify: {len(left)} layers stay as they were, as their inputs do not fit: {shown}"
            f"{', ...' if len(left) > 4 else ''}",
            EdgekernWarning,
        )
    return written_float(opened)


def sparsity_of(model: ModelLike) -> dict[str, float]:
    """The share of weights that are 0, of each Conv, Gemm and MatMul by constant float32 weights, as counted.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto

    Returns
    -------
    dict of str to float
        By the names of nodes, in the order of the model.
    """
    opened = opened_float(model, function="sparsity_of")
    return {label(node): float(np.mean(_by_input(node) == 0)) for node in _layers(opened.graph)}


def _share(given: object) -> float:
    share = number("sparsify", "sparsity", given)
    if not 0 <= share < 1:
        raise ArgumentValueError(f"sparsify: sparsity must be at least 0 and below 1, got {share}")
    return share


def _pattern(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"([0-9]+):([0-9]+)", string("sparsify", "pattern", given))
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ArgumentValueError(f"sparsify: pattern must be like '2:4', two of every four are kept, got {given!r}")
    return int(found[1]), int(found[2])


def _layers(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if linear_of(node) is not None or _is_convolution(node)]


def _is_convolution(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "Conv" and float32_of(node.inputs[1]) is not None


def _chosen(layers: list[ir.Node], keep: object) -> list[ir.Node]:
    """Those that no rule keeps."""
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise ArgumentTypeError(f"sparsify: keep must be a list of rules, got {keep!r}")
    kept: set[ir.Node] = set()
    for rule in keep:
        told = string("sparsify", "a rule of keep", rule)
        named = [node for node in layers if told == node.op_type or fnmatchcase(label(node), told)]
        if not named:
            raise ArgumentValueError(f"sparsify: the rule {rule!r} of keep names no Conv, Gemm or MatMul of the model")
        kept.update(named)
    if len(kept) == len(layers):
        raise QuantizationError(
            "sparsify: keep leaves no layer" if layers else "sparsify: model has no Conv, Gemm or MatMul by constants"
        )
    return [node for node in layers if node not in kept]


def _by_input(node: ir.Node) -> npt.NDArray[np.float64]:
    """Weights with outputs first and input channels last; the taps of a filter between them."""
    weights = float32_of(node.inputs[1])
    assert weights is not None
    layer = linear_of(node)
    return np.moveaxis(weights, 1, -1) if layer is None else layer.weights


def _replace(node: ir.Node, weights: FloatArray) -> None:
    layer = linear_of(node)
    if layer is None:
        replace_constant(node, 1, np.moveaxis(weights, -1, 1))
    else:
        layer.change_inputs(lambda _: weights)


def _least(score: FloatArray, count: int) -> npt.NDArray[np.bool_]:
    """The ``count`` smallest of each row."""
    found = np.zeros(score.shape, bool)
    np.put_along_axis(found, np.argsort(score, axis=1, kind="stable")[:, :count], True, axis=1)
    return found


def _norms(model: ir.Model, layers: list[ir.Node], samples: Samples) -> Mapping[ir.Node, FloatArray]:
    """The root of the mean square of each input channel."""
    found: dict[ir.Node, FloatArray] = {}
    given = list(samples) if isinstance(samples, Iterator) else samples
    for axis in (-1, 1):
        nodes = [node for node in layers if (linear_of(node) is None) == (axis == 1)]
        names = {node: str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None}
        seen = see(model, names.values(), given, function="sparsify", axis=axis) if names else {}
        found |= {node: np.sqrt(seen[name].square) for node, name in names.items() if name in seen}
    return found
