"""The relative entropy of what a range keeps of a histogram: of a threshold on ``|x|``, of a window with two ends."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentValueError

Bins = int | Literal["auto"]

_MIN_AUTO_BINS = 2048  # TensorRT's number of bins
_MAX_AUTO_BINS = 65536  # more bins than keys would only draw the keys' edges: docs/calibration.md, "Choosing bins"
MAX_BINS = 1 << 20


class Counted(Protocol):
    """What is read of a :class:`~edgekern.calibration.Histogram`."""

    @property
    def count(self) -> int: ...
    @property
    def num_zero(self) -> int: ...
    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...
    @property
    def absmax(self) -> float: ...
    def quantile(self, q: float, *, magnitude: bool = False) -> float: ...
    def histogram(self, bins: int) -> tuple[npt.NDArray[np.uint64], Any]: ...
    def linear(self, lo: float, hi: float, bins: int) -> npt.NDArray[np.uint64]: ...


def least_threshold(function: str, h: Counted, num_bins: Bins, num_levels: int, skip_zeros: bool) -> float:
    """T of least relative entropy, 0 where every value is 0."""
    absmax = h.absmax
    if absmax == 0:
        return 0.0
    bins = _bins(function, num_bins, num_levels, _one_sided_bins(h, num_levels, skip_zeros))
    kept, _ = _core.entropy_search(_magnitudes(h, bins, skip_zeros), num_levels)
    return min(absmax, float((kept + 0.5) * (absmax / bins)))


def least_window(function: str, h: Counted, num_bins: Bins, num_levels: int, skip_zeros: bool) -> tuple[float, float]:
    """(lo, hi) around 0 of least relative entropy, each end searched by itself."""
    lo, hi = min(h.min, 0.0), max(h.max, 0.0)
    if lo == hi:
        return lo, hi
    bins = _bins(function, num_bins, num_levels, _two_sided_bins(h, num_levels))
    first, last, _ = _core.entropy_window(_signed(h, bins, skip_zeros), _bin_of_zero(lo, hi, bins), num_levels)
    width = (hi - lo) / bins
    # Half a bin further than what is kept, as a threshold is.
    return (lo if first == 0 else max(lo, min(0.0, lo + (first - 0.5) * width))), min(
        hi, max(0.0, lo + (last + 0.5) * width)
    )


def of_threshold(function: str, h: Counted, t: float, num_bins: Bins, num_levels: int, skip_zeros: bool) -> float:
    """The divergence that :func:`least_threshold` compares, at one threshold."""
    absmax = h.absmax
    if absmax == 0:
        return 0.0
    fine = math.ceil(min(num_levels * absmax / t, MAX_BINS)) if t > 0 else MAX_BINS
    bins = _bins(function, num_bins, num_levels, max(fine, _one_sided_bins(h, num_levels, skip_zeros)))
    kept = bins if t >= absmax else round(t * bins / absmax - 0.5)
    if kept < num_levels:
        return math.inf
    return _core.entropy_of(_magnitudes(h, bins, skip_zeros), 0, min(kept, bins), num_levels)


def of_window(
    function: str, h: Counted, limits: tuple[float, float], num_bins: Bins, num_levels: int, skip_zeros: bool
) -> float:
    """The divergence that :func:`least_window` compares, of one window."""
    lo, hi = min(h.min, 0.0), max(h.max, 0.0)
    if lo == hi:
        return 0.0
    span = limits[1] - limits[0]
    fine = math.ceil(min(2 * num_levels * (hi - lo) / span, MAX_BINS)) if span > 0 else MAX_BINS
    bins = _bins(function, num_bins, num_levels, max(fine, _two_sided_bins(h, num_levels)))
    width = (hi - lo) / bins
    first = 0 if limits[0] <= lo else max(0, round((limits[0] - lo) / width + 0.5))
    last = bins if limits[1] >= hi else min(bins, round((limits[1] - lo) / width - 0.5))
    if last - first < num_levels:
        return math.inf
    return _core.entropy_of(_signed(h, bins, skip_zeros), first, last, num_levels)


def _bins(function: str, num_bins: Bins, num_levels: int, auto: int) -> int:
    if isinstance(num_bins, str) and num_bins == "auto":  # an array is equal in parts
        return auto
    whole = isinstance(num_bins, (int, np.integer)) and not isinstance(num_bins, bool)
    if not whole or not num_levels <= num_bins <= MAX_BINS:
        raise ArgumentValueError(
            f'{function}: num_bins must be "auto" or an integer in [{num_levels}, {MAX_BINS}] '
            f"for {num_levels} levels, got {num_bins!r}"
        )
    return int(num_bins)


def _one_sided_bins(h: Counted, num_levels: int, skip_zeros: bool) -> int:
    skipped = h.num_zero if skip_zeros else 0
    p999 = h.quantile((skipped + 0.999 * (h.count - skipped)) / h.count, magnitude=True)
    return _auto_bins(num_levels, h.absmax, p999)


def _two_sided_bins(h: Counted, num_levels: int) -> int:
    lo, hi = min(h.min, 0.0), max(h.max, 0.0)
    return _auto_bins(num_levels, hi - lo, max(h.quantile(0.9995), 0.0) - min(h.quantile(0.0005), 0.0))


def _auto_bins(num_levels: int, whole: float, bulk: float) -> int:
    groups = math.ceil(min(2 * whole / bulk, _MAX_AUTO_BINS)) if bulk > 0 else _MAX_AUTO_BINS
    return max(num_levels, min(max(num_levels * groups, _MIN_AUTO_BINS), _MAX_AUTO_BINS))


def _magnitudes(h: Counted, bins: int, skip_zeros: bool) -> npt.NDArray[np.uint64]:
    counts, _ = h.histogram(bins)
    counts[0] -= np.uint64(h.num_zero if skip_zeros else 0)
    return counts


def _signed(h: Counted, bins: int, skip_zeros: bool) -> npt.NDArray[np.uint64]:
    lo, hi = min(h.min, 0.0), max(h.max, 0.0)
    counts = h.linear(lo, hi, bins)
    counts[_bin_of_zero(lo, hi, bins)] -= np.uint64(h.num_zero if skip_zeros else 0)
    return counts


def _bin_of_zero(lo: float, hi: float, bins: int) -> int:
    """Where csrc/calibration/histogram.cpp counts it."""
    return min(bins - 1, int((0.0 - lo) / (hi - lo) * bins))
