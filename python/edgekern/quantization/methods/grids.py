"""Grids: the values that weights of a format may have, as :mod:`edgekern.quantization.methods.gptq` asks for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekern.quantization.four_bits import GroupedWeights, GroupScales, quantize_groups

Float32Array = npt.NDArray[np.float32]

SHRINKS = tuple(1 - 0.04 * i for i in range(11))  # parts of the largest weight that a group's codes reach


class ColumnGrid:
    """One scale a column, codes from ``-highest`` to ``highest``.

    Parameters
    ----------
    scale : (columns,) float32
    highest : int. 7 or 127.
    """

    group = 0

    def __init__(self, scale: Float32Array, highest: int) -> None:
        self._scale, self._highest = scale.astype(np.float32), highest

    def fit(self, first: int, weights: Float32Array) -> None:
        """Nothing is left to choose."""

    def round(self, at: int, weights: Float32Array) -> tuple[Float32Array, Float32Array]:
        codes = np.rint(weights / self._scale).clip(-self._highest, self._highest)
        return codes, codes * self._scale


class GroupGrid:
    """4 bits with a scale, and perhaps a zero point, for each group, as :func:`quantize_groups` would have them.

    Parameters
    ----------
    weights : (columns, k) float32. Finite.
    group : int
    importance : (k,) float, optional. Of an error of each input, as the diagonal of their second moments. With it a
        group's codes may reach less than its largest weight, where that makes the error, so weighed, smaller.
    shifted : bool, optional. Whether groups have zero points; None: where that leaves the smaller squared error.
    """

    def __init__(
        self,
        weights: Float32Array,
        group: int,
        *,
        importance: npt.NDArray[np.floating] | None = None,
        shifted: bool | None = None,
    ) -> None:
        columns, k = weights.shape
        if shifted is None:
            shifted = quantize_groups(weights, group).zero is not None
        self.group = group
        self._scales = GroupScales.of(weights, shifted)
        self._scale = np.ones((-(-k // group), columns), np.float32)
        self._zero = np.zeros((-(-k // group), columns), np.float32)
        self._importance = None if importance is None else importance.astype(np.float32)
        self._shrinks: Sequence[float] = (1.0,) if importance is None else SHRINKS

    @np.errstate(over="ignore")  # squares of enormous weights are compared as infinities
    def fit(self, first: int, weights: Float32Array) -> None:
        at, least = first // self.group, np.full(weights.shape[1], np.inf, np.float32)
        lo, hi = weights.min(axis=0, initial=0), weights.max(axis=0, initial=0)
        for shrink in self._shrinks:
            scale, zero = self._scales.between(lo * np.float32(shrink), hi * np.float32(shrink))
            error = np.square((self._scales.codes(weights, scale, zero) - zero) * scale - weights)
            if self._importance is not None:
                error *= self._importance[first : first + len(weights), None]
            found = error.sum(axis=0)
            better = (found < least) | (shrink == 1.0)
            least[better], self._scale[at, better], self._zero[at, better] = found[better], scale[better], zero[better]

    def round(self, at: int, weights: Float32Array) -> tuple[Float32Array, Float32Array]:
        scale, zero = self._scale[at // self.group], self._zero[at // self.group]
        codes = self._scales.codes(weights, scale, zero)
        return codes, (codes - zero) * scale

    def grouped(self, codes: npt.NDArray[np.int8]) -> GroupedWeights:
        """The codes (columns, k) with the scales and zero points that they stand for."""
        zero = self._zero.T.astype(np.int8) if self._scales.shifted else None
        return GroupedWeights(codes, np.ascontiguousarray(self._scale.T), zero, self.group)
