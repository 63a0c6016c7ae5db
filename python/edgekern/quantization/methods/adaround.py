"""AdaRound: up or down, whichever is better for the layer's results (Nagel et al., arXiv 2004.10568).

Each weight goes to one of its two neighbours on the grid. Between them it is soft at first, ``floor(w / s) + h(v)``
with a rectified sigmoid h, and moves down the gradient of the layer's squared error; a regularizer ``1 - |2 h -
1|^beta``, whose beta falls, makes all h 0 or 1 in the end.

The paper takes batches of inputs, a layer's results behind its activation, and inputs as the layers before it give
them, quantized already. Here the error is that of the results themselves, of which second moments of the float inputs
say all there is to say, ``e H e`` for a row of errors: no batches, and no noise in the gradient, so that some hundred
steps do. Where inputs are nearly the same, descent is slow: at the end single codes move, each to where the error is
least while the others stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

STEPS = 400
_RATE, _DECAY, _DECAY_SQUARES = 0.1, 0.9, 0.999  # of Adam
_WARM_UP, _WEIGHT = 0.2, 2.0  # the part of the steps without a regularizer, and its share of the error at the start
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_SWEEPS = 6  # of single codes, afterwards
_LOW, _WIDTH = -0.1, 1.2  # a sigmoid that is stretched, and cut, reaches 0 and 1


def adaround(
    ratio: npt.NDArray[np.floating],
    step: Float32Array,
    moments: npt.NDArray[np.floating],
    *,
    lowest: int,
    highest: int,
    steps: int = STEPS,
) -> npt.NDArray[np.float32]:
    """Round a matrix, each weight up or down, so that what it makes of its inputs changes least.

    Parameters
    ----------
    ratio : (..., columns, k) float. Weights over their scales, and zero points added; any number of matrices.
    step : (..., columns, k) or (..., columns, 1) float32. The scales.
    moments : (..., k, k) float. Second moments of the inputs, ``E[x x^T]``, up to a factor. Symmetric.
    lowest, highest : int. Of codes.
    steps : int. Of the descent.

    Returns
    -------
    (..., columns, k) float32 codes
    """
    exact = np.clip(ratio, lowest, highest).astype(np.float32)
    floor = np.minimum(np.floor(exact), np.float32(highest - 1))
    nearest: Float32Array = np.rint(exact)
    rest = exact - floor
    weighed = _weighed(moments, step)
    if weighed is None:
        return nearest
    step32, h_matrix = weighed
    # v such that h(v) is where the weight is
    v = -np.log(np.float32(_WIDTH) / (rest.clip(1e-4, 1 - 1e-4) - np.float32(_LOW)) - 1)
    # Rows have nothing to do with each other: each weighs its error by what the nearest weights leave.
    start = _errors_of(nearest - exact, step32, h_matrix)[..., None] / np.float32(exact.shape[-1])
    settled = start <= np.finfo(np.float32).eps * start.max(initial=0)
    pull = np.where(settled, 0, step32 * np.float32(2) / np.where(settled, 1, start))
    first, second = np.zeros_like(v), np.zeros_like(v)
    warm = int(_WARM_UP * steps)
    for at in range(steps):
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = sigmoid * np.float32(_WIDTH) + np.float32(_LOW)
        h = stretched.clip(0, 1)
        gradient = ((h - rest) * step32) @ h_matrix
        gradient *= pull
        if at >= warm:
            done = (at - warm) / max(1, steps - 1 - warm)
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * 0.5 * (1 + np.cos(np.pi * done))
            away = 2 * h - 1
            gradient -= np.float32(_WEIGHT * 2 * beta) * np.sign(away) * np.abs(away) ** np.float32(beta - 1)
        gradient *= np.where((stretched > 0) & (stretched < 1), sigmoid * (1 - sigmoid) * np.float32(_WIDTH), 0)
        first += np.float32(1 - _DECAY) * (gradient - first)
        second += np.float32(1 - _DECAY_SQUARES) * (np.square(gradient) - second)
        v -= (
            np.float32(_RATE / (1 - _DECAY ** (at + 1)))
            * first
            / (np.sqrt(second / np.float32(1 - _DECAY_SQUARES ** (at + 1))) + np.float32(1e-8))
        )
    found = floor + (v >= 0)
    errors = [_errors_of(codes - exact, step32, h_matrix) for codes in (nearest, found)]
    best: Float32Array = np.where((errors[1] < errors[0])[..., None], found, nearest)
    _settle(best, exact, np.broadcast_to(step32, exact.shape), h_matrix, lowest, highest)
    return best


def _settle(
    codes: Float32Array, exact: Float32Array, step: Float32Array, moments: Float32Array, lowest: int, highest: int
) -> None:
    """Move one code of each row after the other to where the row's error is least, as long as others move, in place."""
    diagonal = np.einsum("...ii->...i", moments)
    slope = ((codes - exact) * step) @ moments
    for _ in range(_SWEEPS):
        moved = False
        for at in range(exact.shape[-1]):
            width = step[..., at] * diagonal[..., at, None]
            wish = np.divide(-slope[..., at], width, out=np.zeros_like(width), where=width > 0)
            change = np.clip(codes[..., at] + np.rint(wish), lowest, highest) - codes[..., at]
            where = np.nonzero(change)
            if not where[0].size:
                continue
            moved = True
            codes[..., at] += change
            rows = moments[at] if moments.ndim == 2 else moments[..., at, :][where[:-1]]
            slope[where] += (change[where] * step[..., at][where])[:, None] * rows
        if not moved:
            return


def _weighed(moments: npt.NDArray[np.floating], step: Float32Array) -> tuple[Float32Array, Float32Array] | None:
    """Scales and moments in units of their own, so that no square leaves float32; None where there is no input."""
    mean = float(np.einsum("...ii->...", moments).mean()) / max(1, moments.shape[-1]) if moments.size else 0.0
    largest = float(np.max(step, initial=0))
    if not (mean > 0 and largest > 0):
        return None
    return (step / np.float32(largest)).astype(np.float32), (moments / mean).astype(np.float32)


def _errors_of(error: Float32Array, step: Float32Array, moments: Float32Array) -> Float32Array:
    """Of each column."""
    real = error * step
    return np.asarray(np.einsum("...ij,...ij->...i", real @ moments, real), np.float32)
