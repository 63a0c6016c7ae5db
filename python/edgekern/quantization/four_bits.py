"""Weights of 4 bits with a scale for each group of them along the depth of a product."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekern.quantization.encodings import MIN_SCALE, Encoding
from edgekern.quantization.weights import BLOCK

Float32Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

BITS = 4
_LOWEST, _HIGHEST = -8, 7
# How much of a group's largest weight its scale is tried for: to cut one off may be less than to round all the others.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
# Kernels hold scales as float16 in a unit of a product's own: groups of next to nothing get scales that fit beside it.
_SMALLEST = 2.0**-20


class Groups(NamedTuple):
    """What a recipe of 4-bit weights says: how many of them share a scale, and how many bits the rows get."""

    size: int
    row_bits: int


def groups_of(recipe: str) -> Groups | None:
    """The groups of a recipe like "w4a8-g32"; None of recipes by 8-bit weights."""
    found = re.fullmatch(r"w4a(8|16)-g(\d+)", recipe)
    return None if found is None else Groups(int(found[2]), int(found[1]))


@dataclass(frozen=True)
class GroupedWeights:
    """Weights as codes: ``(codes - zero) * scale``, where a scale is that of ``group`` codes side by side.

    Attributes
    ----------
    codes : (columns, k) int8. Within [-8, 7].
    scale : (columns, groups) float32. Each a float16 in one unit, a power of two.
    zero : (columns, groups) int8, or None where all are 0.
    group : int
    """

    codes: Codes
    scale: Float32Array
    zero: Codes | None
    group: int

    def encoding(self, depth: int) -> Encoding:
        """Of the matrix whose axis ``depth`` is k."""
        zero: Codes | int = 0 if self.zero is None else self.zero
        scale = self.scale
        if depth == 0:
            scale, zero = scale.T, zero if isinstance(zero, int) else zero.T
        return Encoding(scale, zero, signed=True, bits=BITS, axis=depth, group_size=self.group)


def quantize_groups(weights: Float32Array, group: int) -> GroupedWeights:
    """Round a matrix (columns, k) of finite weights, whose groups lie along k, to 4 bits.

    The scale of each group is the one, of a few below its largest weight's, that leaves the smallest squared error.
    Codes are symmetric, within [-7, 7], or have a zero point a group: whichever leaves less of the whole matrix.
    """
    columns, k = weights.shape
    groups = -(-k // group)
    largest = float(np.abs(weights).max(initial=0)) / _HIGHEST
    least = max(largest * _SMALLEST, MIN_SCALE * 2.0**14)
    unit = np.float32(2.0 ** (np.frexp(max(largest, least))[1] - 15))
    found = [_Rounding(columns, groups, group) for _ in range(2)]
    step = max(1, BLOCK // max(1, groups * group))
    for first in range(0, columns, step):
        rows = weights[first : first + step]
        parts = np.zeros((len(rows), groups * group), np.float32)
        parts[:, :k] = rows
        parts = parts.reshape(len(rows), groups, group)
        for rounding, with_zeros in zip(found, (False, True), strict=True):
            rounding.take(first, *_best(parts, with_zeros, np.float32(least), unit))
    symmetric, shifted = found
    chosen = shifted if shifted.error < symmetric.error else symmetric
    codes = chosen.codes.reshape(columns, -1)[:, :k]
    return GroupedWeights(codes, chosen.scale, chosen.zero if chosen is shifted else None, group)


class _Rounding:
    """One way to round all groups, filled some columns at a time."""

    def __init__(self, columns: int, groups: int, group: int) -> None:
        self.codes, self.scale = np.empty((columns, groups, group), np.int8), np.empty((columns, groups), np.float32)
        self.zero, self.error = np.empty((columns, groups), np.int8), 0.0

    def take(self, first: int, codes: Codes, scale: Float32Array, zero: Codes, error: float) -> None:
        place = slice(first, first + len(codes))
        self.codes[place], self.scale[place], self.zero[place] = codes, scale, zero
        self.error += error


@np.errstate(over="ignore", invalid="ignore")  # squares of enormous weights are compared as infinities
def _best(
    parts: Float32Array, shifted: bool, least: np.float32, unit: np.float32
) -> tuple[Codes, Float32Array, Codes, float]:
    """Codes, scales and zero points of some columns (columns, groups, group), and their squared error."""
    lo, hi = parts.min(axis=-1, initial=0), parts.max(axis=-1, initial=0)
    width = (hi - lo) / np.float32(_HIGHEST - _LOWEST) if shifted else np.maximum(hi, -lo) / np.float32(_HIGHEST)
    best: list[npt.NDArray[Any]] = []
    for shrink in _SHRINKS:
        scale = np.maximum(width * np.float32(shrink), least)
        scale = (scale / unit).astype(np.float16).astype(np.float32) * unit
        zero = np.rint(_LOWEST - lo / scale).clip(_LOWEST, _HIGHEST) if shifted else np.zeros_like(scale)
        lowest = _LOWEST if shifted else -_HIGHEST
        codes = (np.rint(parts / scale[..., None]) + zero[..., None]).clip(lowest, _HIGHEST)
        error = np.square((codes - zero[..., None]) * scale[..., None] - parts).sum(axis=-1)
        made: list[npt.NDArray[Any]] = [codes.astype(np.int8), scale, zero.astype(np.int8), error]
        if not best:
            best = made
            continue
        better = error < best[3]
        for kept, new in zip(best, made, strict=True):
            kept[better] = new[better]
    return best[0], best[1], best[2], float(best[3].sum(dtype=np.float64))
