"""linear: a matrix product and what follows it, float32 operation by float32 operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import ACTIVATIONS, silu
from .gemm import matmul_integer, requantize
from .quantize import bounds, quantize_linear

FloatArray = npt.NDArray[np.float32]
Curve = str | tuple[float, float]


def dynamic_quantize(x: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Rows to int8, symmetric, by 127 / max|x|; a NaN counts for nothing in a row's scale, and becomes -128. Beside an
    infinity all that is finite is 0; the infinities are 127 and -128."""
    with np.errstate(all="ignore"):
        peak = np.nan_to_num(np.abs(x), nan=0, posinf=np.inf).max(axis=1, initial=0)
        one, levels, zeros = np.float32(1), np.float32(127), peak < np.float32(2**-110)
        scale, factor = np.where(zeros, one, peak / levels), np.where(zeros, one, levels / peak)
        steps = np.where(np.isinf(peak)[:, None] & np.isfinite(x), np.float32(0), x * factor[:, None])
        steps = np.where(np.isinf(x), x, steps)
        return quantize_linear(steps, 1, 0, np.int8), scale


def quantize_spans(
    x: FloatArray,
) -> tuple[npt.NDArray[np.int8], FloatArray, npt.NDArray[np.int32]]:
    """Rows to int8 over what they span, 0 in it, in 254 steps, with their zero points; those that are not finite, or
    so wide that their width is not, as :func:`dynamic_quantize` has them."""
    q, scale = dynamic_quantize(x)
    zero_point = np.zeros(len(x), np.int32)
    with np.errstate(all="ignore"):
        most, least = (side.max(axis=1, initial=0) for side in (x, -x))
        width = most + least
        one, levels, none = np.float32(1), np.float32(254), width < np.float32(2**-110)
        factor = np.where(none, one, levels / width)
        zero = np.rint(least * factor)
        codes = np.rint((x * factor[:, None]).astype(np.float64) + zero[:, None]) - 128
    spans = np.isfinite(width)
    q[spans], zero_point[spans] = codes[spans].astype(np.int8), zero[spans].astype(np.int32) - 128
    return q, np.where(spans, np.where(none, one, width / levels), scale), zero_point


def activate(y: FloatArray, curve: Curve) -> FloatArray:
    """A pair is a clamp."""
    if isinstance(curve, tuple):
        return np.clip(y, np.float32(curve[0]), np.float32(curve[1]))
    return silu(y[:, ::2]) * y[:, 1::2] if curve == "swiglu" else ACTIVATIONS[curve](y)


def bfloat16_bits(y: FloatArray) -> npt.NDArray[np.uint16]:
    """Round to nearest even, by adding to the bits; a NaN keeps its upper ones and becomes quiet."""
    bits = y.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    kept = np.where(np.isnan(y), bits | np.uint32(0x400000), rounded)
    return (kept >> np.uint32(16)).astype(np.uint16)


def store(y: FloatArray, dtype: str, scale: float | None, zero_point: int) -> npt.NDArray[Any]:
    """The result in its own dtype; both half precisions as bits."""
    if scale is not None:
        return quantize_linear(y, np.float32(scale), zero_point, dtype)
    with np.errstate(over="ignore"):
        return {"float32": lambda: y, "float16": lambda: y.astype(np.float16).view(np.uint16)}.get(
            dtype, lambda: bfloat16_bits(y)
        )()


def linear(
    x: npt.NDArray[Any],
    w: npt.NDArray[np.int8],
    w_scale: FloatArray,
    bias: FloatArray | None,
    curve: Curve,
    residual: FloatArray | None,
    x_scale: float | None,
    x_zero_point: int,
    y_scale: float | None,
    y_zero_point: int,
    dtype: str,
) -> npt.NDArray[Any]:
    if x_scale is None:
        q, row_scale = dynamic_quantize(x)
        acc, multiplier = matmul_integer(q, w), row_scale[:, None] * w_scale
    else:
        acc, product = matmul_integer(x, w, x_zero_point), np.float64(np.float32(x_scale)) * w_scale
        multiplier = product.astype(np.float32)
        if y_scale is not None and isinstance(curve, tuple) and residual is None:
            start = 0 if bias is None else np.rint(bias / product).astype(np.int32)
            lo, hi = (v - y_zero_point for v in bounds(dtype))
            ends = [np.clip(np.rint(np.float32(v) / np.float32(y_scale)), lo, hi) for v in curve]
            m = (product / np.float64(np.float32(y_scale))).astype(np.float32)
            return requantize(acc + start, m, y_zero_point, *ends).astype(dtype)
    with np.errstate(all="ignore"):
        y = acc.astype(np.float32) * multiplier
        y = activate(y if bias is None else y + bias, curve)
        return store(y if residual is None else y + residual, dtype, y_scale, y_zero_point)
