"""Rounding by what samples show of a layer's inputs: GPTQ and AdaRound on rows, and on groups of 4-bit weights.

Both make the error of the layer's results small, ``e H e^T`` for each row e of weights less what their integers stand
for. Where the bias takes the mean of that error back, H has the moments about the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgekern.quantization.four_bits import GroupedWeights
from edgekern.quantization.methods.adaround import adaround
from edgekern.quantization.methods.gptq import factored, gptq
from edgekern.quantization.methods.grids import ColumnGrid, GivenGrid, GroupGrid
from edgekern.quantization.weights import INPUT_MEANS, SECOND_MOMENTS, FloatArray, Rows

FloatArray64 = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

_SHRINKS = tuple(1 - 0.025 * i for i in range(21))  # parts of the largest weight that a row's codes reach


@dataclass(frozen=True)
class ScaleSearch:
    """The scale of each row by which its nearest integers leave the smallest error of the results."""

    centered: bool

    def __call__(self, rows: Rows) -> Rows:
        if _moments_of(rows) is None:
            return rows
        best, least = rows.wanted_scale, np.full(len(rows.weights), np.inf)
        for shrink in _SHRINKS:
            tried = rows.with_scale(rows.wanted_scale * np.float32(shrink))
            errors = _errors(tried, self.centered)
            best, least = np.where(errors < least, tried.wanted_scale, best), np.minimum(errors, least)
        return rows.with_scale(best)


@dataclass
class GptqRows:
    """GPTQ, one group of inputs after another; what H factors into is kept while rows of one layer come."""

    centered: bool
    _layer: FloatArray | None = field(default=None, init=False)
    _roots: dict[int, FloatArray64] = field(default_factory=dict, init=False)

    def __call__(self, rows: Rows) -> Rows:
        moments = _moments_of(rows)
        if moments is None:
            return rows
        if moments is not self._layer:
            self._layer, self._roots = moments, {}
        codes = np.empty((len(rows.weights), moments.shape[-1]))
        for group, at in _by_group(rows):
            h = _moments(rows, group, self.centered and rows.takes_bias)
            if group not in self._roots:
                self._roots[group] = factored(h)
            grid = ColumnGrid(rows.scale[at], rows.highest)
            codes[at] = gptq(_flat(rows)[at].astype(np.float32), h, grid, root=self._roots[group])
        return rows.with_codes(codes.reshape(rows.weights.shape))


@dataclass(frozen=True)
class AdaRoundRows:
    """AdaRound, all groups of inputs with as many rows at once."""

    centered: bool

    def __call__(self, rows: Rows) -> Rows:
        if _moments_of(rows) is None:
            return rows
        ratio, step = _flat(rows) / rows.step[:, :, 0], rows.scale.reshape(-1, 1)
        codes = np.empty_like(ratio)
        alike: dict[int, list[tuple[int, npt.NDArray[np.intp]]]] = {}
        for group, at in _by_group(rows):
            alike.setdefault(len(at), []).append((group, at))
        for same in alike.values():
            at = np.array([at for _, at in same])
            h = np.array([_moments(rows, group, self.centered and rows.takes_bias) for group, _ in same])
            codes[at] = adaround(ratio[at], step[at], h, lowest=-rows.highest, highest=rows.highest)
        return rows.with_codes(codes.reshape(rows.weights.shape))


def gptq_groups(weights: Float32Array, group: int, moments: FloatArray) -> GroupedWeights:
    """Groups of 4-bit weights by GPTQ: each gets its scale when those before it are rounded."""
    grid = GroupGrid(weights, group, importance=np.diagonal(moments))
    return grid.grouped(gptq(weights, moments, grid))


def gptq_codes(layer: GroupedWeights, weights: Float32Array, moments: FloatArray) -> GroupedWeights:
    """The same scales and zero points, and codes by GPTQ."""
    codes = gptq(weights, moments, GivenGrid(layer))
    return GroupedWeights(codes, layer.scale, layer.zero, layer.group)


def adaround_groups(layer: GroupedWeights, weights: Float32Array, moments: FloatArray) -> GroupedWeights:
    """The same scales and zero points, and codes by AdaRound."""
    k = weights.shape[1]
    step = np.repeat(layer.scale, layer.group, axis=1)[:, :k]
    zero = 0.0 if layer.zero is None else np.repeat(layer.zero, layer.group, axis=1)[:, :k]
    lowest = -7 if layer.zero is None else -8
    codes = adaround(weights / step + zero, step, moments, lowest=lowest, highest=7)
    return GroupedWeights(codes.astype(np.int8), layer.scale, layer.zero, layer.group)


def _flat(rows: Rows) -> FloatArray64:
    return rows.weights.reshape(len(rows.weights), -1)


def _moments_of(rows: Rows) -> FloatArray | None:
    """Of a layer; None where there are none, or its taps are matrices of their own."""
    found = rows.statistics.get(SECOND_MOMENTS)
    return found if found is not None and found.shape[-1] == rows.weights[:1].size else None


def _moments(rows: Rows, group: int, centered: bool) -> FloatArray64:
    h: FloatArray64 = rows.statistics[SECOND_MOMENTS][group].astype(np.float64)
    if centered:
        mean = rows.statistics[INPUT_MEANS][group]
        h -= np.outer(mean, mean)
    return h


def _by_group(rows: Rows) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each group of inputs, and the rows that read it."""
    for group in np.unique(rows.group):
        yield int(group), np.flatnonzero(rows.group == group)


def _errors(rows: Rows, centered: bool) -> FloatArray64:
    """The mean square of what rounding does to each row's results."""
    errors = np.empty(len(rows.weights))
    off = _flat(rows) - rows.codes.reshape(len(rows.codes), -1) * rows.step[:, :, 0]
    for group, at in _by_group(rows):
        errors[at] = np.einsum("ij,ij->i", off[at] @ _moments(rows, group, centered and rows.takes_bias), off[at])
    return errors
