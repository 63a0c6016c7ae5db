"""Weights and biases: from floats to integers, some channels at a time, by whatever methods one asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgekern.quantization.encodings import MIN_SCALE, Encoding

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]

_MAX_ACCUMULATOR = 2**31 - 1
HIGHEST = {8: 127, 4: 7}  # of the codes of weights, by their bits
_BIAS_STEPS = 2**24  # what float32 tells apart
# Elements of a layer that are computed on at a time.
BLOCK = 1 << 18
# Kinds of statistics that samples give: (groups, k, k), and (groups, k), with inputs and taps of a filter in one axis.
SECOND_MOMENTS, INPUT_MEANS = "second_moments", "input_means"


@dataclass(frozen=True)
class WeightLayout:
    """Which axes of a weight tensor are output channel, input channel and taps.

    ``axis`` is the output channel and ``input_axis`` the input channel; all further axes are the taps of a filter for a
    Conv (``taps_are_summed``) and independent matrices for a MatMul.
    """

    axis: int
    input_axis: int
    groups: int = 1
    taps_are_summed: bool = True

    def by_channel(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View as (output channel, input channel of its group, taps)."""
        moved = np.moveaxis(weights, (self.axis, self.input_axis), (0, 1))
        return moved.reshape(*moved.shape[:2], math.prod(moved.shape[2:]))

    def largest_sum(self, values: FloatArray) -> FloatArray:
        """The largest ``sum |w|`` over what one accumulator sums, for each output channel."""
        sums = np.abs(values).sum(axis=1)
        result: FloatArray = sums.sum(axis=1) if self.taps_are_summed else sums.max(axis=1, initial=0.0)
        return result


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights and bias of one Conv, Gemm or MatMul as integers.

    ``values`` has the shape of the float weights; ``encoding`` one scale a channel. ``widened`` lists the channels
    whose scale had to grow so that no accumulator can pass 2**31.
    """

    values: npt.NDArray[np.int8]
    encoding: Encoding
    bias: npt.NDArray[np.int32] | None
    bias_scale: Float32Array
    widened: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some output channels of one layer on their way to integers.

    They are a whole answer from the start, with scales from the largest weight and each weight rounded to its nearest:
    a method makes a better one of it.

    Attributes
    ----------
    weights : (rows, inputs, taps) float64. Finite; ``inputs`` are those of the row's group.
    group : (rows,) int. Which group of the layer's inputs a row reads.
    bias : (rows,) float64, or None for 0.
    takes_bias : bool. Whether the operator can have a bias.
    statistics : mapping of str to array
        What is known of the activation that the weights multiply, by its kind: ``channel_means`` of calibration, and
        ``second_moments`` and ``input_means`` of samples.
    wanted_scale : (rows,) float32. What the scale would be, were there no accumulators to mind.
    least_scale : (rows,) float32. Below it an accumulator, or the bias' own scale, would leave its type.
    highest : int. Of codes: 127, or 7 of 4 bits.
    codes : (rows, inputs, taps) float64. Integers in [-highest, highest].
    """

    weights: npt.NDArray[np.float64]
    group: npt.NDArray[np.intp]
    bias: npt.NDArray[np.float64] | None
    takes_bias: bool
    statistics: Mapping[str, FloatArray]
    wanted_scale: Float32Array
    least_scale: Float32Array
    highest: int = HIGHEST[8]
    codes: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def scale(self) -> Float32Array:
        """The scale of each row's weights."""
        return np.maximum(self.wanted_scale, self.least_scale)

    @property
    def step(self) -> npt.NDArray[np.float64]:
        """The scale, to multiply codes by."""
        return self.scale.astype(np.float64).reshape(-1, 1, 1)

    def with_codes(self, codes: npt.NDArray[np.float64]) -> Self:
        """With other integers, clamped to those that weights have."""
        return replace(self, codes=np.clip(codes, -self.highest, self.highest))

    def with_scale(self, wanted: Float32Array) -> Self:
        """With another scale, where accumulators allow it, and each weight rounded to its nearest."""
        rescaled = replace(self, wanted_scale=wanted)
        return rescaled.with_codes(np.rint(self.weights / rescaled.step))


class Method(Protocol):
    """See :mod:`edgekern.quantization.methods`."""

    def __call__(self, rows: Rows, /) -> Rows: ...


def channel_scales(weights: FloatArray, axis: int, highest: int = HIGHEST[8]) -> Float32Array:
    """Return ``max|w| / highest`` of each channel, 1.0 where a channel is all zero.

    Parameters
    ----------
    weights : array of any rank
    axis : int. The channel axis.
    highest : int. The largest code.

    Returns
    -------
    (channels,) float32 array
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights.astype(np.float64)).max(axis=others, initial=0.0)
    return np.where(largest > 0.0, np.maximum(largest / highest, MIN_SCALE), 1.0).astype(np.float32)


def _wanted_scales(
    weights: npt.NDArray[np.float64], bias: FloatArray | None, step: float, highest: int
) -> Float32Array:
    """Those of channels; where all weights are zero, what keeps the bias, which has steps of ``step`` times a scale."""
    scale = channel_scales(weights, 0, highest)
    if bias is None:
        return scale
    fine = np.abs(bias.astype(np.float64)) / (step * _BIAS_STEPS)
    dead = ~weights.any(axis=(1, 2)) & (bias != 0)
    return np.where(dead, np.clip(fine, MIN_SCALE / min(step, 1.0), 1.0), scale).astype(np.float32)


def quantize_weights(
    weights: FloatArray,
    layout: WeightLayout,
    inputs: Encoding,
    *,
    methods: Sequence[Method],
    bias: FloatArray | None = None,
    takes_bias: bool = True,
    statistics: Mapping[str, FloatArray] | None = None,
    bits: int = 8,
) -> QuantizedWeights:
    """Quantize weights to symmetric integers per channel and the bias to int32 at scale ``s_x * s_w``.

    Parameters
    ----------
    weights : float array. Finite.
    layout : WeightLayout
    inputs : Encoding. Of the activation that these weights multiply; one scale.
    methods : sequence of Method, in the order in which they run. Without one, each weight goes to its nearest.
    bias : (channels,) float array, optional
    takes_bias : bool. Whether a method may make a bias where there is none.
    statistics : mapping of str to array, optional
        What observers kept of the activation, for the methods; see :class:`Rows`.
    bits : 8 or 4. Of the weights.

    Notes
    -----
    A channel for which ``|bias| + max|accumulator|`` could pass ``2**31 - 1`` gets a wider scale: a coarser weight is
    a small error, a wrapped accumulator a large one. The bound is of the integers as written, over every input
    that the activation's type can hold.
    """
    by_channel = layout.by_channel(weights)
    channels = by_channel.shape[0]
    values = np.empty(weights.shape, np.int8)
    stored = layout.by_channel(values)
    assert np.shares_memory(stored, values) or not values.size
    scale, widened = np.empty(channels, np.float32), np.zeros(channels, bool)
    bias_codes = None if bias is None else np.zeros(channels, np.int32)
    for block in blocks(by_channel.shape):
        wide = by_channel[block].astype(np.float64)
        rows = Rows(
            wide,
            group=np.arange(channels)[block] * layout.groups // channels,
            bias=None if bias is None else bias[block].astype(np.float64),
            takes_bias=takes_bias,
            statistics=statistics or {},
            wanted_scale=_wanted_scales(
                wide, None if bias is None else bias[block], float(inputs.scale), HIGHEST[bits]
            ),
            least_scale=np.full(len(wide), MIN_SCALE / float(inputs.scale), np.float32),  # so s_x * s_w stays normal
            highest=HIGHEST[bits],
        )
        rows, steps = _quantize_rows(rows, layout, inputs, methods)
        stored[block], scale[block], widened[block] = rows.codes, rows.scale, rows.scale != rows.wanted_scale
        if rows.bias is not None:
            bias_codes = np.zeros(channels, np.int32) if bias_codes is None else bias_codes
            bias_codes[block] = steps
    return QuantizedWeights(
        values,
        Encoding(scale, signed=True, bits=bits, axis=layout.axis),
        bias_codes,
        (float(inputs.scale) * scale.astype(np.float64)).astype(np.float32),
        tuple(int(i) for i in np.flatnonzero(widened)),
    )


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis so that a piece has about :data:`BLOCK` elements: what is computed in float64 is wide."""
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    yield from (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _quantize_rows(
    given: Rows, layout: WeightLayout, inputs: Encoding, methods: Sequence[Method]
) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Some channels of :func:`quantize_weights`, and their biases in steps of ``s_x * s_w``."""
    least = given.least_scale
    while True:
        rows = replace(given, least_scale=least).with_scale(given.wanted_scale)
        for method in methods:
            rows = method(rows)
        step = rows.scale.astype(np.float64)
        bias = np.zeros(len(step)) if rows.bias is None else np.rint(rows.bias / (float(inputs.scale) * step))
        reach = np.abs(bias)
        if inputs.bits == 8:  # sums of 16-bit products are wider than a bias, which alone is an int32
            reach = reach + inputs.max_distance * layout.largest_sum(rows.codes)
        over = reach > _MAX_ACCUMULATOR
        if not over.any():
            return rows, bias
        # 1e-3 more than needed, so that rounding cannot make a second step out of it.
        wider = (step * (reach / _MAX_ACCUMULATOR) * 1.001).astype(np.float32)
        least = np.where(over, wider, least)
