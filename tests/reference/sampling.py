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
from reference.quantize import dequantize_linear, quantize_linear

Array = npt.NDArray[Any]
f32 = np.float32


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
    read = machine.tensors[step.inputs[0]]
    values = x[0] if x[0].dtype == np.float32 else dequantize_linear(x[0], read.scale, read.zero_point)
    values = values.reshape(outer, n, inner)
    total = np.zeros((outer, m, inner), np.float32)
    for tap in range(count):
        total = fma(weight[:, tap, None], values[:, index[:, tap].clip(0, n - 1)], total)
    dtype = machine.tensor(step.outputs[0]).dtype
    return total if dtype == np.float32 else quantize_linear(total, y.scale, y.zero_point, dtype)


LINEAR, NEAREST, CUBIC = range(3)
ZEROS, _, REFLECTION = range(3)


def reflected(at: Array, first: Array, last: Array) -> Array:
    """Mirrored at both ends as often as it takes."""
    span = last - first
    if span <= 0:
        return np.full_like(at, first)
    before = at < first
    beyond = np.where(before, first - at, at - last)
    times = np.floor(beyond / span)
    rest = beyond - times * span
    mirrored = np.where((times.astype(np.int64) % 2 == 0) == before, first + rest, last - rest)
    return np.where(before | (at > last), mirrored, at)


def near(d: Array) -> Array:
    return (f32(1.25) * d - f32(2.25)) * d * d + f32(1)


def far(d: Array) -> Array:
    return ((f32(-0.75) * d + f32(3.75)) * d - f32(6)) * d + f32(3)


def grid_sample(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    image = x[0].reshape(a["batch"], a["height"], a["width"], a["channels"])
    grid = x[1].reshape(a["batch"], a["points"], 2)
    places, sides = [], []
    for axis, size in enumerate((f32(a["width"]), f32(a["height"]))):
        g, most = grid[..., axis], f32(1 << 22)
        with np.errstate(invalid="ignore"):
            at = (g + 1) / 2 * (size - 1) if a["align_corners"] else ((g + 1) * size - 1) / 2
        at = np.where(at > -most, np.minimum(at, most), -most).astype(f32)
        places.append(np.rint(at) if a["mode"] == NEAREST else at)
        sides.append((size, f32(0), size - 1) if a["align_corners"] else (size, f32(-0.5), size - f32(0.5)))
    both = []
    for at, (size, first, last) in zip(places, sides, strict=True):
        if a["padding"] == REFLECTION:
            at = reflected(at, first, last)
        below = np.floor(at)
        d = at - below
        if a["mode"] == NEAREST:
            around = [(at, np.ones_like(at))]
        elif a["mode"] == LINEAR:
            around = [(below, (below + 1) - at), (below + 1, d)]
        else:
            weights = (far(d + 1), near(d), near(1 - d), far(2 - d))
            around = [(below + f32(by - 1), weight) for by, weight in enumerate(weights)]
        pixels = []
        for pixel, weight in around:
            if a["padding"] == REFLECTION:
                pixel = np.trunc(reflected(pixel, first, last))
            there = (a["padding"] != ZEROS) | ((pixel >= 0) & (pixel <= size - 1))
            pixels.append((pixel.clip(0, size - 1).astype(np.int64), weight, there))
        both.append(pixels)
    total = np.zeros((a["batch"], a["points"], a["channels"]), f32)
    images = np.arange(a["batch"])[:, None]
    for row, of_row, row_there in both[1]:
        for column, of_column, column_there in both[0]:
            added = fma((of_row * of_column)[..., None], image[images, row, column], total)
            total = np.where((row_there & column_there)[..., None], added, total)
    return total


STEPS = {"POOL_F32": pool_f32, "RESAMPLE": resample, "GRID_SAMPLE": grid_sample}
