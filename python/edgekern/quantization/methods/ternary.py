"""Weights of -1, 0 and 1 with a scale a group (Li et al., arXiv 1605.04711), and the scales that leave the least error.

Of the codes with m values that are not 0, the best are the signs of the m largest, the best scale their mean size, and
the error is the energy of all less ``(sum of their sizes)^2 / m``: so one pass over the sorted sizes tries everything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


def fit_ternary(weights: Float32Array) -> tuple[Codes, Float32Array]:
    """The ternary weights nearest to given ones, group by group.

    Parameters
    ----------
    weights : (..., group) float32. Finite; values of a group along the last axis.

    Returns
    -------
    codes : int8 array of that shape, of -1, 0 and 1
    scale : float32 array without the last axis, positive
    """
    size = np.abs(weights)
    falling = -np.sort(-size, axis=-1)
    sums = np.cumsum(falling, axis=-1, dtype=np.float64)
    counts = np.arange(1, weights.shape[-1] + 1)
    # Equal sizes are taken together: a count in their midst is none of the choices.
    last = np.ones(falling.shape, bool)
    last[..., :-1] = falling[..., :-1] != falling[..., 1:]
    gains = np.where(last & (falling > 0), sums * sums / counts, -1.0)
    best = gains.argmax(axis=-1)[..., None]
    found = np.take_along_axis(gains, best, axis=-1) > 0
    scale = np.where(found, np.take_along_axis(sums, best, axis=-1) / (best + 1), 1.0)
    kept = found & (size >= np.take_along_axis(falling, best, axis=-1))
    codes = np.where(kept, np.sign(weights), 0).astype(np.int8)
    return codes, scale[..., 0].astype(np.float32)


def quantize_ternary(weights: Float32Array, group: int) -> tuple[Codes, Float32Array]:
    """The ternary weights nearest to a matrix.

    Parameters
    ----------
    weights : (columns, k) float32. Finite.
    group : int. How many values of k share a scale; the last group may be short.

    Returns
    -------
    codes : (columns, k) int8
    scale : (columns, ceil(k / group)) float32
    """
    columns, k = weights.shape
    codes = np.empty((columns, k), np.int8)
    scale = np.empty((columns, -(-k // group)), np.float32)
    for g in range(scale.shape[1]):
        part = slice(g * group, (g + 1) * group)
        codes[:, part], scale[:, g] = fit_ternary(weights[:, part])
    return codes, scale
