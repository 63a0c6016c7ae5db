"""Scales and zero points: from ranges for activations, from values for weights and biases."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]

# The smallest scale that is a normal float32: below it 1 / scale overflows and the scale itself loses digits.
_MIN_SCALE = float(np.finfo(np.float32).tiny)
_MAX_SCALE = float(np.finfo(np.float32).max)
_MAX_ACCUMULATOR = 2**31 - 1
_WEIGHT_MAX = 127
# Elements of a layer that are computed on at a time.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Affine:
    """``real = (q - zero_point) * scale`` for one tensor of 8-bit values."""

    scale: np.float32
    zero_point: int
    dtype: np.dtype[np.uint8] | np.dtype[np.int8]

    @property
    def max_distance(self) -> int:
        """The largest ``|q - zero_point|``."""
        info = np.iinfo(self.dtype)
        return max(self.zero_point - int(info.min), int(info.max) - self.zero_point)


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
        return moved.reshape(*moved.shape[:2], -1)

    def largest_sum(self, values: FloatArray) -> FloatArray:
        """The largest ``sum |w|`` over what one accumulator sums, for each output channel."""
        sums = np.abs(values).sum(axis=1)
        result: FloatArray = sums.sum(axis=1) if self.taps_are_summed else sums.max(axis=1, initial=0.0)
        return result


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights and bias of one Conv, Gemm or MatMul as integers.

    ``values`` has the shape of the float weights; ``scale`` has one entry a channel. ``widened`` lists the channels
    whose scale had to grow so that no accumulator can pass 2**31.
    """

    values: npt.NDArray[np.int8]
    scale: Float32Array
    bias: npt.NDArray[np.int32] | None
    bias_scale: Float32Array
    widened: tuple[int, ...]


def affine_u8(lo: float, hi: float) -> Affine:
    """Asymmetric uint8 over a range, extended to contain 0 so that zero is exact; an empty range has scale 1."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    if hi == lo:
        return Affine(np.float32(1.0), 0, np.dtype(np.uint8))
    step = _within_float32((hi - lo) / 255.0)
    return Affine(np.float32(step), int(np.clip(np.rint(-lo / step), 0, 255)), np.dtype(np.uint8))


def affine_s8(lo: float, hi: float) -> Affine:
    """Symmetric int8 over the larger side of a range; an empty range has scale 1."""
    largest = max(-lo, hi, 0.0)
    scale = np.float32(_within_float32(largest / 127.0)) if largest > 0.0 else np.float32(1.0)
    return Affine(scale, 0, np.dtype(np.int8))


def _within_float32(scale: float) -> float:
    return min(max(scale, _MIN_SCALE), _MAX_SCALE)


def channel_scales(weights: FloatArray, axis: int) -> Float32Array:
    """Return ``max|w| / 127`` of each channel, 1.0 where a channel is all zero.

    Parameters
    ----------
    weights : array of any rank
    axis : int. The channel axis.

    Returns
    -------
    (channels,) float32 array
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights.astype(np.float64)).max(axis=others, initial=0.0)
    return np.where(largest > 0.0, np.maximum(largest / _WEIGHT_MAX, _MIN_SCALE), 1.0).astype(np.float32)


def quantize_weights(
    weights: FloatArray,
    layout: WeightLayout,
    inputs: Affine,
    *,
    bias: FloatArray | None = None,
    input_means: FloatArray | None = None,
    keep_filter_sums: bool = True,
) -> QuantizedWeights:
    """Quantize weights to symmetric int8 per channel and the bias to int32 at scale ``s_x * s_w``.

    Parameters
    ----------
    weights : float array. Finite.
    layout : WeightLayout
    inputs : Affine. Of the activation that these weights multiply.
    bias : (channels,) float array, optional
    input_means : (input channels,) float array, optional
        The mean of each input channel. With it the bias also takes back the mean error of the rounded weights,
        ``sum((w - s_w * q) * mean)``, which needs a bias.
    keep_filter_sums : bool
        Round the taps of one filter together (``round_keeping_sums``) instead of each to its nearest.

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
    first, scale = np.empty(channels, np.float32), np.empty(channels, np.float32)
    steps = np.zeros(channels)
    means = None if input_means is None else input_means.reshape(layout.groups, -1)
    for rows in blocks(by_channel.shape):
        wide = by_channel[rows].astype(np.float64)
        groups = np.arange(channels)[rows] * layout.groups // channels
        first[rows], scale[rows], rounded, steps[rows] = _quantize_block(
            wide,
            layout,
            inputs,
            bias=None if bias is None else bias[rows].astype(np.float64),
            means=None if means is None else means[groups],
            keep_filter_sums=keep_filter_sums,
        )
        stored[rows] = rounded
    return QuantizedWeights(
        values,
        scale,
        None if bias is None else steps.astype(np.int32),
        (float(inputs.scale) * scale.astype(np.float64)).astype(np.float32),
        tuple(int(i) for i in np.flatnonzero(scale != first)),
    )


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis so that a piece has about :data:`BLOCK` elements: what is computed in float64 is wide."""
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    yield from (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _quantize_block(
    wide: FloatArray,
    layout: WeightLayout,
    inputs: Affine,
    *,
    bias: FloatArray | None,
    means: FloatArray | None,
    keep_filter_sums: bool,
) -> tuple[Float32Array, Float32Array, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Some channels of :func:`quantize_weights`: first scale, scale, weights, bias; ``means`` has a row a channel."""
    first = channel_scales(wide, 0)
    input_scale = float(inputs.scale)
    scale = np.maximum(first, np.float32(_MIN_SCALE / input_scale))  # s_x * s_w stays a normal float32
    while True:
        step = scale.astype(np.float64)
        ratio = wide / step.reshape(-1, 1, 1)
        rounded = round_keeping_sums(ratio) if keep_filter_sums else np.rint(ratio)
        values = np.clip(rounded, -_WEIGHT_MAX, _WEIGHT_MAX)
        bias_values = np.zeros(len(step))
        if bias is not None:
            offset = bias
            if means is not None:
                error = (wide - values * step.reshape(-1, 1, 1)).sum(axis=2)
                offset = offset + (error * means).sum(axis=1)
            bias_values = np.rint(offset / (input_scale * step))
        reach = np.abs(bias_values) + inputs.max_distance * layout.largest_sum(values)
        over = reach > _MAX_ACCUMULATOR
        if not over.any():
            return first, scale, values, bias_values
        # 1e-3 more than needed, so that rounding cannot make a second step out of it.
        scale[over] = (step[over] * (reach[over] / _MAX_ACCUMULATOR) * 1.001).astype(np.float32)


def round_keeping_sums(ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round so that the sum over the last axis is the rounded sum, at the least cost in squared error.

    Neighbouring pixels are alike, so what a filter does to a picture is mostly its sum times a local mean; rounding
    each tap alone lets the errors of nine taps add up in just this direction. The taps with the largest
    remainders (the method of electoral seats) are rounded the other way until the sum fits.
    """
    nearest = np.rint(ratio)
    if ratio.shape[-1] == 1:
        return nearest
    missing = np.rint(ratio.sum(axis=-1)) - nearest.sum(axis=-1)
    direction = np.sign(missing)[..., None]
    order = np.argsort(-(ratio - nearest) * direction, axis=-1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(ratio.shape[-1]), order.shape), axis=-1)
    return nearest + np.where(rank < np.abs(missing)[..., None], direction, 0.0)
