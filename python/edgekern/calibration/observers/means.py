"""The mean of each channel over samples, exact in the same way as the histograms: order and batching do not matter."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.base import reading_state

# A sample's mean is rounded to this step before it is summed, so that the sums are integers.
_STEP = 2.0**-32
_MAX_STEPS = 1 << (128 + 32)  # of one sample: no float32 is beyond 2**128
# Elements that are widened to float64 at a time.
_ELEMENTS = 1 << 18


class ChannelMeans:
    """Mean of each channel (axis 1) of the arrays of one tensor; every sample (axis 0) counts the same.

    NaN and infinite values, and what is infinite as float32, count as 0. A tensor whose channels change in number has
    no means.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._sums: list[int] | None = []  # none yet; None when there can be none

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Add an array of shape (samples, channels, ...)."""
        if x.ndim < 2 or x.size == 0 or not self._take(x.shape[1]):
            return self
        assert self._sums is not None
        for sample in x:
            rows = sample.reshape(x.shape[1], -1)
            together = max(1, _ELEMENTS // max(1, rows.shape[1]))
            pieces = [_means(rows[start : start + together]) for start in range(0, len(rows), together)]
            means = [mean for piece in pieces for mean in piece]
            self._sums = [total + round(mean) for total, mean in zip(self._sums, means, strict=True)]
            self._samples += 1
        return self

    def merge(self, other: ChannelMeans) -> Self:
        """Add what another one counted."""
        if other._sums is None:
            self._give_up()
        elif other._sums and self._take(len(other._sums)):
            assert self._sums is not None
            self._sums = [a + b for a, b in zip(self._sums, other._sums, strict=True)]
            self._samples += other._samples
        return self

    def values(self) -> tuple[float, ...] | None:
        """The means, or None when there are none."""
        if not self._sums or not self._samples:
            return None
        return tuple(total / self._samples * _STEP for total in self._sums)

    def state_dict(self) -> dict[str, Any]:
        """What was counted, as numbers and strings (the sums are integers of any size)."""
        sums = self._sums or []
        return {"samples": self._samples, "sums": [str(s) for s in sums], "mixed": int(self._sums is None)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Count what a saved state had counted, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("ChannelMeans"):
            samples, mixed, given = operator.index(state["samples"]), operator.index(state["mixed"]), state["sums"]
            texts = np.asarray(given)
            if texts.ndim != 1 or (texts.size and texts.dtype.kind != "U"):
                raise ValueError(f"sums are {texts.dtype} of shape {texts.shape}, not strings")
            sums = [int(text) for text in texts]
            if mixed not in (0, 1) or samples < 0 or (samples and not sums) or (mixed and sums):
                raise ValueError(f"{samples} samples and {len(sums)} sums, mixed={mixed}")
            if any(abs(total) > samples * _MAX_STEPS for total in sums):
                raise ValueError(f"a sum is larger than {samples} samples can make it")
        self._samples, self._sums = samples, None if mixed else sums
        return self

    def _take(self, channels: int) -> bool:
        """Whether there are sums for this number of channels; the first array decides it."""
        if self._sums == []:
            self._sums = [0] * channels
        if self._sums is not None and len(self._sums) != channels:
            self._give_up()
        return bool(self._sums)

    def _give_up(self) -> None:
        self._samples, self._sums = 0, None


def _means(rows: npt.NDArray[Any]) -> list[float]:
    """Of each row, in steps."""
    wide = np.ascontiguousarray(rows, dtype=np.float64)
    known = np.where(np.abs(wide) <= np.finfo(np.float32).max, wide, 0.0)
    means: list[float] = (known.mean(axis=1) / _STEP).tolist()
    return means
