"""What goes along one axis, in the order that kernels add in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference.fma import fma
from reference.functions import exp, log

Array = npt.NDArray[Any]
f32 = np.float32
LANES = 16
SUM, MEAN, MAX, MIN, PROD, SUM_ABS, SUM_SQUARES = range(7)


def along(step: Any, x: Array) -> Array:
    return x.reshape(*(step.arguments[name] for name in ("outer", "n", "inner")))


def largest(best: Array, v: Array) -> Array:
    return np.where(np.isnan(v), v, np.where(v > best, v, best))


def smallest(best: Array, v: Array) -> Array:
    return np.where(np.isnan(v), v, np.where(v < best, v, best))


STARTS = {MAX: -np.inf, MIN: np.inf, PROD: 1.0}
JOINS = {
    MAX: largest,
    MIN: smallest,
    PROD: lambda all_, v: all_ * v,
    SUM_ABS: lambda all_, v: all_ + np.abs(v),
    SUM_SQUARES: lambda all_, v: fma(v, v, all_),
}
MEETS = {MAX: largest, MIN: smallest, PROD: JOINS[PROD]}


def add(a: Array, b: Array) -> Array:
    return a + b


def by_lanes(op: int, x: Array) -> Array:
    """Of the last axis: lane l takes the elements l, l + 16, ..; the lanes meet in a tree."""
    n = x.shape[-1]
    padded = np.full((*x.shape[:-1], -(-n // LANES) * LANES), STARTS.get(op, 0), f32)
    padded[..., :n] = x
    lanes = np.full((*x.shape[:-1], LANES), STARTS.get(op, 0), f32)
    for first in range(0, n, LANES):
        lanes = JOINS.get(op, add)(lanes, padded[..., first : first + LANES])
    for half in (8, 4, 2, 1):
        lanes = MEETS.get(op, add)(lanes[..., :half], lanes[..., half : 2 * half])
    return lanes[..., 0]


def reduce(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    values, op = along(step, x[0]), step.arguments["op"]
    outer, n, inner = values.shape
    if values.dtype == np.int64:
        whole = {SUM: np.add, MAX: np.maximum, MIN: np.minimum, PROD: np.multiply}[op]
        return whole.reduce(values, axis=1)
    with np.errstate(all="ignore"):
        if inner == 1:
            result = by_lanes(op, values[:, :, 0])
        else:
            result = np.full((outer, inner), STARTS.get(op, 0), f32)
            for row in range(n):
                result = JOINS.get(op, add)(result, values[:, row])
        return result / f32(n) if op == MEAN else result


def softmax(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    values = along(step, x[0])
    with np.errstate(all="ignore"):
        less = values - np.fmax.reduce(values, axis=1, initial=-np.inf, keepdims=True)
        e = exp(less)
        if values.shape[2] == 1:
            total = by_lanes(SUM, e[:, :, 0])[:, None, None]
        else:
            total = np.zeros((values.shape[0], 1, values.shape[2]), f32)
            for row in range(values.shape[1]):
                total[:, 0] += e[:, row]
        return less - log(total) if step.arguments["log"] else e * (f32(1) / total)


def normalize(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    arguments = step.arguments
    n = arguments["columns"]
    rows = x[0].reshape(arguments["rows"], n)
    with np.errstate(all="ignore"):
        mean = by_lanes(SUM, rows) / f32(n) if arguments["centered"] else np.zeros(len(rows), f32)
        centered = rows - mean[:, None]
        variance = by_lanes(SUM_SQUARES, centered) / f32(n) + f32(arguments["epsilon"])
        result = centered * (f32(1) / np.sqrt(variance))[:, None]
        if len(step.blobs) == 1:
            return result * machine.blob(step, 0, "<f4")[:n]
        if len(step.blobs) == 2:
            return fma(result, machine.blob(step, 0, "<f4")[:n], machine.blob(step, 1, "<f4")[:n])
        return result


def cum_sum(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    values = along(step, x[0])
    values = values[:, ::-1] if step.arguments["reverse"] else values
    with np.errstate(all="ignore"):
        sums = np.add.accumulate(values, axis=1)
    if step.arguments["exclusive"]:
        sums = np.concatenate([np.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
    return sums[:, ::-1] if step.arguments["reverse"] else sums


def arg_extreme(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    values = along(step, x[0])
    choose = np.argmax if step.arguments["largest"] else np.argmin
    if step.arguments["last"]:
        return values.shape[1] - 1 - choose(values[:, ::-1], axis=1)
    return choose(values, axis=1)


STEPS = {
    "REDUCE": reduce,
    "SOFTMAX_F32": softmax,
    "NORMALIZE": normalize,
    "CUM_SUM": cum_sum,
    "ARG_EXTREME": arg_extreme,
}
