"""The moving average of each batch's smallest and largest value. It depends on the order of the batches."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.base import reading_state
from edgekern.errors import CalibrationError

MOMENTUM = 0.9  # what stays of the average at each batch


class MovingAverage:
    """Smallest and largest value, averaged over batches that fade: ``0.9 * average + 0.1 * batch``.

    As quantization-aware training has it. Unlike every other observer it depends on the order of the batches and on
    their size, so it cannot be merged: what two have seen has no order. NaN and infinities are left out.
    """

    def __init__(self) -> None:
        self._batches, self._lo, self._hi = 0, 0.0, 0.0

    def __repr__(self) -> str:
        return (
            f"MovingAverage({self._batches} batches in this order, lo={self._lo:g}, hi={self._hi:g}; "
            "depends on their order)"
        )

    @property
    def range(self) -> tuple[float, float]:
        """(lo, hi) with lo <= 0 <= hi."""
        return min(self._lo, 0.0), max(self._hi, 0.0)

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Let an array follow, as one batch."""
        with np.errstate(over="ignore"):
            floats = np.asarray(x, np.float32)
        finite = floats[np.isfinite(floats)]
        return self._follow(float(finite.min()), float(finite.max()), 1) if finite.size else self

    def follow(self, later: MovingAverage) -> Self:
        """Let one batch follow that another one has seen alone."""
        if later._batches > 1:
            raise CalibrationError(
                f"MovingAverage.follow: later has seen {later._batches} batches, but their order counts; "
                "let them follow one by one"
            )
        return self._follow(later._lo, later._hi, later._batches) if later._batches else self

    def merge(self, other: MovingAverage) -> Self:
        """Refused: what two have seen has no order.

        Raises
        ------
        CalibrationError
            Unless one of the two has seen nothing.
        """
        if self._batches and other._batches:
            raise CalibrationError(
                f"MovingAverage.merge: a moving average depends on the order of its batches, and {self._batches} and "
                f"{other._batches} batches have none between them; collect them one after another, or leave "
                "'moving_average' out of the observers"
            )
        if other._batches:
            self._batches, self._lo, self._hi = other._batches, other._lo, other._hi
        return self

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"batches": self._batches, "lo": self._lo, "hi": self._hi}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Keep what a saved state kept, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("MovingAverage"):
            batches, lo, hi = operator.index(state["batches"]), float(state["lo"]), float(state["hi"])
            if batches < 0 or not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
                raise ValueError(f"{batches} batches between {lo} and {hi}")
        self._batches, self._lo, self._hi = batches, lo, hi
        return self

    def _follow(self, lo: float, hi: float, batches: int) -> Self:
        fades = MOMENTUM if self._batches else 0.0
        self._lo, self._hi = fades * self._lo + (1 - fades) * lo, fades * self._hi + (1 - fades) * hi
        self._batches += batches
        return self
