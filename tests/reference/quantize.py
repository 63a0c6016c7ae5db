"""QuantizeLinear and DequantizeLinear as ONNX defines them, in float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def bounds(dtype: npt.DTypeLike) -> tuple[int, int]:
    """Smallest and largest value of an 8-bit dtype."""
    info = np.iinfo(np.dtype(dtype))
    return int(info.min), int(info.max)


def quantize_linear(
    x: npt.NDArray[np.float32],
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike,
    dtype: npt.DTypeLike,
) -> npt.NDArray[np.integer]:
    """``clip(rint(x / scale) + zero_point)``; NaN gives the smallest value. ``scale`` broadcasts against ``x``."""
    lo, hi = bounds(dtype)
    zero = np.asarray(zero_point, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        v = x / np.asarray(scale, dtype=np.float32)
        v = np.where(v > lo - zero, v, lo - zero)
        v = np.where(v < hi - zero, v, hi - zero)
    return (np.rint(v) + zero).astype(dtype)


def dequantize_linear(
    q: npt.NDArray[np.integer], scale: npt.ArrayLike, zero_point: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """``float32(q - zero_point) * scale``."""
    return (q.astype(np.int32) - np.asarray(zero_point, dtype=np.int32)).astype(np.float32) * np.asarray(
        scale, dtype=np.float32
    )
