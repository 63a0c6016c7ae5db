"""Smallest, largest, mean and variance of each channel, exact as the means are: order and batching do not matter."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.base import reading_state

Floats = npt.NDArray[np.float64]

# A sample's mean, and that of its squares, are rounded to this step before they are summed: the sums are integers.
_STEP_BITS = 64
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Statistics:
    """Of each channel, (channels,) float64 each."""

    min: Floats
    max: Floats
    mean: Floats
    variance: Floats


class ChannelStatistics:
    """Smallest, largest, mean and variance of each channel (axis 1); every sample (axis 0) counts the same.

    NaN and infinite values, and what is infinite as float32, count as 0. A tensor whose channels change in number has
    none.
    """

    def __init__(self) -> None:
        self._samples, self._mixed = 0, False
        self._sums: list[int] = []
        self._squares: list[int] = []
        self._min, self._max = np.zeros(0), np.zeros(0)

    def __repr__(self) -> str:
        return f"ChannelStatistics({len(self._sums)} channels, {self._samples} samples)"

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Add an array of shape (samples, channels, ...)."""
        if x.ndim < 2 or x.size == 0 or not self._take(x.shape[1]):
            return self
        for sample in x:
            wide = np.asarray(sample.reshape(x.shape[1], -1), np.float64)
            rows = np.where(np.abs(wide) <= _LARGEST, wide, 0.0)
            # np.mean of a contiguous axis is the same for the same sample, wherever it lies
            self._add(
                1,
                [_steps(mean) for mean in rows.mean(axis=1).tolist()],
                [_steps(mean) for mean in np.square(rows).mean(axis=1).tolist()],
                rows.min(axis=1),
                rows.max(axis=1),
            )
        return self

    def merge(self, other: ChannelStatistics) -> Self:
        """Add what another one counted."""
        if other._mixed:
            self._give_up()
        elif other._samples and self._take(len(other._sums)):
            self._add(other._samples, other._sums, other._squares, other._min, other._max)
        return self

    def values(self) -> Statistics | None:
        """The statistics, or None when there are none."""
        if not self._samples:
            return None
        unit = self._samples << _STEP_BITS
        mean = [total / unit for total in self._sums]
        # n * squares - sum**2 in integers: nothing cancels
        spread = [
            ((square * self._samples << _STEP_BITS) - total * total) / unit**2
            for total, square in zip(self._sums, self._squares, strict=True)
        ]
        return Statistics(self._min.copy(), self._max.copy(), np.array(mean), np.maximum(spread, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """What was counted, as numbers and strings (the sums are integers of any size)."""
        return {
            "samples": self._samples,
            "sums": list(map(str, self._sums)),
            "squares": list(map(str, self._squares)),
            "min": self._min.copy(),
            "max": self._max.copy(),
            "mixed": int(self._mixed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Count what a saved state had counted, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("ChannelStatistics"):
            samples, mixed = operator.index(state["samples"]), operator.index(state["mixed"])
            sums, squares = _integers(state["sums"]), _integers(state["squares"])
            least, most = (np.array(state[name], np.float64) for name in ("min", "max"))
            sizes = {len(sums), len(squares), *least.shape, *most.shape}
            if mixed not in (0, 1) or samples < 0 or len(sizes) != 1 or least.ndim != 1 or bool(sums) != bool(samples):
                raise ValueError(f"{samples} samples and {sorted(sizes)} channels, mixed={mixed}")
            if not (least <= most).all() or not np.isfinite([least, most]).all() or min(squares, default=0) < 0:
                raise ValueError("a smallest value is above the largest, or a sum of squares below 0")
        self._samples, self._mixed, self._sums, self._squares = samples, bool(mixed), sums, squares
        self._min, self._max = least, most
        return self

    def _add(self, samples: int, sums: list[int], squares: list[int], least: Floats, most: Floats) -> None:
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._samples else list(sums)
        self._squares = [a + b for a, b in zip(self._squares, squares, strict=True)] if self._samples else list(squares)
        self._min = np.minimum(self._min, least) + 0.0 if self._samples else least + 0.0
        self._max = np.maximum(self._max, most) + 0.0 if self._samples else most + 0.0
        self._samples += samples

    def _take(self, channels: int) -> bool:
        """Whether there are sums for this number of channels; the first array decides it."""
        if self._samples and len(self._sums) != channels:
            self._give_up()
        return not self._mixed

    def _give_up(self) -> None:
        self.__init__()  # type: ignore[misc]
        self._mixed = True


def _steps(value: float) -> int:
    """In steps, rounded to the nearest; floats that large are whole numbers of them."""
    numerator, denominator = value.as_integer_ratio()
    return ((numerator << _STEP_BITS + 1) // denominator + 1) >> 1


def _integers(given: object) -> list[int]:
    texts = np.asarray(given)
    if texts.ndim != 1 or (texts.size and texts.dtype.kind != "U"):
        raise ValueError(f"sums are {texts.dtype} of shape {texts.shape}, not strings")
    return [int(text) for text in texts]
