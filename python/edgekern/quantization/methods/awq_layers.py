"""AWQ on a model: factors of input channels are moved into weights before they are rounded to 4 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.four_bits import groups_of, restored
from edgekern.quantization.methods import GroupRounding, group_rounding_of
from edgekern.quantization.methods.awq import Float32Array, output_error, search_factors
from edgekern.quantization.methods.channel_takers import Place
from edgekern.quantization.methods.float_model import Samples, Seen, opened_float, written_float
from edgekern.quantization.methods.smooth import by_channel, names_of, seen_places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekern.graph.model import ModelLike


def awq(
    model: ModelLike, samples: Samples, config: QuantConfig | None = None, *, insert: bool = False
) -> onnx.ModelProto:
    """Move factors of input channels into weights, so that those count that much goes through (AWQ).

    A factor is the mean magnitude of its channel to a power, which is searched for at each activation: that which
    leaves the least error of its layers' outputs when ``config`` has rounded their weights (Lin et al., arXiv
    2306.00978). Where factors go, and what is warned of, is as in :func:`edgekern.smooth`. The model that is returned
    computes the same; quantize it by the same configuration.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32. It is not changed.
    samples : Calibrator, or iterable of feeds
        What the model is run on: the samples that a calibrator of it kept, or mappings from input names to arrays.
    config : QuantConfig, optional
        With a recipe of 4-bit weights by groups; ``"w4a8-g32"`` where none is given.
    insert : bool
        Put a Mul before layers whose activation nobody can scale.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, ``config`` has another recipe, or the model is not ONNX.
    CalibrationError
        When there are no samples, or onnxruntime cannot run the model on them.
    QuantizationError
        When the model is quantized, or no layer's activation can be scaled.

    Warns
    -----
    EdgekernWarning
        Of layers that are left as they were, and why.
    """
    config = QuantConfig(recipe="w4a8-g32") if config is None else config
    if not isinstance(config, QuantConfig):
        raise ArgumentTypeError(f"awq: config must be a QuantConfig, got {type(config).__name__}")
    groups = groups_of(config.recipe)
    if groups is None:
        raise ArgumentValueError(
            f"awq: config must have a recipe of 4-bit weights by groups, such as 'w4a8-g32', got {config.recipe!r}; "
            "smooth is for recipes of 8 bits"
        )
    opened = opened_float(model, function="awq")
    places, seen = seen_places(opened, samples, insert=insert, function="awq")
    for place in places:
        _move(place, seen, group_rounding_of(config), groups.size)
    return written_float(opened)


def _move(place: Place, seen: Mapping[str, Seen], rounding: GroupRounding, group: int) -> None:
    magnitudes = by_channel(place, {layer: seen[str(layer.input.name)].mean for layer, _ in place.layers})
    moments = {name: _moments(seen[name].rows) for name in names_of([place])}

    def error_of(factors: Float32Array) -> float:
        total = 0.0
        for layer, channel in place.layers:
            weights, own = layer.weights.astype(np.float32), factors[channel]
            left = restored(rounding(weights * own, group)) / own - weights
            total += output_error(left, moments[str(layer.input.name)])
        return total

    found = search_factors(magnitudes, error_of)
    if found.alpha:
        place.move(found.factors.astype(np.float64))


def _moments(rows: Float32Array) -> Float32Array:
    made: Float32Array = rows.T @ rows / np.float32(max(len(rows), 1))
    return made
