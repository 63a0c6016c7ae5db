"""Integer matrix products, the obvious way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def matmul_integer(
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    a_zero_point: int = 0,
    b_zero_point: int | npt.NDArray[np.integer] = 0,
) -> npt.NDArray[np.int32]:
    """int32 product that wraps modulo 2**32, as NumPy's own int32 does."""
    a32 = a.astype(np.int32) - np.int32(a_zero_point)
    b32 = b.astype(np.int32) - np.asarray(b_zero_point, dtype=np.int32)
    # float64 holds every sum below 2**53 exactly, and is a hundred times faster than NumPy's integer loop.
    exact = a32.astype(np.float64) @ b32.astype(np.float64)
    return exact.astype(np.int64).astype(np.int32)


def requantize(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    zero_point: int,
    lo: float,
    hi: float,
) -> npt.NDArray[np.int32]:
    """``rint(clip(float32(acc) * m, lo, hi)) + zero_point``; lo and hi count from the zero point."""
    scaled = acc.astype(np.float32) * multiplier
    return np.rint(np.clip(scaled, np.float32(lo), np.float32(hi))).astype(np.int32) + np.int32(zero_point)
