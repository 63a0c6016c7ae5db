"""Scales and zero points of groups by half-quadratic splitting, without data (Badri & Shaji, HQQ, 2023).

Of the error that rounding leaves, a p-norm below 1 is made small: many weights that are nearly right, and a few that
may be wrong, instead of all a little wrong, as squares have it. The norm is split: the weights' errors are what a
shrinkage takes for outliers, and the rest, which is fitted in least squares. HQQ fits a real zero point and leaves the
scale; the zero points here are whole, as kernels have them, so the scale is fitted as well.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from edgekern.quantization.four_bits import (
    Float32Array,
    GroupedWeights,
    fit_groups,
    held,
    in_groups,
    rounded,
    starts,
    whole_zero,
)

P, BETA, GROWTH, ITERATIONS = 0.7, 10.0, 1.01, 20  # those of the paper
_TINY = np.float32(1e-6)


def hqq_groups(weights: Float32Array, group: int, *, p: float = P, iterations: int = ITERATIONS) -> GroupedWeights:
    """Round a matrix to 4 bits, with groups whose scales leave the smallest p-norm of errors that is found.

    Parameters
    ----------
    weights : (columns, k) float32. Finite.
    group : int. So many weights side by side along k share a scale.
    p : float. Above 0, at most 1: the smaller, the less an outlier counts.
    iterations : int. At most so many; they end where no group gets better.

    Notes
    -----
    The penalty of the splitting starts at 10 and grows by 1 % an iteration, as in the paper, with errors counted in
    steps of their group, so that the size of the weights does not matter.
    """
    real = in_groups(np.ones(weights.shape[1]), group)

    def fit(parts: Float32Array) -> tuple[Float32Array, Float32Array]:
        # Ranges that are cut beforehand lead to smaller norms, which throw away outliers for the sake of all others.
        best = reduce(_better, ((_norm(parts, *way, p), *way) for way in starts(parts)))
        (_, scale, zero), beta = best, BETA
        for _ in range(iterations):
            codes = rounded(parts, scale, zero)
            error = parts / scale[..., None] - (codes - zero[..., None])
            target = parts - _shrunk(error, p, beta) * scale[..., None]
            scale, zero = _fitted(codes, target, real, scale, zero)
            made = _norm(parts, scale, zero, p)
            if not (made < best[0]).any():
                break
            best, beta = _better(best, (made, scale, zero)), beta * GROWTH
        return best[1], best[2]

    return fit_groups(weights, group, fit)


_Found = tuple[Float32Array, Float32Array, Float32Array]  # a norm, a scale and a zero point for each group


def _better(first: _Found, second: _Found) -> _Found:
    """Of each group the one with the smaller norm; of equal ones the first."""
    takes = second[0] < first[0]
    norm, scale, zero = (np.where(takes, new, old) for old, new in zip(first, second, strict=True))
    return norm, scale, zero


def _norm(parts: Float32Array, scale: Float32Array, zero: Float32Array, p: float) -> Float32Array:
    error = np.abs((rounded(parts, scale, zero) - zero[..., None]) * scale[..., None] - parts)
    total: Float32Array = np.power(error, np.float32(p), out=error).sum(axis=-1)
    return total


def _shrunk(error: Float32Array, p: float, beta: float) -> Float32Array:
    """The shrinkage of a p-norm: what is left of an error when ``|e|^(p-1) / beta`` is taken off it."""
    size = np.abs(error)
    off = np.power(np.maximum(size, _TINY), np.float32(p - 1)) / np.float32(beta)
    made: Float32Array = np.sign(error) * np.maximum(size - off, 0)
    return made


def _fitted(
    codes: Float32Array, target: Float32Array, real: Float32Array, scale: Float32Array, zero: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """The scale and the whole zero point that bring codes nearest to a target; as they were where codes do not vary."""
    count = real.sum(axis=-1)
    mean, aim = (codes * real).sum(axis=-1) / count, (target * real).sum(axis=-1) / count
    off = (codes - mean[..., None]) * real
    slope = _ratio((off * target).sum(axis=-1), np.square(off).sum(axis=-1), scale)
    shift = whole_zero(np.where(slope > 0, mean - aim / slope, zero))
    off = (codes - shift[..., None]) * real
    return held(_ratio((off * target).sum(axis=-1), np.square(off).sum(axis=-1), scale)), shift


def _ratio(above: Float32Array, below: Float32Array, otherwise: Float32Array) -> Float32Array:
    """A quotient where it is positive."""
    sound = (below > 0) & (above > 0)
    return np.where(sound, above / np.where(sound, below, 1), otherwise)
