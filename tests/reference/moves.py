"""Steps that move items: picked by tables, with axes in another order, where indices say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pick(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    shape, result = step.arguments["x_shape"], step.arguments["y_shape"]
    tables = np.split(machine.blob(step, 0, "<i4")[: sum(result)], np.cumsum(result)[:-1])
    filler = np.frombuffer(np.int64(step.arguments["filler"]).tobytes()[: x[0].itemsize], x[0].dtype)[0]
    picked, inside = x[0].reshape(shape), np.ones(result, bool)
    for axis, (side, table) in enumerate(zip(shape, tables, strict=True)):
        known = (table >= 0) & (table < side)
        inside &= known.reshape([-1 if other == axis else 1 for other in range(8)])
        if side == 0:
            return np.full(result, filler)
        picked = picked.take(np.where(known, table, 0), axis=axis)
    return np.where(inside, picked, filler)


def permute(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    return np.ascontiguousarray(x[0].reshape(step.arguments["x_shape"]).transpose(step.arguments["perm"]))


def place(index: int, n: int) -> int | None:
    """Where an index points, counted from the end where it is negative; None where it leaves the axis."""
    found = index + n if index < 0 else index
    return found if 0 <= found < n else None


def gather(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    outer, n, inner, count = (step.arguments[name] for name in ("outer", "n", "inner_bytes", "count"))
    data = machine.blob(step, 0) if step.blobs else x[0].reshape(-1).view(np.uint8)
    rows = data[: outer * n * inner].reshape(outer, n, inner)
    result = np.zeros((outer, count, inner), np.uint8)
    for i, index in enumerate(x[-1].reshape(-1).tolist()):
        if (at := place(index, n)) is not None:
            result[:, i] = rows[:, at]
    return result.view(machine.tensor(step.outputs[0]).dtype)


def gather_elements(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    data, shape = x[0].reshape(-1), a["y_shape"]
    from_others = sum(i * by for i, by in zip(np.indices(shape), a["x_step"], strict=True))
    result = np.zeros(shape, data.dtype).reshape(-1)
    places = [place(index, a["n"]) for index in x[1].reshape(-1).tolist()]
    for i, (other, at) in enumerate(zip(np.asarray(from_others).reshape(-1).tolist(), places, strict=True)):
        if at is not None:
            result[i] = data[other + at * a["axis_step"]]
    return result


def gather_nd(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    sides = a["sides"][: a["depth"]]
    slices = x[0].reshape(-1).view(np.uint8).reshape(a["batches"], *sides, a["slice_bytes"])
    result = np.zeros((a["batches"], a["count"], a["slice_bytes"]), np.uint8)
    for batch, rows in enumerate(x[1].reshape(a["batches"], a["count"], a["depth"]).tolist()):
        for i, row in enumerate(rows):
            at = [place(index, side) for index, side in zip(row, sides, strict=True)]
            if None not in at:
                result[batch, i] = slices[(batch, *at)]
    return result.view(x[0].dtype)


JOINS = (
    lambda a, b: b,
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: np.where(np.isnan(a) | (a < b), a, b),
    lambda a, b: np.where(np.isnan(a) | (a > b), a, b),
)


def scatter_elements(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    result, join = x[0].reshape(-1).copy(), JOINS[a["how"]]
    from_others = sum(i * by for i, by in zip(np.indices(a["shape"]), a["y_step"], strict=True))
    places = [place(index, a["n"]) for index in x[1].reshape(-1).tolist()]
    others = np.asarray(from_others).reshape(-1).tolist()
    for other, at, update in zip(others, places, x[2].reshape(-1), strict=True):
        if at is not None:
            target = other + at * a["axis_step"]
            result[target] = join(result[target], update)
    return result


def scatter_nd(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    sides, join = a["sides"][: a["depth"]], JOINS[a["how"]]
    result = x[0].reshape(*sides, a["slice"]).copy()
    updates = x[2].reshape(a["count"], a["slice"])
    for row, update in zip(x[1].reshape(a["count"], a["depth"]).tolist(), updates, strict=True):
        at = tuple(place(index, side) for index, side in zip(row, sides, strict=True))
        if None not in at:
            result[at] = join(result[at], update)
    return result


STEPS = {
    "PICK": pick,
    "PERMUTE": permute,
    "GATHER": gather,
    "GATHER_ELEMENTS": gather_elements,
    "GATHER_ND": gather_nd,
    "SCATTER_ELEMENTS": scatter_elements,
    "SCATTER_ND": scatter_nd,
}
