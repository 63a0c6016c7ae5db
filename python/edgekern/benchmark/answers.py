"""Whether outputs are those that were expected: what is wrong is not timed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentValueError

Array = npt.NDArray[Any]

# Below it an answer is wrong: engines round 8 bits at other places, and float32 in another order.
LEAST_DB, LEAST_FLOAT_DB = 10.0, 40.0


@dataclass(frozen=True)
class Difference:
    """How far outputs are from those that were expected; of several the worst.

    Attributes
    ----------
    output : its name
    sqnr_db : signal to quantization noise in dB; infinite where nothing differs
    max_difference : largest absolute one, of all outputs
    """

    output: str
    sqnr_db: float
    max_difference: float

    def __str__(self) -> str:
        if self.sqnr_db == math.inf:
            return "the same"
        return f"{self.sqnr_db:.1f} dB (largest difference {self.max_difference:.3g})"


def difference(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Difference:
    """Of outputs by name.

    Raises
    ------
    ArgumentValueError
        An output is missing, or has another shape.
    """
    worst, largest = Difference("", math.inf, 0.0), 0.0
    for name, want in expected.items():
        got = found.get(name)
        if got is None or got.shape != want.shape:
            has = f"{list(got.shape)}" if got is not None else f"no such output, but {list(found)}"
            raise ArgumentValueError(
                f"bench: output '{name}' of the model has shape {list(want.shape)}, and the other one has {has}; "
                "give the float model that it was made of"
            )
        x, y = want.astype(np.float64), got.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))  # infinities too
        with np.errstate(invalid="ignore"):
            error, signal = np.where(same, 0.0, y - x), float(np.sum(np.square(x, where=np.isfinite(x), out=x * 0)))
        noise = float(np.sum(np.square(error)))
        db = math.inf if same.all() else _decibels(signal, noise)
        largest = max(largest, float(np.max(np.abs(error), initial=0.0)))
        if db < worst.sqnr_db or not worst.output:
            worst = Difference(name, db, 0.0)
    return Difference(worst.output, worst.sqnr_db, largest)


def _decibels(signal: float, noise: float) -> float:
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise) if noise else math.inf
