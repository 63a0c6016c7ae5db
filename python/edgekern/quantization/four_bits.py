"""Weights of 4 bits with a scale for each group of them along the depth of a product."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgekern.quantization.encodings import MIN_SCALE, Encoding
from edgekern.quantization.weights import BLOCK

Float32Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

BITS = 4
_LOWEST, _HIGHEST = -8, 7
# Kernels hold scales as float16 in a unit of a product's own: groups of next to nothing get scales that fit beside it.
_SMALLEST = 2.0**-20
_LARGEST_STEP = float(np.finfo(np.float16).max)
_LEAST, _MOST = 2.0**-5, _LARGEST_STEP  # what a scale may be in that unit, where others choose it

# Groups (columns, groups, group) in the unit of scales -> scales and zero points (columns, groups), both float32.
Fit = Callable[[Float32Array], tuple[Float32Array, Float32Array]]


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

    Codes are symmetric, within [-7, 7], or have a zero point a group: whichever leaves the smaller squared error.
    """
    columns, k = weights.shape
    groups = -(-k // group)
    ways = [_Way(columns, groups, group, GroupScales.of(weights, shifted)) for shifted in (False, True)]
    for first, parts in _pieces(weights, group):
        for way in ways:
            way.round(first, parts)
    best = min(ways, key=lambda way: way.error)
    return GroupedWeights(
        best.codes.reshape(columns, -1)[:, :k], best.scale, best.zero if best.scales.shifted else None, group
    )


def fit_groups(weights: Float32Array, group: int, fit: Fit) -> GroupedWeights:
    """Round a matrix (columns, k) of finite weights to 4 bits, by the scales and zero points that ``fit`` chooses.

    ``fit`` gets some columns at a time, with zeros behind the last weight where groups are not whole. It chooses among
    scales that :func:`held` gives, and its codes are those of :func:`rounded`.
    """
    columns, k = weights.shape
    groups = -(-k // group)
    unit = GroupScales.of(weights, False).unit
    codes, scale = np.empty((columns, groups, group), np.int8), np.empty((columns, groups), np.float32)
    zero = np.zeros((columns, groups), np.int8)
    for first, parts in _pieces(weights, group):
        place = slice(first, first + len(parts))
        parts /= unit
        found, shift = fit(parts)
        scale[place], zero[place] = held(found), shift
        codes[place] = rounded(parts, scale[place], shift)
    return GroupedWeights(codes.reshape(columns, -1)[:, :k], scale * unit, zero if zero.any() else None, group)


def held(scale: Float32Array) -> Float32Array:
    """Scales in their unit, as kernels hold them."""
    kept: Float32Array = np.clip(scale, _LEAST, _MOST).astype(np.float16).astype(np.float32)
    return kept


def rounded(parts: Float32Array, scale: Float32Array, zero: Float32Array) -> Float32Array:
    """The codes of groups, as whole float32 numbers."""
    codes = np.rint(parts / scale[..., None])
    codes += zero[..., None]
    clipped: Float32Array = codes.clip(_LOWEST, _HIGHEST, out=codes)
    return clipped


def starts(parts: Float32Array) -> tuple[tuple[Float32Array, Float32Array], ...]:
    """Scales and zero points that leave out no weight: symmetric ones, and those of what a group spans."""
    lo, hi = parts.min(axis=-1, initial=0), parts.max(axis=-1, initial=0)
    scale = held((hi - lo) / (_HIGHEST - _LOWEST))
    return (
        (held(np.maximum(hi, -lo) / _HIGHEST), np.zeros_like(scale)),
        (scale, whole_zero(_LOWEST - lo / scale)),
    )


def cut_starts(parts: Float32Array) -> Iterator[tuple[Float32Array, Float32Array]]:
    """The same with ranges that are cut by fractions, down to a half."""
    for scale, zero in starts(parts):
        for step in range(11):
            yield held(scale * np.float32(1 - step / 20)), zero


def whole_zero(zero: Float32Array) -> Float32Array:
    """The nearest zero points that codes can have."""
    whole: Float32Array = np.rint(zero).clip(_LOWEST, _HIGHEST)
    return whole


def in_groups(values: npt.NDArray[np.floating], group: int) -> Float32Array:
    """A number for each of k weights as (groups, group) float32, 0 behind the last."""
    groups = -(-len(values) // group)
    made = np.zeros(groups * group, np.float32)
    made[: len(values)] = values
    return made.reshape(groups, group)


def restored(layer: GroupedWeights) -> Float32Array:
    """The weights (columns, k) that codes stand for."""
    k = layer.codes.shape[1]
    made = layer.codes.astype(np.float32)
    if layer.zero is not None:
        made -= np.repeat(layer.zero, layer.group, axis=1)[:, :k]
    made *= np.repeat(layer.scale, layer.group, axis=1)[:, :k]
    return made


def _pieces(weights: Float32Array, group: int) -> Iterator[tuple[int, Float32Array]]:
    """Some columns at a time, as (columns, groups, group) with zeros behind the last weight, and the first of them."""
    columns, k = weights.shape
    groups = -(-k // group)
    step = max(1, BLOCK // max(1, groups * group))
    for first in range(0, columns, step):
        rows = weights[first : first + step]
        parts = np.zeros((len(rows), groups * group), np.float32)
        parts[:, :k] = rows
        yield first, parts.reshape(len(rows), groups, group)


@dataclass(frozen=True)
class GroupScales:
    """How the groups of one matrix get their scales: float16 in one unit, none below the least.

    Attributes
    ----------
    shifted : bool. Whether groups have zero points, and all 16 codes.
    least, unit : float32
    """

    shifted: bool
    least: np.float32
    unit: np.float32

    @classmethod
    def of(cls, weights: Float32Array, shifted: bool) -> GroupScales:
        """Of the groups of a matrix."""
        largest = float(np.abs(weights).max(initial=0)) / _HIGHEST
        least = max(largest * _SMALLEST, MIN_SCALE * 2.0**14)
        unit = 2.0 ** (int(np.frexp(max(largest, least))[1]) - 15)
        return cls(shifted, np.float32(least), np.float32(unit))

    def between(self, lo: Float32Array, hi: Float32Array) -> tuple[Float32Array, Float32Array]:
        """The scales and zero points of groups whose weights lie between ``lo <= 0`` and ``hi >= 0``."""
        # Halves first: the width of a group may pass what float32 holds.
        width = (
            (hi / 2 - lo / 2) / np.float32((_HIGHEST - _LOWEST) / 2) if self.shifted else np.maximum(hi, -lo) / _HIGHEST
        )
        steps = np.minimum(np.maximum(width.astype(np.float32), self.least) / self.unit, _LARGEST_STEP)
        scale = steps.astype(np.float16).astype(np.float32) * self.unit
        zero = np.rint(_LOWEST - lo / scale).clip(_LOWEST, _HIGHEST) if self.shifted else np.zeros_like(scale)
        return scale, zero

    def codes(self, weights: Float32Array, scale: Float32Array, zero: Float32Array) -> Float32Array:
        """The nearest codes, as float32."""
        steps: Float32Array = np.rint(weights / scale) + zero
        return np.clip(steps, _LOWEST if self.shifted else -_HIGHEST, _HIGHEST)


class _Way:
    """One way to round all groups, some columns at a time, and the squared error that it leaves."""

    def __init__(self, columns: int, groups: int, group: int, scales: GroupScales) -> None:
        self.codes, self.scale = np.empty((columns, groups, group), np.int8), np.empty((columns, groups), np.float32)
        self.zero = np.zeros((columns, groups), np.int8)
        self.scales, self.error = scales, 0.0

    @np.errstate(over="ignore")  # squares of enormous weights are compared as infinities
    def round(self, first: int, parts: Float32Array) -> None:
        """The columns from ``first`` on, (some, groups, group)."""
        place = slice(first, first + len(parts))
        scale, zero = self.scales.between(parts.min(axis=-1, initial=0), parts.max(axis=-1, initial=0))
        codes = self.scales.codes(parts, scale[..., None], zero[..., None])
        error = np.square((codes - zero[..., None]) * scale[..., None] - parts)
        self.codes[place], self.scale[place], self.zero[place] = codes, scale, zero
        self.error += float(error.sum(dtype=np.float64))
