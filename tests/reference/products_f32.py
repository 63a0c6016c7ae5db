"""Products of float32, in NumPy: one chain of fused multiply-adds a result, in the order that kernels keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from reference.activations import gelu, gelu_tanh, silu
from reference.fma import fma
from reference.functions import exp
from reference.quantize import quantize_linear

Array = npt.NDArray[Any]
STRIP = 16


def chain(a: Array, b: Array, start: Array | None = None) -> Array:
    """``a @ b`` of float32, k ascending, one rounding a step; ``start`` is what the sums begin at."""
    y = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), np.float32)
    if start is not None:
        y = start
    for k in range(a.shape[-1]):
        y = fma(a[..., :, k, None], b[..., None, k, :], y)
    return y


def unpack(blob: Array, groups: int, k: int, n: int) -> Array:
    """Weights (groups, k, n) out of strips of [k][16]."""
    strips = -(-n // STRIP)
    return blob.reshape(groups, strips, k, STRIP).transpose(0, 2, 1, 3).reshape(groups, k, strips * STRIP)[:, :, :n]


def clamp(y: Array, lo: float, hi: float) -> Array:
    """A NaN stays one."""
    y = np.where(np.float32(lo) > y, np.float32(lo), y)
    return np.where(np.float32(hi) < y, np.float32(hi), y)


def finish(machine: Any, step: Any, y: Array, bias: Array, target: Any, own: int = 1) -> Array:
    """(pixels, channels): bias, activation, addend behind its ``own`` inputs, and what the result is stored as."""
    a = step.arguments
    addend = machine.tensor(step.inputs[own]).reshape(y.shape) if len(step.inputs) > own else None
    with np.errstate(all="ignore"):
        y = y + bias
        if addend is not None and a["addend_first"]:
            y = y + addend
        curves = (lambda v: clamp(v, a["lo"], a["hi"]), gelu, gelu_tanh, silu)
        y = curves[a["activation"]](y)
        if addend is not None and not a["addend_first"]:
            y = y + addend
        if target.dtype.name == "F32":
            return y
        return quantize_linear(y, target.scale, target.zero_point, np.uint8 if target.dtype.name == "U8" else np.int8)


def taps(a: dict[str, Any]) -> list[tuple[int, ...]]:
    return list(np.ndindex(*a["kernel"]))


def met(a: dict[str, Any], x: Array, tap: tuple[int, ...]) -> Array:
    """What output pixels of a convolution meet under a tap, zeros outside: (batch, *out, channels)."""
    places, inside = [], []
    for axis in range(3):
        at = np.arange(a["out"][axis]) * a["stride"][axis] + tap[axis] * a["dilation"][axis] - a["pad"][axis]
        inside.append((at >= 0) & (at < a["in"][axis]))
        places.append(at.clip(0, a["in"][axis] - 1))
    taken = x[:, places[0]][:, :, places[1]][:, :, :, places[2]]
    there = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return np.where(there[None, ..., None], taken, np.float32(0))


def conv_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    groups, group_in, group_out = a["groups"], a["in_channels"] // a["groups"], a["out_channels"] // a["groups"]
    image = x[0].reshape(a["batch"], *a["in"], a["in_channels"])
    count = len(taps(a))
    weights = unpack(machine.blob(step, 0, "<f4"), groups, count * group_in, group_out)
    windows = np.stack([met(a, image, tap) for tap in taps(a)], axis=4)  # (batch, *out, taps, channels)
    rows = windows.reshape(-1, count, groups, group_in).transpose(2, 0, 1, 3).reshape(groups, -1, count * group_in)
    return _by_group(machine, step, chain(rows, weights), y)


def _by_group(machine: Any, step: Any, sums: Array, y: Any) -> Array:
    """(groups, pixels, channels of the group) to what the step stores."""
    groups, _, group_out = sums.shape
    bias = machine.blob(step, 1, "<f4")[: groups * -(-group_out // STRIP) * STRIP].reshape(groups, -1)[:, :group_out]
    return finish(machine, step, sums.transpose(1, 0, 2).reshape(sums.shape[1], -1), bias.reshape(-1), y)


def conv_transpose_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    """A tap between the pixels of the input is passed over; one outside of it meets zeros."""
    a = step.arguments
    groups, group_in, group_out = a["groups"], a["in_channels"] // a["groups"], a["out_channels"] // a["groups"]
    image = x[0].reshape(a["batch"], *a["in"], groups, group_in)
    weights = unpack(machine.blob(step, 0, "<f4"), groups, len(taps(a)) * group_in, group_out)
    sums = np.zeros((groups, a["batch"], *a["out"], group_out), np.float32)
    for number, tap in enumerate(taps(a)):
        places, sources, inside = [], [], []
        for axis in range(3):
            at = np.arange(a["out"][axis]) + a["pad"][axis] - tap[axis] * a["dilation"][axis]
            whole = np.flatnonzero(at % a["stride"][axis] == 0)
            source = at[whole] // a["stride"][axis]
            places.append(whole)
            inside.append((source >= 0) & (source < a["in"][axis]))
            sources.append(source.clip(0, a["in"][axis] - 1))
        there = inside[0][:, None, None] & inside[1][:, None] & inside[2]
        taken = image[:, sources[0]][:, :, sources[1]][:, :, :, sources[2]]
        taken = np.where(there[None, ..., None, None], taken, np.float32(0))
        rows = taken.reshape(-1, groups, group_in).transpose(1, 0, 2)
        where = np.ix_(range(groups), range(a["batch"]), *places)
        part = sums[where]
        lines = weights[:, number * group_in : (number + 1) * group_in]
        sums[where] = chain(rows, lines, part.reshape(groups, -1, group_out)).reshape(part.shape)
    return _by_group(machine, step, sums.reshape(groups, -1, group_out), y)


def depthwise_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    channels = a["channels"]
    image = x[0].reshape(a["batch"], *a["in"], channels)
    weights = machine.blob(step, 0, "<f4").reshape(len(taps(a)), -1)[:, :channels]
    sums = np.zeros((a["batch"], *a["out"], channels), np.float32)
    for tap, line in zip(taps(a), weights, strict=True):
        sums = fma(met(a, image, tap), line, sums)
    return finish(machine, step, sums.reshape(-1, channels), machine.blob(step, 1, "<f4")[:channels], y)


def gemm_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    rows, k, n = (step.arguments[name] for name in ("rows", "k", "columns"))
    weights = unpack(machine.blob(step, 0, "<f4"), 1, k, n)[0]
    return finish(machine, step, chain(x[0].reshape(rows, k), weights), machine.blob(step, 1, "<f4")[:n], y)


def strided(x: Array, batch: list[int], steps: list[int], *axes: tuple[int, int]) -> Array:
    """A tensor's elements as (*batch, *axes), by element steps."""
    shape = (*batch, *(size for size, _ in axes))
    flat = x.reshape(-1)
    strides = [step * flat.itemsize for step in (*steps, *(step for _, step in axes))]
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def _placed(y: Any, batch: list[int], steps: list[int], result: Array, row: int) -> Array:
    out = np.zeros(math.prod(y.shape), np.float32)
    strided(out, batch, steps, (result.shape[-2], row), (result.shape[-1], 1))[...] = result
    return out


def matmul_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    rows, k, n = a["rows"], a["k"], a["columns"]
    left = strided(x[0], a["batch"], a["a_batch"], (rows, a["a_row"]), (k, a["a_k"]))
    right = strided(x[1], a["batch"], a["b_batch"], (k, a["b_k"]), (n, a["b_column"]))
    with np.errstate(all="ignore"):
        result = chain(left, right) * np.float32(a["scale"])
    return _placed(y, a["batch"], a["c_batch"], result, a["c_row"])


def sum_lanes(x: Array) -> Array:
    """Over the last axis: 16 lanes, each ascending, and a tree over them."""
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // STRIP) * STRIP), np.float32)
    padded[..., : x.shape[-1]] = x
    lanes = np.zeros((*x.shape[:-1], STRIP), np.float32)
    for i in range(0, padded.shape[-1], STRIP):
        lanes = lanes + padded[..., i : i + STRIP]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def attention_f32(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    batch, rows, keys, depth, width = a["batch"], a["rows"], a["keys"], a["depth"], a["value_depth"]
    q = strided(x[0], batch, a["q_batch"], (rows, a["q_row"]), (depth, 1))
    k = strided(x[1], batch, a["k_batch"], (depth, a["k_depth"]), (keys, a["k_row"]))
    v = strided(x[2], batch, a["v_batch"], (keys, a["v_row"]), (width, 1))
    with np.errstate(all="ignore"):
        scores = chain(q, k) * np.float32(a["scale"])
        if len(x) == 4:
            scores = scores + strided(x[3], batch, a["mask_batch"], (rows, a["mask_row"]), (keys, a["mask_column"]))
        largest = np.fmax.reduce(scores, axis=-1, keepdims=True, initial=np.float32(-np.inf))
        e = exp(scores - largest)
        result = chain(e, v) / sum_lanes(e)[..., None]
    return _placed(y, batch, a["y_batch"], result, a["y_row"])


STEPS: dict[str, Callable[..., Array]] = {
    "CONV_F32": conv_f32,
    "DEPTHWISE_F32": depthwise_f32,
    "GEMM_F32": gemm_f32,
    "MATMUL_F32": matmul_f32,
    "CONV_TRANSPOSE_F32": conv_transpose_f32,
    "ATTENTION_F32": attention_f32,
}
