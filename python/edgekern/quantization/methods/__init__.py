"""Methods: one file for each way to make the integers of a layer better than the nearest ones.

A method is a function, or an object that is called, of one signature::

    def method(rows: Rows) -> Rows: ...

:class:`~edgekern.quantization.weights.Rows` are some output channels of one Conv, Gemm or MatMul: float weights, scale,
integers, bias, and what ``Ranges`` carry of the activation that the weights multiply (its channel means). They come as
a whole answer and go as a better one; a method changes what its paper is about and nothing else:

========================  =======================================================================================
rounding                  ``rows.with_codes(...)``: filter sums; GPTQ and AdaRound, with ``rows.statistics``
the choice of scales      ``rows.with_scale(...)``, which rounds anew
what the bias can mend    ``replace(rows, bias=...)``: bias correction
========================  =======================================================================================

It must be a pure function of the rows: a layer comes in pieces, in any number, and a piece comes again when one of its
accumulators could pass 2**31 and its scale has to grow. Methods run in the order of :func:`methods_of`: scales, codes,
bias. A statistic that is not there is no error; the rows are given back as they were.

Equalization (Nagel et al., 2019) moves factors from the float weights of one layer to those of the next. That changes
the ranges between them as well, so it is a function of a model and belongs before calibration, not here.
"""

from collections.abc import Callable

from edgekern.quantization.config import QuantConfig
from edgekern.quantization.four_bits import Float32Array, GroupedWeights, quantize_groups
from edgekern.quantization.methods.bias_correction import correct_bias
from edgekern.quantization.methods.by_moments import (
    AdaRoundRows,
    GptqRows,
    ScaleSearch,
    adaround_groups,
    gptq_codes,
    gptq_groups,
)
from edgekern.quantization.methods.group_search import search_groups
from edgekern.quantization.methods.hqq import hqq_groups
from edgekern.quantization.methods.rounding import keep_filter_sums
from edgekern.quantization.weights import FloatArray, Method, Rows

__all__ = ["GroupRounding", "Method", "Rows", "group_rounding_of", "methods_of", "needs_samples"]

# Weights (columns, k), how many of them share a scale, and second moments of what they multiply -> their codes.
GroupRounding = Callable[[Float32Array, int, FloatArray | None], GroupedWeights]
_OF_SAMPLES = ("gptq", "adaround")


def needs_samples(config: QuantConfig) -> bool:
    """Whether a configuration rounds by what layers multiply."""
    return config.rounding in _OF_SAMPLES


def methods_of(config: QuantConfig) -> tuple[Method, ...]:
    """What a configuration asks for, in the order in which it runs."""
    mended = config.bias_correction
    ways: dict[str, tuple[Method, ...]] = {
        "nearest": (),
        "filter_sum": (keep_filter_sums,),
        "gptq": (ScaleSearch(mended), GptqRows(mended)),
        "adaround": (ScaleSearch(mended), AdaRoundRows(mended)),
    }
    return (*ways[config.rounding], correct_bias) if mended else ways[config.rounding]


def group_rounding_of(config: QuantConfig) -> GroupRounding:
    """How groups of 4-bit weights are rounded."""
    ways = {"max": quantize_groups, "mse": search_groups, "hqq": hqq_groups}
    scales = ways[config.group_scales]

    def rounded(weights: Float32Array, group: int, moments: FloatArray | None) -> GroupedWeights:
        if moments is None or not needs_samples(config):
            return scales(weights, group)
        if config.rounding == "adaround":
            return adaround_groups(scales(weights, group), weights, moments)
        if config.group_scales == "max":
            return gptq_groups(weights, group, moments)
        return gptq_codes(scales(weights, group), weights, moments)

    return rounded
