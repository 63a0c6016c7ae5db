"""GPTQ: each weight rounded so that it mends what those before it went wrong (Frantar et al., arXiv 2210.17323).

The error of a product's results is that of its weights, weighed by second moments of its inputs: with ``E = W - Q``
and ``H = E[x x^T]`` it is ``trace(E H E^T)``. Factor ``H = R R^T`` with an upper triangle R, and it is the sum of
squares of ``E R``, in whose column i only the first i columns of E stand: so weights go to the grid one input after
another, each to what is nearest once the errors so far are counted in. This gives the codes of the paper's updates by
the inverse of H (Chee et al., arXiv 2307.13304, show it), with neither an inverse nor weights that change underway.

All on plain matrices: it knows no model, no file and no layer.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

DAMPING = 0.01
_BLOCK = 128  # inputs whose errors reach the later ones in one product
_LEAST_BLOCK = 16
_TRIES = 8


class Grid(Protocol):
    """The values that weights may have: what :func:`gptq` asks of a format.

    Weights come with their inputs first, (inputs, columns): what is rounded together lies together.

    Attributes
    ----------
    group : how many inputs side by side share what :meth:`fit` chooses; 0 where all is chosen already
    """

    @property
    def group(self) -> int: ...

    def fit(self, first: int, weights: Float32Array, /) -> None:
        """Choose what the group of inputs from ``first`` on shares (scales, zero points), for these weights of it."""

    def round(self, at: int, weights: Float32Array, /) -> tuple[Float32Array, Float32Array]:
        """The codes of the weights of one input, (columns,), and the weights that they stand for."""


def gptq(
    weights: Float32Array,
    moments: npt.NDArray[np.floating],
    grid: Grid,
    *,
    damping: float = DAMPING,
    by_activation: bool = False,
) -> Codes:
    """Round a matrix so that what it makes of its inputs changes least.

    Parameters
    ----------
    weights : (columns, k) float32. Finite; a column is one result.
    moments : (k, k) float. Second moments of the inputs, ``E[x x^T]``, up to a factor. Symmetric.
    grid : Grid. It knows scales and zero points afterwards.
    damping : float. What each diagonal element gets, as a part of their mean: more than 0 where inputs depend on each
        other, or there are fewer samples than inputs.
    by_activation : bool. Inputs of most energy first, as their errors are mended by all others. Groups are then fitted
        to the weights as they are given.

    Returns
    -------
    (columns, k) int8 codes
    """
    columns, k = weights.shape
    order = np.argsort(-np.diagonal(moments), kind="stable") if by_activation else np.arange(k)
    turned = np.ascontiguousarray(weights.T)
    codes = np.empty((columns, k), np.int8)
    if k == 0:
        return codes
    if by_activation:
        moments = moments[np.ix_(order, order)]
        for first in range(0, k, grid.group or k) if grid.group else ():
            grid.fit(first, turned[first : first + grid.group])
        turned = turned[order]
    root = _root(moments, damping)
    diagonal, single = np.diagonal(root).astype(np.float32), root.astype(np.float32)
    fits = bool(grid.group) and not by_activation
    errors = np.zeros((k, columns), np.float32)
    step = _block_of(grid.group) if fits else _BLOCK
    for first in range(0, k, step):
        last = min(first + step, k)
        reaching = single[:first, first:last].T @ errors[:first]  # what the errors so far are in these terms of E R
        for at in range(first, last):
            inside = slice(first, at)
            if fits and at % grid.group == 0:
                group = slice(at, min(at + grid.group, last))
                reaching_group = reaching[at - first : group.stop - first] + single[inside, group].T @ errors[inside]
                grid.fit(at, turned[group] + _mending(root[group, group]) @ reaching_group)
            row = turned[at] + (reaching[at - first] + single[inside, at] @ errors[inside]) / diagonal[at]
            rounded, stands_for = grid.round(int(order[at]), row)
            codes[:, order[at]] = rounded
            np.subtract(turned[at], stands_for, out=errors[at])
    return codes


def output_error(
    weights: Float32Array, rounded: Float32Array, moments: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """The mean square of the error of each result, ``e H e^T`` for each row e of the difference; (columns,)."""
    error = weights.astype(np.float64) - rounded
    found: npt.NDArray[np.float64] = np.einsum("ij,ij->i", error @ moments.astype(np.float64), error)
    return found


def _block_of(group: int) -> int:
    """Whole groups, some 16 inputs at least."""
    return group * -(-_LEAST_BLOCK // group)


def _mending(own: npt.NDArray[np.float64]) -> Float32Array:
    """What makes of the errors that reach a group the change of its weights that would undo them, had they no grid."""
    return np.linalg.inv(own.T).astype(np.float32)


def _root(moments: npt.NDArray[np.floating], damping: float) -> npt.NDArray[np.float64]:
    """The upper triangle R with ``R R^T`` the damped moments; more damping where float64 finds none."""
    given = moments.astype(np.float64)
    energy = np.diagonal(given).copy()
    mean = float(energy.mean())
    if not mean > 0:
        return np.eye(len(given))
    for attempt in range(_TRIES):
        np.fill_diagonal(given, energy + mean * max(damping, 1e-9 if attempt else 0.0) * 10**attempt)
        try:  # NumPy factors into a lower triangle: of the matrix turned around
            return np.asarray(np.linalg.cholesky(given[::-1, ::-1])[::-1, ::-1], np.float64)
        except np.linalg.LinAlgError:
            continue
    return np.diag(np.sqrt(energy + mean))
