"""Activation-aware factors of input channels (Lin et al., AWQ, arXiv 2306.00978).

What a large activation multiplies should be rounded finely. Its weights are multiplied by a factor before rounding and
the activation is divided by it; a factor is the mean magnitude of its channel to a power between 0 and 1, which is
searched for by what rounding does to the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]
# Weights (columns, k) -> what is left of them when they have been rounded, float32 of the same shape.
Rounding = Callable[[Float32Array], Float32Array]

STEPS = 20
_RANGE = 1e4  # between a factor and the middle one, at most


@dataclass(frozen=True)
class Factors:
    """What was found.

    Attributes
    ----------
    factors : (k,) float32. What the weights of each input channel are multiplied by; all 1 where nothing was better.
    alpha : float. The power of the channels' magnitudes; 0 for none.
    error : float. The mean squared error of the outputs with the factors, summed over columns.
    plain_error : float. The same without factors.
    """

    factors: Float32Array
    alpha: float
    error: float
    plain_error: float


def awq_factors(
    weights: Float32Array, magnitudes: FloatArray, moments: FloatArray, rounding: Rounding, *, steps: int = STEPS
) -> Factors:
    """Search for the power of the channels' magnitudes that leaves the least error in the output.

    Parameters
    ----------
    weights : (columns, k) float32
        Of all layers that read the same activation, one below the other.
    magnitudes : (k,) float. The mean of ``|x|`` of each input channel.
    moments : (k, k) or (k,) float
        Of the same activation: ``E[x x^T]``, or mean squares alone, as if channels knew nothing of each other.
    rounding : callable
        What the layers' quantization leaves of weights: ``lambda w: restored(quantize_groups(w, 128))``.
    steps : int. Powers 0, 1 / steps, 2 / steps, ... that are tried, 1 left out.

    Returns
    -------
    Factors
    """
    wide = np.asarray(moments, np.float64)
    best: Factors | None = None
    for step in range(steps):
        alpha = step / steps
        factors = powers_of(magnitudes, alpha)
        left = rounding(weights * factors) / factors - weights
        error = output_error(left, wide)
        if best is None:
            best = Factors(factors, alpha, error, error)
        elif error < best.error:
            best = Factors(factors, alpha, error, best.plain_error)
    assert best is not None
    return best


def powers_of(magnitudes: FloatArray, alpha: float) -> Float32Array:
    """``magnitudes ** alpha`` about 1: over the root of the smallest times the largest, as AWQ has it.

    A channel that is always 0 gets the smallest factor of the others.
    """
    sizes = np.asarray(magnitudes, np.float64)
    if alpha == 0 or not (sizes > 0).any():
        return np.ones(len(sizes), np.float32)
    powers = np.power(np.where(sizes > 0, sizes, sizes[sizes > 0].min()), alpha)
    powers /= np.sqrt(powers.min() * powers.max())
    return np.clip(powers, 1 / _RANGE, _RANGE).astype(np.float32)


def output_error(error: FloatArray, moments: FloatArray) -> float:
    """The mean square of what errors (columns, k) of weights do to the outputs, summed over columns."""
    if moments.ndim == 1:
        return float(np.square(error, dtype=np.float64).sum(axis=0) @ moments)
    wide = error.astype(np.float64)
    return float(np.einsum("ci,ci->", wide @ moments, wide))
