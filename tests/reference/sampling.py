"""Pooling and resizing of float32, tap by tap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from reference.fma import fma
from reference.functions import power

Array = npt.NDArray[Any]


def taps(step: Any, x: Array) -> Iterator[tuple[tuple[int, ...], Array, Array]]:
    """For each tap of a window, ascending: which it is, what it reads under each output pixel, where that is inside."""
    a = step.arguments
    pixels = x.reshape(a["batch"], *a["in"], a["channels"])
    for tap in itertools.product(*map(range, a["kernel"])):
        at = [
            np.arange(out) * stride + k * dilation - pad
            for out, stride, k, dilation, pad in zip(a["out"], a["stride"], tap, a["dilation"], a["pad"], strict=True)
        ]
        known = [(places >= 0) & (places < side) for places, side in zip(at, a["in"], strict=True)]
        z, y, x_ = (places.clip(0, side - 1) for places, side in zip(at, a["in"], strict=True))
        inside = known[0][:, None, None] & known[1][:, None] & known[2]
        yield tap, pixels[:, z[:, None, None], y[:, None], x_], inside[None, ..., None]


def pool_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    if not a["average"] and not a["power"]:
        best = np.float32(-np.inf)
        for _, values, inside in taps(step, x[0]):
            best = np.where(inside & (values > best), values, best)
        return np.asarray(best)
    total = part = np.zeros((a["batch"], *a["out"], a["channels"]), np.float32)
    count = np.zeros((1, *a["out"], 1), np.int64)
    with np.errstate(all="ignore"):
        for tap, values, inside in taps(step, x[0]):
            part = part + np.where(inside, norm(values, int(a["power"])), np.float32(0))
            count += inside
            if tap[2] == a["kernel"][2] - 1:
                total, part = total + part, np.zeros_like(part)
        if a["power"]:
            return root(total, int(a["power"]))
        divisor = math.prod(a["kernel"]) if a["count_include_pad"] else count
        return total / np.asarray(divisor, np.float32)


def norm(x: Array, p: int) -> Array:
    size = np.abs(x)
    return math.prod([size] * (p - 1), start=size) if p else x


def root(total: Array, p: int) -> Array:
    if p < 3:
        return total if p == 1 else np.sqrt(total)
    return np.asarray(power(total, np.broadcast_to(np.float32(1) / np.float32(p), total.shape)))


def resample(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    outer, n, m, inner, count = (step.arguments[name] for name in ("outer", "n", "m", "inner", "taps"))
    index, weight = (
        machine.blob(step, at, kind)[: m * count].reshape(m, count) for at, kind in ((0, "<i4"), (1, "<f4"))
    )
    values = x[0].reshape(outer, n, inner)
    total = np.zeros((outer, m, inner), np.float32)
    for tap in range(count):
        total = fma(weight[:, tap, None], values[:, index[:, tap].clip(0, n - 1)], total)
    return total


STEPS = {"POOL_F32": pool_f32, "RESAMPLE": resample}
