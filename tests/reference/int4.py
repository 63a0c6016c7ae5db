"""4-bit weights, the obvious way: every product, sum and rounding as docs/int4.md defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .fma import fma
from .linear import Curve, activate, dynamic_quantize, store

Float32 = npt.NDArray[np.float32]


RUN = 128  # values of x that share a scale
PANEL, OCTET = 64, 8  # columns, and values of k in a line of them


def unit_of(scale: Float32) -> np.float32:
    """The power of two that brings the largest scale to [2**14, 2**15)."""
    exponent = int(np.frexp(scale.max(initial=0.0))[1]) - 15 if scale.size else 0
    return np.float32(np.ldexp(np.float32(1), max(-126, exponent)))


def stored_scale(scale: npt.ArrayLike) -> Float32:
    """Scales as float16 in units of that power of two."""
    values = np.asarray(scale, np.float32)
    return (values / unit_of(values)).astype(np.float16).astype(np.float32) * unit_of(values)


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
    """``activate(x @ ((w - zero_point) * scale) + bias) + residual``, group after group, run after run, in float32."""
    values = np.asarray(scale, np.float32)
    unit = unit_of(values)
    halves = (values / unit).astype(np.float16)
    zero = None if zero_point is None else np.asarray(zero_point, np.float16)
    y = product(x, w, halves, unit, zero, group_size, per_row=per_row)
    with np.errstate(all="ignore"):
        y = activate(y if bias is None else y + bias, curve)
        return store(y if residual is None else y + residual, dtype, None, 0)


def product(
    x: Float32,
    w: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float16],
    unit: np.float32,
    zero_point: npt.NDArray[np.float16] | None,
    group_size: int,
    *,
    per_row: bool = False,
    wide: bool = False,
) -> Float32:
    """Scales as they are stored, in multiples of ``unit``; of rows of 8 bits, or of 16."""
    w_scale = scale.astype(np.float32)
    rows_of = sixteen_bits if wide else dynamic_quantize
    q, x_scale = rows_of(x)
    y = np.zeros((x.shape[0], w.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, x.shape[1], RUN):
            end = min(x.shape[1], first + RUN)
            if not per_row:
                q[:, first:end], x_scale = rows_of(x[:, first:end])
            total = np.zeros_like(y)
            for begin in range(first, end, group_size):
                g, part = begin // group_size, slice(begin, min(end, begin + group_size))
                group = q[:, part].astype(np.int32)
                dot = (group @ w[part].astype(np.int32)).astype(np.float32)
                if zero_point is not None:
                    sum_q = group.sum(axis=1, dtype=np.int32).astype(np.float32)
                    dot = fma(-zero_point.astype(np.float32)[g], sum_q[:, None], dot)
                total = fma(dot, w_scale[g], total)
            y = fma(total, x_scale[:, None] * unit, y)
    return y


def sixteen_bits(x: Float32) -> tuple[npt.NDArray[np.int16], Float32]:
    """Rows as :func:`dynamic_quantize` has them, in steps 256 times as small; what is no number becomes the least."""
    with np.errstate(all="ignore"):
        peak = np.nan_to_num(np.abs(x), nan=0, posinf=np.inf).max(axis=1, initial=0)
        one, levels, zeros = np.float32(1), np.float32(127), peak < np.float32(2**-110)
        scale, factor = np.where(zeros, one, peak / levels), np.where(zeros, one, levels / peak)
        steps = np.where(np.isinf(peak)[:, None] & np.isfinite(x), np.float32(0), x * factor[:, None] * np.float32(256))
        steps = np.where(np.isinf(x), x, steps)
        most = 127 * 256
        codes = np.nan_to_num(np.rint(steps), nan=-most).clip(-most, most).astype(np.int16)
        return codes, (scale / np.float32(256)).astype(np.float32)


def unpack(
    packed: npt.NDArray[np.uint8], n: int, k: int, group: int, *, asymmetric: bool
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16], npt.NDArray[np.float16] | None]:
    """Values (k, n), scales and zero points (groups, n) of packed weights, as csrc/gemm/pack4.h lays them out."""
    groups, panels = -(-k // group), -(-n // PANEL)
    values = np.zeros((k, panels * PANEL), np.int8)
    halves = np.zeros((1 + asymmetric, groups, panels * PANEL), np.float16)
    at = 0
    for first in range(0, panels * PANEL, PANEL):
        for g in range(groups):
            end = min(k, (g + 1) * group)
            octets = -(-(end - g * group) // OCTET)
            lines = packed[at : at + octets * 4 * PANEL].reshape(octets, PANEL, 4)
            at += lines.size
            codes = np.concatenate([lines & 15, lines >> 4], axis=2).astype(np.int8) - 8  # (octets, columns, k)
            rows = codes.transpose(0, 2, 1).reshape(-1, PANEL)
            values[g * group : end, first : first + PANEL] = rows[: end - g * group]
            for part in halves:
                part[g, first : first + PANEL] = packed[at : at + 2 * PANEL].view(np.float16)
                at += 2 * PANEL
    return values[:, :n], halves[0, :, :n], -halves[1, :, :n] if asymmetric else None
