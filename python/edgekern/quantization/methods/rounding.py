"""Rounding the taps of one filter together, so that their sum is right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekern.quantization.weights import Rows


def keep_filter_sums(rows: Rows) -> Rows:
    """Round the taps of one filter together instead of each to its nearest."""
    if rows.weights.shape[-1] == 1:
        return rows
    return rows.with_codes(round_keeping_sums(rows.weights / rows.step))


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
