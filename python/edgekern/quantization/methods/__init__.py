"""Methods: one file for each way to make the integers of a layer better than the nearest ones.

A method is a function, or an object that is called, of one signature::

    def method(rows: Rows) -> Rows: ...

:class:`~edgekern.quantization.weights.Rows` are some output channels of one Conv, Gemm or MatMul: float weights, scale,
integers, bias, and what ``Ranges`` carry of the activation that the weights multiply (its channel means). They come as
a whole answer and go as a better one; a method changes what its paper is about and nothing else:

========================  =======================================================================================
rounding                  ``rows.with_codes(...)``: filter sums here; AdaRound and GPTQ, with ``rows.statistics``
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
from edgekern.quantization.methods.group_search import search_groups
from edgekern.quantization.methods.hqq import hqq_groups
from edgekern.quantization.methods.rounding import keep_filter_sums
from edgekern.quantization.weights import Method, Rows

__all__ = ["GroupRounding", "Method", "Rows", "group_rounding_of", "methods_of"]

# Weights (columns, k) and how many of them share a scale -> their codes.
GroupRounding = Callable[[Float32Array, int], GroupedWeights]


def methods_of(config: QuantConfig) -> tuple[Method, ...]:
    """What a configuration asks for, in the order in which it runs."""
    rounding: tuple[Method, ...] = (keep_filter_sums,) if config.rounding == "filter_sum" else ()
    return (*rounding, correct_bias) if config.bias_correction else rounding


def group_rounding_of(config: QuantConfig) -> GroupRounding:
    """How groups of 4-bit weights are rounded."""
    ways: dict[str, GroupRounding] = {"max": quantize_groups, "mse": search_groups, "hqq": hqq_groups}
    return ways[config.group_scales]
