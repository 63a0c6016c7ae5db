"""Scales of groups by search: the range of each is cut by fractions, and the least error wins.

Without data the error is that of the weights in squares. With second moments of what they multiply it is the error of
the group's share of the output, ``e H e``: the search for clipping of AWQ (Lin et al., arXiv 2306.00978).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgekern.quantization.four_bits import (
    Float32Array,
    GroupedWeights,
    cut_starts,
    fit_groups,
    in_groups,
    rounded,
    whole_zero,
)

Errors = Callable[[Float32Array], Float32Array]  # (columns, groups, group) -> (columns, groups)


def search_groups(
    weights: Float32Array, group: int, *, moments: npt.NDArray[np.floating] | None = None
) -> GroupedWeights:
    """Round a matrix to 4 bits, with the scale and zero point of each group that leave the least error.

    Parameters
    ----------
    weights : (columns, k) float32. Finite.
    group : int. So many weights side by side along k share a scale.
    moments : (k,) or (k, k) float, optional
        Of what the weights multiply: mean squares, or the matrix ``E[x x^T]``, of which blocks along the diagonal are
        read. In any unit.
    """
    count = _counting(weights.shape[1], group, moments)

    def fit(parts: Float32Array) -> tuple[Float32Array, Float32Array]:
        least = np.full(parts.shape[:2], np.inf, np.float32)
        scale, zero = np.ones_like(least), np.zeros_like(least)

        def take(tried: Float32Array, shift: Float32Array) -> None:
            error = count((rounded(parts, tried, shift) - shift[..., None]) * tried[..., None] - parts)
            better = error < least
            least[better], scale[better], zero[better] = error[better], tried[better], shift[better]

        for tried, shift in cut_starts(parts):
            take(tried, shift)
        for step in (-1, 1):
            take(scale.copy(), whole_zero(zero + np.float32(step)))
        return scale, zero

    return fit_groups(weights, group, fit)


def _counting(k: int, group: int, moments: npt.NDArray[np.floating] | None) -> Errors:
    """What errors of weights are counted by."""
    if moments is None:
        return lambda error: np.square(error, out=error).sum(axis=-1)
    # Powers of any size, so that no square of a weight's error passes what float32 holds.
    scaled = np.asarray(moments, np.float64) / max(float(np.max(np.abs(moments), initial=0)), np.finfo(np.float64).tiny)
    if scaled.ndim == 1:
        cares = in_groups(scaled, group)
        return lambda error: (np.square(error, out=error) * cares).sum(axis=-1)
    blocks = np.zeros((-(-k // group), group, group), np.float32)
    for at, first in enumerate(range(0, k, group)):
        block = scaled[first : first + group, first : first + group]
        blocks[at, : len(block), : len(block)] = block

    def count(error: Float32Array) -> Float32Array:
        by_group = error.transpose(1, 0, 2)
        made: Float32Array = np.einsum("gci,gci->cg", by_group @ blocks, by_group)
        return made

    return count
