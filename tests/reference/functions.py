"""Functions of one value as the kernels define them: float32 operations in one order, or float64 ones, rounded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import activations
from reference.fma import fma

Array = npt.NDArray[Any]
f32 = np.float32

INV_LN2, LN2 = f32(1 / math.log(2)), f32(math.log(2))
LN2_REST = f32(math.log(2) - float(LN2))
SHIFT = f32(1.5 * 2**23)  # adding it rounds to an integer
EXP_OF_REST = ("1", "1", "0x1p-1", "0x1.55548ep-3", "0x1.55545ep-5", "0x1.123b52p-7", "0x1.6db41cp-10")
LOG_TAIL = (
    *("0x1.555548p-2", "-0x1.000006p-2", "0x1.99a4b6p-3", "-0x1.555c4cp-3", "0x1.233764p-3"),
    *("-0x1.fc2216p-4", "0x1.e6f0b6p-4", "-0x1.de3bd6p-4", "0x1.1456bap-4"),
)
TANH_ABOVE = ("1", "0x1.1832ap-3", "0x1.fb4aap-9", "0x1.d689a6p-16", "0x1.07787p-25", "-0x1.af7148p-37")
TANH_BELOW = ("1", "0x1.e16ea4p-2", "0x1.be844cp-6", "0x1.9d5bf2p-12", "0x1.5a4794p-20")
ERF_SMALL = (
    *("0x1.06eba6p-3", "-0x1.8126dcp-2", "0x1.ce1904p-4"),
    *("-0x1.b676c8p-6", "0x1.46c22ep-8", "-0x1.3825b2p-11"),
)
ERF_LARGE = (
    *("0x1.07328cp-3", "0x1.457cdep-1", "0x1.af271ep-4"),
    *("-0x1.7707aep-6", "0x1.a56494p-9", "-0x1.c0c37ap-13"),
)


def horner(coefficients: tuple[str, ...], x: Array) -> Array:
    p = np.full_like(x, float.fromhex(coefficients[-1]))
    for c in coefficients[-2::-1]:
        p = fma(p, x, f32(float.fromhex(c)))
    return p


def powers(v: Array) -> tuple[Array, Array]:
    """n and exp(r) of v = n ln 2 + r."""
    n = fma(v, INV_LN2, SHIFT) - SHIFT
    r = fma(n, -LN2_REST, fma(n, -LN2, v))
    return n, horner(EXP_OF_REST, r)


def held(x: Array, lowest: float, largest: float) -> Array:
    x = np.where(f32(largest) < x, f32(largest), x)
    return np.where(f32(lowest) > x, f32(lowest), x)


def exp(x: Array) -> Array:
    v = held(x, -104, 89)
    n, y = powers(v)
    half = fma(v, INV_LN2 * f32(0.5), SHIFT) - SHIFT
    return y * pow2(half) * pow2(n - half)


def pow2(n: Array) -> Array:
    return np.ldexp(f32(1), np.nan_to_num(n).astype(np.int32))


def log_from(f: Array, e: Array) -> Array:
    square = f * f
    low = fma(f * horner(LOG_TAIL, f), square, square * f32(-0.5))
    return fma(e, LN2, f + fma(e, LN2_REST, low))


def log(x: Array) -> Array:
    small = x < f32(2.0**-126)
    bits = np.where(small, x * f32(2.0**23), x).view(np.int32).astype(np.int64)
    e = (bits - 0x3F3504F3) >> 23
    m = (bits - (e << 23)).astype(np.uint32).view(np.float32)
    y = log_from(m - f32(1), e.astype(np.float32) + np.where(small, f32(-23), f32(0)))
    y = np.where(x < np.inf, y, x)
    return np.where(x == 0, f32(-np.inf), np.where(x < 0, f32(np.nan), y))


def sigmoid(x: Array) -> Array:
    n, y = powers(held(-x, -87, 89))
    return f32(1) / (f32(1) + y * pow2(n))


def tanh(x: Array) -> Array:
    v = held(x, -9.02, 9.02)
    return held(v * horner(TANH_ABOVE, v * v) / horner(TANH_BELOW, v * v), -1, 1)


def erf(x: Array) -> Array:
    size = np.abs(x)
    a = np.where(f32(4) < size, f32(4), size)
    small = fma(horner(ERF_SMALL, size * size), size, size)
    large = f32(1) - exp(-fma(horner(ERF_LARGE, a), a, a))
    return np.copysign(np.where(size < f32(0.92), small, large), x)


def softplus(x: Array) -> Array:
    e = exp(-np.abs(x))
    small = e < f32(0.4142)
    log1p = log_from(np.where(small, e, (e - f32(1)) * f32(0.5)), np.where(small, f32(0), f32(1)))
    return np.where(f32(0) > x, f32(0), x) + log1p


def series(coefficients: list[float], x: Array) -> Array:
    p = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * x + c
    return p


TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041  # its first 192 bits


def angle(x: Array) -> tuple[Array, Array]:
    """x as quadrants, and what is left."""
    wide = x.astype(np.float64)
    n = np.rint(wide * (2 / math.pi))
    rest = (wide - n * float.fromhex("0x1.921fb544p+0")) - n * float.fromhex("0x1.0b4611a626331p-34")
    quadrant = np.where(np.isfinite(n) & (np.abs(n) < 2.0**40), n, 0).astype(np.int64)
    for i in np.flatnonzero((np.abs(x) >= 2.0**20) & np.isfinite(x)):
        quadrant.flat[i], rest.flat[i] = large_angle(float(x.flat[i]))
    return quadrant, np.where(np.isfinite(x), rest, np.nan)


def large_angle(x: float) -> tuple[int, float]:
    """By 64 bits of the product with 2 / pi: those below multiples of 4."""
    bits = int(np.float32(abs(x)).view(np.uint32))
    place, mantissa = (bits >> 26) & 15, ((bits & 0x7FFFFF) | 0x800000) << ((bits >> 23) & 7)
    words = [(TWO_OVER_PI >> (192 - 8 * (place + part + 1))) & 0xFFFFFFFF for part in (0, 4, 8)]
    product = ((mantissa * words[0]) << 32) + mantissa * words[1] + ((mantissa * words[2]) >> 32)
    product %= 2**64
    quadrant = (product + 2**61) >> 62
    rest = (product - (quadrant << 62)) * float.fromhex("0x1.921fb54442d18p-62")
    return (quadrant, rest) if x > 0 else (-quadrant, -rest)


def sine_of(r: Array) -> Array:
    square = r * r
    return r + r * (square * series([(-1) ** k / math.factorial(2 * k + 1) for k in range(1, 7)], square))


def cosine_of(r: Array) -> Array:
    square = r * r
    return 1 + square * series([(-1) ** k / math.factorial(2 * k) for k in range(1, 7)], square)


def sin(x: Array) -> Array:
    quadrant, r = angle(x)
    y = np.where(quadrant & 1, cosine_of(r), sine_of(r))
    return np.where(quadrant & 2, -y, y).astype(np.float32)


def cos(x: Array) -> Array:
    quadrant, r = angle(x)
    y = np.where(quadrant & 1, sine_of(r), cosine_of(r))
    return np.where((quadrant + 1) & 2, -y, y).astype(np.float32)


def tan(x: Array) -> Array:
    quadrant, r = angle(x)
    sine, cosine = sine_of(r), cosine_of(r)
    return np.where(quadrant & 1, -cosine / sine, sine / cosine).astype(np.float32)


def atan_of(x: Array) -> Array:
    inner = np.where(x > 1, 1 / x, x)
    turned = inner > 0.41421356
    u = np.where(turned, (inner - 1) / (inner + 1), inner)
    square = u * u
    part = u + u * (square * series([(-1) ** k / (2 * k + 1) for k in range(1, 14)], square))
    y = np.where(turned, math.pi / 4 + part, part)
    return np.where(x > 1, math.pi / 2 - y, y)


def atan(x: Array) -> Array:
    return np.copysign(atan_of(np.abs(x).astype(np.float64)).astype(np.float32), x)


def asin(x: Array) -> Array:
    a = np.abs(x).astype(np.float64)
    return np.copysign(atan_of(a / np.sqrt((1 - a) * (1 + a))).astype(np.float32), x)


def acos(x: Array) -> Array:
    wide = x.astype(np.float64)
    return (2 * atan_of(np.sqrt((1 - wide) / (1 + wide)))).astype(np.float32)


def wide_exp(x: Array) -> Array:
    n = np.rint(x * float.fromhex("0x1.71547652b82fep+0"))
    r = (x - n * float.fromhex("0x1.62e42fefp-1")) - n * float.fromhex("0x1.473de6af278edp-34")
    y = 1 + (r + r * r * series([1 / math.factorial(k) for k in range(2, 12)], r))
    return np.ldexp(y, np.where(np.isnan(n), 0, n).astype(np.int32))


def sinh(x: Array) -> Array:
    wide = np.clip(x.astype(np.float64), -200, 200)
    square, e = wide * wide, wide_exp(wide)
    near = wide + wide * (square * series([1 / math.factorial(2 * k + 1) for k in range(1, 6)], square))
    return np.where(square < 0.25, near, 0.5 * (e - 1 / e)).astype(np.float32)


def cosh(x: Array) -> Array:
    e = wide_exp(np.clip(x.astype(np.float64), -200, 200))
    return (0.5 * (e + 1 / e)).astype(np.float32)


def wide_log(x: Array) -> Array:
    bits = x.view(np.int64)
    above = bits - 0x3FE6A09E667F3BCD
    e = above >> 52
    m = (bits - (e << 52)).view(np.float64)
    s = (m - 1) / (m + 1)
    square = s * s
    return e * math.log(2) + 2 * (s + s * (square * series([1 / (2 * k + 1) for k in range(1, 10)], square)))


def power(x: Array, y: Array) -> Array:
    base, size = np.abs(x), np.abs(y)
    whole = (size >= 2**24) | (np.trunc(y) == y)
    odd = whole & (size < 2**24) & (np.fmod(y, f32(2)) != 0)
    inner = np.where((base > 0) & np.isfinite(base), base, f32(1)).astype(np.float64)
    result = wide_exp(np.clip(y.astype(np.float64) * wide_log(inner), -200, 200)).astype(np.float32)
    result = np.where((x < 0) & ~whole, f32(np.nan), result)
    limit = np.where(base == 1, f32(1), np.where((base > 1) == (y > 0), f32(np.inf), f32(0)))
    result = np.where(np.isinf(size), limit, result)
    edge = np.where((base == 0) == (y < 0), f32(np.inf), f32(0))
    result = np.where((base == 0) | np.isinf(base), edge, result)
    result = np.where(odd & np.signbit(x), -result, result)
    result = np.where(np.isnan(x) | np.isnan(y), f32(np.nan), result)
    return np.where((y == 0) | (x == 1), f32(1), result)


FUNCTIONS = {
    "EXP": exp,
    "LOG": log,
    "SIN": sin,
    "COS": cos,
    "TAN": tan,
    "ASIN": asin,
    "ACOS": acos,
    "ATAN": atan,
    "SINH": sinh,
    "COSH": cosh,
    "TANH": tanh,
    "ERF": erf,
    "SIGMOID": sigmoid,
    "SILU": activations.silu,
    "GELU": activations.gelu,
    "GELU_TANH": activations.gelu_tanh,
    "SOFTPLUS": softplus,
}
