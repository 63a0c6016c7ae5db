"""The ring cache, the obvious way: rows quantized one by one, attention twice (float64, and as the kernels add it)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reference.fma import fma
from reference.functions import exp

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
f32, f16 = np.float32, np.float16
SEGMENT, VALUE_TILE, LANES = 256, 64, 16


class Format(NamedTuple):
    kind: str = "int8"
    group: int = 0
    symmetric: bool = True
    rotated: bool = False

    @property
    def is_float(self) -> bool:
        return self.kind not in ("int8", "int4")


class Rows(NamedTuple):
    """Stored rows: codes (n, head_dim), scale and offset (n, groups) as float32; floats keep their values as codes."""

    codes: npt.NDArray[np.generic]
    scale: Float32
    offset: Float32
    zero: int
    group: int

    def values(self) -> Float32:
        if self.scale.shape[1] == 0:
            return self.codes.astype(f32)
        of_dim = np.arange(self.codes.shape[1]) // self.group
        steps = (self.codes.astype(np.int32) - self.zero).astype(f32)
        return steps * self.scale[:, of_dim] + self.offset[:, of_dim]


def rotate(x: Float32) -> Float32:
    """The Hadamard rotation along the last axis, butterfly by butterfly."""
    x, n, half = x.copy(), x.shape[-1], 1
    while half < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * half), 2, half)
        x = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).reshape(x.shape)
        half *= 2
    return x * (f32(1) / np.sqrt(f32(n)))


def to_bf16(x: Float32) -> Float32:
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) & np.uint32(0xFFFF0000)).view(f32)


def quantize(x: Float32, form: Format) -> Rows:
    """Rows of (n, head_dim) as the cache stores them."""
    x = rotate(x) if form.rotated else x
    n, dim = x.shape
    none = np.zeros((n, 0), f32)
    if form.is_float:
        stored = {"float32": x, "float16": x.astype(f16).astype(f32), "bfloat16": to_bf16(x)}[form.kind]
        return Rows(stored, none, none, 0, dim)
    group = min(form.group or 128, dim)
    levels = f32({"int8": (255, 127), "int4": (15, 7)}[form.kind][form.symmetric])
    zero = {"int8": 128, "int4": 8}[form.kind] if form.symmetric else 0
    codes, scales, offsets = np.empty((n, dim), np.int32), [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for begin in range(0, dim, group):
            part = x[:, begin : begin + group]
            span = np.abs(part).max(1) if form.symmetric else part.max(1) - part.min(1)
            scale = (span / levels).astype(f16).astype(f32)
            offset = np.zeros(n, f32) if form.symmetric else part.min(1).astype(f16).astype(f32)
            quotient = (part - offset[:, None]) / scale[:, None]
            low = -levels if form.symmetric else f32(0)
            held = np.where(quotient > low, quotient, low)  # a NaN gives low
            codes[:, begin : begin + group] = np.rint(np.where(held < levels, held, levels)).astype(np.int32) + zero
            scales.append(scale)
            offsets.append(offset)
    return Rows(codes, np.stack(scales, 1), np.stack(offsets, 1), zero, group)


def visible(position: npt.NDArray[np.int64], query: int, sinks: int, window: int) -> npt.NDArray[np.bool_]:
    return (position >= 0) & (position <= query) & ((position < sinks) | (query - position < window))


def slot_of(position: int, sinks: int, ring: int) -> int:
    return position if position < sinks else sinks + (position - sinks) % ring


def attention(
    q: Float32, q_sink: Float32, k: Float32, v: Float32, sink: npt.NDArray[np.bool_], scale: float
) -> Float64:
    """One query of one head over the rows that it sees, in float64. `sink` marks the rows that q_sink scores."""
    scores = np.where(sink, k.astype(np.float64) @ q_sink, k.astype(np.float64) @ q) * scale
    weights = np.exp(scores - scores.max())
    return np.asarray(weights @ v.astype(np.float64) / weights.sum())


def tree_sum(lanes: Float32) -> np.float32:
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return f32(lanes[0])


def scores(q: Float32, rows: Rows, form: Format, scale: float, query_bits: int) -> Float32:
    """Scores of one query against rows, in the kernels' order."""
    if form.is_float:
        total = np.zeros(len(rows.codes), f32)
        for d in range(len(q)):
            total = fma(q[d], rows.codes[:, d], total)
        return total * f32(scale)
    q = rotate(q) if form.rotated else q
    levels = f32(127 if query_bits == 8 else 7)
    step = np.abs(q).max() / levels
    step = step if step > 0 else f32(1)
    codes = np.rint(np.clip(q / step, -levels, levels)).astype(np.int32)
    total = np.zeros(len(rows.codes), f32)
    for g, begin in enumerate(range(0, len(q), rows.group)):
        part = slice(begin, begin + rows.group)
        dot = (rows.codes[:, part].astype(np.int32) - rows.zero) @ codes[part]
        total = fma(dot, rows.scale[:, g], total)
        if not form.symmetric:
            total = fma(codes[part].sum(), rows.offset[:, g], total)
    return total * f32(f32(step) * f32(scale))


def add_weighted(out: Float32, p: Float32, rows: Rows, form: Format) -> Float32:
    """out + p V over one tile of 64 tokens, in the kernels' order."""
    dim = rows.codes.shape[1]
    if form.is_float:
        total = np.zeros(dim, f32)
        for t in range(VALUE_TILE):
            total = fma(p[t], rows.codes[t], total)
        return out + total
    out = out.copy()
    for g, begin in enumerate(range(0, dim, rows.group)):
        part = slice(begin, begin + rows.group)
        weights = p * rows.scale[:, g]
        top = weights.max()
        counts = top > f32(2.0**-100)
        codes = np.rint(weights * (f32(255) / top if counts else f32(0))).astype(np.int32)
        middle = {"int8": 128, "int4": 8}[form.kind]
        dot = codes @ (rows.codes[:, part].astype(np.int32) - middle)
        value = fma(dot, top * f32(0.00392156885936856269836) if counts else f32(0), out[part])
        if not form.symmetric:
            lanes = np.zeros(LANES, f32)
            for i in range(0, VALUE_TILE, LANES):
                lane = slice(i, i + LANES)
                lanes = fma(p[lane], fma(rows.scale[lane, g], f32(middle), rows.offset[lane, g]), lanes)
            value = value + tree_sum(lanes)
        out[part] = value
    return out


def attention_in_order(
    q: Float32,
    q_sink: Float32,
    k: Rows,
    v: Rows,
    forms: tuple[Format, Format],
    seen: npt.NDArray[np.bool_],
    sinks: int,
    scale: float,
    query_bits: int = 8,
) -> Float32:
    """One query of one head over all slots (a multiple of 64), rounded where the kernels round."""
    raw = scores(q, k, forms[0], scale, query_bits)
    raw[:sinks] = scores(q_sink, k, forms[0], scale, query_bits)[:sinks]
    m, total, o = f32(0), f32(0), np.zeros(k.codes.shape[1], f32)
    for begin in range(0, len(seen), SEGMENT):
        at = slice(begin, begin + SEGMENT)
        if not seen[at].any():
            continue
        part_m = raw[at][seen[at]].max()
        p = np.where(seen[at], exp(np.where(seen[at], raw[at], part_m) - part_m), f32(0))
        lanes = np.zeros(LANES, f32)
        for i in range(0, len(p), LANES):
            lanes = lanes + p[i : i + LANES]
        part_l, part_o = tree_sum(lanes), np.zeros_like(o)
        for i in range(0, len(p), VALUE_TILE):
            rows = slice(begin + i, begin + i + VALUE_TILE)
            tile = Rows(v.codes[rows], v.scale[rows], v.offset[rows], v.zero, v.group)
            part_o = add_weighted(part_o, p[i : i + VALUE_TILE], tile, forms[1])
        if total == 0:
            m, total, o = part_m, part_l, part_o
            continue
        top = max(m, part_m)
        a, b = exp(m - top), exp(part_m - top)
        m, total, o = top, f32(fma(total, a, part_l * b)), fma(o, a, part_o * b)
    return o / total
