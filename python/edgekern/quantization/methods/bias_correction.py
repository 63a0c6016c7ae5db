"""Bias correction: the mean error of rounded weights, taken back (Nagel et al., arXiv 1906.04721)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekern.calibration.observers.kinds import CHANNEL_MEANS
from edgekern.quantization.weights import INPUT_MEANS, Rows


def correct_bias(rows: Rows) -> Rows:
    """Add ``sum((w - s_w * q) * E[x])`` to the bias, with means of the input as calibration or samples saw them.

    Calibration keeps one of each channel; samples give one of each tap, which meets the padding less or more.
    """
    by_tap, by_channel = rows.statistics.get(INPUT_MEANS), rows.statistics.get(CHANNEL_MEANS)
    means = by_channel if by_tap is None else by_tap
    if means is None or not rows.takes_bias:
        return rows
    bias = np.zeros(len(rows.weights)) if rows.bias is None else rows.bias
    error = rows.weights - rows.codes * rows.step
    error = error.sum(axis=2) if by_tap is None else error.reshape(len(error), -1)
    return replace(rows, bias=bias + (error * means.reshape(-1, error.shape[1])[rows.group]).sum(axis=1))
