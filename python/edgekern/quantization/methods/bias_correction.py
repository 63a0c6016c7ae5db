"""Bias correction: the mean error of rounded weights, taken back (Nagel et al., arXiv 1906.04721)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekern.calibration.observers.kinds import CHANNEL_MEANS
from edgekern.quantization.weights import Rows


def correct_bias(rows: Rows) -> Rows:
    """Add ``sum((w - s_w * q) * E[x])`` to the bias, with the means of the input's channels as calibration saw them."""
    means = rows.statistics.get(CHANNEL_MEANS)
    if means is None or not rows.takes_bias:
        return rows
    bias = np.zeros(len(rows.weights)) if rows.bias is None else rows.bias
    by_row = means.reshape(-1, rows.weights.shape[1])[rows.group]
    error = (rows.weights - rows.codes * rows.step).sum(axis=2)
    return replace(rows, bias=bias + (error * by_row).sum(axis=1))
