"""Activations as the kernels define them, float32 operations in one order, and the float64 values they stand for."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
f32 = np.float32

LOG2_E, LN2_HIGH, LN2_LOW = f32(1.4426950216293335), f32(0.693145751953125), f32(1.428606765330187e-06)
EXP_TAIL = (0.5, 0.1666651964187622, 0.04166840389370918, 0.00836889911442995, 0.001381422160193324)
RATIO = (
    0.4437289834022522,
    0.21252022683620453,
    -0.22521738708019257,
    -0.007705129217356443,
    0.20305131375789642,
    -0.21818095445632935,
    0.05082378163933754,
    0.19981186091899872,
    -0.3993505537509918,
    0.35352644324302673,
    0.14156804978847504,
    -0.6876867413520813,
    0.48211243748664856,
)


def horner(coefficients: tuple[float, ...], x: FloatArray) -> FloatArray:
    p = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * x + f32(c)
    return p


def keep_bits(x: FloatArray, mask: int) -> FloatArray:
    return (x.view(np.uint32) & np.uint32(mask)).view(np.float32)


def exp_minus_one(r: FloatArray) -> FloatArray:
    return r + (r * r) * horner(EXP_TAIL, r)


def exponent_of(v: FloatArray) -> FloatArray:
    return np.rint(v * -LOG2_E)


def times_pow2(y: FloatArray, n: FloatArray) -> FloatArray:
    return (y * np.ldexp(f32(1), n.astype(np.int32) + 64)) * f32(2.0**-64)


def at_most(x: FloatArray, limit: float) -> FloatArray:
    """The size of x, held under a limit; a NaN gives the limit."""
    return np.where(np.abs(x) < f32(limit), np.abs(x), f32(limit))


def at_least(x: FloatArray, limit: float) -> FloatArray:
    """x, held above a limit; a NaN stays."""
    return np.where(f32(limit) > x, f32(limit), x)


def times_logistic(x: FloatArray, n: FloatArray, r: FloatArray) -> FloatArray:
    p = f32(1) + exp_minus_one(r)
    y = np.where(x < 0, x * p, x) / (f32(1) + times_pow2(p, n))
    return np.where(x < 0, times_pow2(y, n), y)


def silu(x: FloatArray) -> FloatArray:
    v = at_most(x, 110)
    n = exponent_of(v)
    return times_logistic(at_least(x, -110), n, (n * -LN2_HIGH - v) - n * LN2_LOW)


def gelu_tanh(x: FloatArray) -> FloatArray:
    c1, c1_high, c1_low = f32(1.595769166946411), f32(1.59576416015625), f32(4.961449576512678e-06)
    c3, c3_high, c3_low = f32(0.07135481387376785), f32(0.07135009765625), f32(4.718616310128709e-06)
    a = at_most(x, 11)
    h = keep_bits(a, 0xFFFF0000)
    h2 = h * h
    h3 = h2 * h
    k = keep_bits(h3, 0xFFFFF000)
    cubic, linear = k * c3_high, h * c1_high
    low = ((h3 - k) * c3_high + (h3 * c3_low + h * c1_low)) + (a - h) * (c1 + c3 * (a * (a + h) + h2))
    n = exponent_of((cubic + linear) + low)
    r = (((n * -LN2_HIGH - cubic) - linear) - n * LN2_LOW) - low
    return times_logistic(at_least(x, -11), n, r)


def gelu(x: FloatArray) -> FloatArray:
    a = at_most(x, 14.5)
    t = f32(1) / (f32(1) + f32(0.75) * a)
    ratio = t * horner(RATIO, t - f32(0.5))
    h = keep_bits(a, 0xFFFFF000)
    v, low = (h * h) * f32(0.5), ((a - h) * (a + h)) * f32(0.5)
    n = exponent_of(v)
    tail = ratio + ratio * exp_minus_one(((n * -LN2_HIGH - v) - n * LN2_LOW) - low)
    bounded = at_least(x, -14.5)
    return np.where(x < 0, times_pow2(bounded * tail, n), bounded * (f32(1) - times_pow2(tail, n)))


ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


def exact(name: str, x: FloatArray) -> npt.NDArray[np.float64]:
    """The activation in float64, written so that nothing cancels."""
    wide = x.astype(np.float64)
    if name == "gelu":
        return 0.5 * wide * np.vectorize(math.erfc, otypes=[np.float64])(-wide / math.sqrt(2))
    slope = wide if name == "silu" else 2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    e = np.exp(-np.abs(slope))
    return np.where(wide < 0, wide * e, wide) / (1 + e)
