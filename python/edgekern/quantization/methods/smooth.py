"""SmoothQuant: what makes activations hard to round is moved into weights (Xiao et al., arXiv 2211.10438).

A few channels of a transformer's activations are a hundred times as large as the others, and one scale for all has to
span them. Each channel is divided by a factor where it is made, and the weights that multiply it are multiplied by the
factor: the same function of floats, with activations that vary less and weights that vary more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edgekern._arguments import flag, number
from edgekern._warn import warn_caller
from edgekern.errors import ArgumentValueError, EdgekernWarning, QuantizationError
from edgekern.quantization.methods.channel_takers import Place, inserted, places_of
from edgekern.quantization.methods.float_model import Samples, Seen, opened_float, see, written_float
from edgekern.quantization.methods.linear_layers import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgekern.graph.model import ModelLike

FloatArray = npt.NDArray[np.floating]

ALPHAS = tuple(step / 10 for step in range(1, 10))
_LEAST, _MOST = 1e-5, 1e5


def smooth(
    model: ModelLike, samples: Samples, *, alpha: float | Literal["auto"] = 0.5, insert: bool = False
) -> onnx.ModelProto:
    """Move factors of input channels from activations to the weights of MatMul and Gemm (SmoothQuant).

    A channel's factor is ``max|x| ** alpha / max|w| ** (1 - alpha)``. It goes into what gives the activation: gain and
    bias of a norm, the linear layer or the product before, through ReLU, gates, and attention from values to outputs.
    The model that is returned computes the same, up to float32's rounding. Calibrate it, not the one that was given.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32. It is not changed.
    samples : Calibrator, or iterable of feeds
        What the model is run on: the samples that a calibrator of it kept, or mappings from input names to arrays.
    alpha : float or "auto"
        From 0, where weights get equal and activations keep all, to 1. ``"auto"`` tries 0.1 to 0.9, and none, for each
        activation, and takes what leaves the least error of its layers in 8 bits, with one scale for the activation.
    insert : bool
        Put a Mul before layers whose activation nobody can scale, as in BERT, where a norm's result is added to what
        comes later. It costs a pass over the activation.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, or the model is not ONNX.
    CalibrationError
        When there are no samples, or onnxruntime cannot run the model on them.
    QuantizationError
        When the model is quantized, or no layer's activation can be scaled.

    Warns
    -----
    EdgekernWarning
        Of layers that are left as they were, and why.

    Examples
    --------
    >>> smoothed = ek.smooth("model.onnx", calibrator)                     # doctest: +SKIP
    >>> ranges = ek.Calibrator(smoothed).collect_many(batches).compute_ranges()  # doctest: +SKIP
    """
    if alpha != "auto":
        alpha = number("smooth", "alpha", alpha)
        if not 0 <= alpha <= 1:
            raise ArgumentValueError(f"smooth: alpha must be between 0 and 1, or 'auto', got {alpha!r}")
    opened = opened_float(model, function="smooth")
    places, seen = seen_places(opened, samples, insert=insert, function="smooth")
    for place in places:
        factors = _factors(place, seen, alpha)
        if factors is not None:
            place.move(factors)
    return written_float(opened)


def seen_places(
    model: ir.Model, samples: Samples, *, insert: bool, function: str
) -> tuple[list[Place], dict[str, Seen]]:
    """Where factors can be moved and samples come by, with a warning of where they cannot; and what samples show."""
    places = _chosen_places(model, insert=flag(function, "insert", insert), function=function)
    seen = see(model, names_of(places), samples, function=function)
    return [place for place in places if all(name in seen for name in names_of([place]))], seen


def _chosen_places(model: ir.Model, *, insert: bool, function: str) -> list[Place]:
    places, left = places_of(model.graph)
    if insert:
        places, left = [*places, *inserted(list(left))], {}
    if not places:
        raise QuantizationError(
            f"{function}: no activation of model can be scaled where it is made{_reasons(left)}; insert=True puts a "
            "Mul before its layers"
            if left
            else f"{function}: model has no MatMul or Gemm by constant float32 weights"
        )
    if left:
        warn_caller(f"{function}: {len(left)} layers keep their activations{_reasons(left)}", EdgekernWarning)
    return places


def _reasons(left: Mapping[Linear, str]) -> str:
    shown = [f"{layer.name!r} ({reason})" for layer, reason in list(left.items())[:4]]
    return f": {', '.join(shown)}{', ...' if len(left) > len(shown) else ''}" if shown else ""


def names_of(places: list[Place]) -> list[str]:
    """What the layers of places read."""
    return [str(layer.input.name) for place in places for layer, _ in place.layers]


def by_channel(place: Place, values: Mapping[Linear, FloatArray]) -> npt.NDArray[np.float64]:
    """The largest of what is known of each input of the layers, by channel; 0 of channels that none reads."""
    found = np.zeros(place.channels)
    for layer, channel in place.layers:
        np.maximum.at(found, channel, values[layer])
    return found


def _factors(place: Place, seen: Mapping[str, Seen], alpha: float | str) -> npt.NDArray[np.float64] | None:
    largest = by_channel(place, {layer: seen[str(layer.input.name)].largest for layer, _ in place.layers})
    weights = by_channel(place, {layer: np.abs(layer.weights).max(axis=0, initial=0) for layer, _ in place.layers})
    if not isinstance(alpha, str):
        return _powers(largest, weights, alpha)
    tried = [_powers(largest, weights, each) for each in ALPHAS]
    errors = [_error(place, seen, np.ones(place.channels)), *(_error(place, seen, factors) for factors in tried)]
    best = int(np.argmin(errors))
    return None if best == 0 else tried[best - 1]


def _powers(largest: FloatArray, weights: FloatArray, alpha: float) -> npt.NDArray[np.float64]:
    """1 where an activation or its weights are all 0."""
    live = (largest > 0) & (weights > 0)
    x, w = np.where(live, largest, 1.0), np.where(live, weights, 1.0)
    return np.clip(np.where(live, x**alpha / w ** (1 - alpha), 1.0), _LEAST, _MOST)


def _error(place: Place, seen: Mapping[str, Seen], factors: FloatArray) -> float:
    """What 8 bits cost the layers' outputs, with one scale for the activation and one for each column."""
    total = 0.0
    for layer, channel in place.layers:
        weights = layer.weights.astype(np.float32)
        given, own = seen[str(layer.input.name)], factors[channel].astype(np.float32)
        rows, limits = given.rows, (float((given.least / own).min(initial=0)), float((given.most / own).max(initial=0)))
        made = _rounded_rows(rows / own, *limits) @ _rounded_columns(weights * own).T - rows @ weights.T
        total += float(np.square(made, out=made).sum(dtype=np.float64))
    return total if math.isfinite(total) else math.inf


def _rounded_rows(rows: npt.NDArray[np.float32], lo: float, hi: float) -> npt.NDArray[np.float32]:
    step = np.float32((hi - lo) / 255 or 1.0)
    made: npt.NDArray[np.float32] = np.rint(rows / step) * step
    return made


def _rounded_columns(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    step = np.abs(weights).max(axis=1, keepdims=True, initial=0) / np.float32(127)
    step[step == 0] = 1
    made: npt.NDArray[np.float32] = np.rint(weights / step) * step
    return made
