"""A fused multiply-add of float32, as every instruction set rounds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Array:
    """``a * b + c`` of float32, rounded once: exact in float64 but for its last bit, which is set where the sum is not
    (rounding to odd), so that the second rounding cannot err."""
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float32).astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
        addend = np.asarray(c, np.float32).astype(np.float64)
        total = product + addend
        part = total - product
        error = (product - (total - part)) + (addend - part)
        bits = total.view(np.int64) if total.ndim else np.asarray(total).view(np.int64)
        inexact = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
        away = (error > 0) == (total > 0)
        odd = np.where(inexact, np.where(away, bits + 1, bits - 1), bits).view(np.float64)
        return odd.astype(np.float32)
