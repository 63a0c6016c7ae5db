"""The mean of each channel over samples, exact in the same way as the histograms: order and batching do not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

# A sample's mean is rounded to this step before it is summed, so that the sums are integers.
_STEP = 2.0**-32
# Elements that are widened to float64 at a time.
_ELEMENTS = 1 << 18


class ChannelMeans:
    """Mean of each channel (axis 1) of the arrays of one tensor; every sample (axis 0) counts the same.

    NaN and infinite values count as 0. A tensor whose channels change in number has no means.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._sums: list[int] | None = []

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Add an array of shape (samples, channels, ...)."""
        if x.ndim < 2 or not self._take(x.shape[1]):
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
            self._sums = None
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
        return {"samples": self._samples, "sums": None if self._sums is None else [str(s) for s in self._sums]}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read what :meth:`state_dict` gave."""
        means = cls()
        means._samples = int(state["samples"])
        means._sums = None if state["sums"] is None else [int(s) for s in state["sums"]]
        return means

    def _take(self, channels: int) -> bool:
        """Whether there are sums for this number of channels; the first array decides it."""
        if self._sums == []:
            self._sums = [0] * channels
        if self._sums is not None and len(self._sums) != channels:
            self._sums = None
        return bool(self._sums)


def _means(rows: npt.NDArray[Any]) -> list[float]:
    """Of each row, in steps."""
    wide = np.ascontiguousarray(rows, dtype=np.float64)
    means: list[float] = (np.where(np.isfinite(wide), wide, 0.0).mean(axis=1) / _STEP).tolist()
    return means
