"""4-bit weights, the obvious way: every product, sum and rounding as docs/int4.md defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .linear import Curve, activate, dynamic_quantize, store

Float32 = npt.NDArray[np.float32]


def stored_scale(scale: npt.ArrayLike) -> Float32:
    """Scales as float16 in units of a power of two that brings the largest to [2**14, 2**15)."""
    values = np.asarray(scale, np.float32)
    if values.size == 0:
        return values
    unit = np.ldexp(np.float32(1), max(-126, int(np.frexp(values.max())[1]) - 15))
    return (values / unit).astype(np.float16).astype(np.float32) * unit


def quantize_groups(x: Float32, group_size: int, per_row: bool) -> tuple[npt.NDArray[np.int8], Float32]:
    """int8 values as 8-bit linear has them, and the scale of every row and group."""
    q, scales = dynamic_quantize(x)
    groups = -(-x.shape[1] // group_size)
    scales = np.repeat(scales[:, None], groups, axis=1)
    for g in range(0 if per_row else groups):
        part = slice(g * group_size, (g + 1) * group_size)
        q[:, part], scales[:, g] = dynamic_quantize(x[:, part])
    return q, scales


def linear(
    x: Float32,
    w: npt.NDArray[np.int8],
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike | None,
    group_size: int,
    bias: Float32 | None = None,
    curve: Curve = (-np.inf, np.inf),
    residual: Float32 | None = None,
    dtype: str = "float32",
    per_row: bool = False,
) -> npt.NDArray[Any]:
    """``activate(x @ ((w - zero_point) * scale) + bias) + residual``, group after group in float32."""
    q, x_scale = quantize_groups(x, group_size, per_row)
    w_scale = stored_scale(scale)
    y = np.zeros((x.shape[0], w.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for g in range(x_scale.shape[1]):
            part = slice(g * group_size, (g + 1) * group_size)
            group = q[:, part].astype(np.int32)
            dot = (group @ w[part].astype(np.int32)).astype(np.float32)
            if zero_point is not None:
                sum_q = group.sum(axis=1, dtype=np.int32).astype(np.float32)
                dot = dot - np.asarray(zero_point, np.float16).astype(np.float32)[g] * sum_q[:, None]
            y = y + dot * (w_scale[g] * x_scale[:, g, None])
        y = activate(y if bias is None else y + bias, curve)
        return store(y if residual is None else y + residual, dtype, None, 0)
