"""Histogram: one pass over the data, then every range that one may want of it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import flag, number
from edgekern._arrays import lent, plain
from edgekern.calibration.observers import entropy
from edgekern.calibration.observers.base import reading_state, whole_numbers
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

Method = Literal["max", "percentile", "mse", "p-norm", "entropy", "entropy-two-sided"]
AnyMethod = Literal["max", "percentile", "mse", "p-norm", "entropy", "entropy-two-sided", "auto"]  # of a Calibrator

_NUM_KEYS = 65536
_MOST_LEVELS = 65536
# What "mse" and "p-norm" are where no exponent is given.
EXPONENTS = {"mse": 2.0, "p-norm": 2.4}


class Histogram:
    """Counts of the values of one tensor, keyed on the top 16 bits of their float32 form.

    A histogram takes any number of arrays in any order, is merged by addition, and gives the same bits for every split
    of the same data. Values are known to 1 part in 128 or better at any magnitude; minimum and maximum are exact. NaN
    and infinities are counted and left out. Several threads may update one histogram.

    Examples
    --------
    >>> h = Histogram().update(np.linspace(-1, 1, 1001, dtype=np.float32))
    >>> h.count, h.min, h.max
    (1001, -1.0, 1.0)
    """

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys = _core.KeyHistogram()

    def update(self, x: npt.ArrayLike) -> Self:
        """Count every value of an array.

        Parameters
        ----------
        x : array of float32, float16, bfloat16 or float64, any shape and strides
            Counted as float32; what is finite in float64 and too large for float32 counts as infinite. Strided ones are
            copied, with an EdgekernWarning.

        Raises
        ------
        ArgumentTypeError
            When the dtype is not a floating-point one.
        """
        self._keys.update(_float32("Histogram.update", x))
        return self

    def merge(self, other: Histogram) -> Self:
        """Add another histogram's counts to this one."""
        if not isinstance(other, Histogram):
            raise ArgumentTypeError(f"Histogram.merge: other must be a Histogram, got {type(other).__name__}")
        self._keys.merge(other._keys)
        return self

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram().merge(self).merge(other) if isinstance(other, Histogram) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self._keys.equals(other._keys) if isinstance(other, Histogram) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        odd = f", num_nan={self.num_nan}" * bool(self.num_nan) + f", num_inf={self.num_inf}" * bool(self.num_inf)
        return f"Histogram(count={self.count}, min={self.min:g}, max={self.max:g}, num_zero={self.num_zero}{odd})"

    @property
    def count(self) -> int:
        """Number of finite values."""
        return self._keys.count

    @property
    def num_zero(self) -> int:
        """Number of exact zeros, of either sign."""
        return self._keys.num_zero

    @property
    def num_nan(self) -> int:
        """Number of NaN."""
        return self._keys.num_nan

    @property
    def num_inf(self) -> int:
        """Number of infinities, of either sign."""
        return self._keys.num_inf

    @property
    def min(self) -> float:
        """Smallest finite value, exact; NaN when there is none."""
        return self._keys.min if self.count else math.nan

    @property
    def max(self) -> float:
        """Largest finite value, exact; NaN when there is none."""
        return self._keys.max if self.count else math.nan

    @property
    def absmax(self) -> float:
        """Largest finite ``|x|``, exact; NaN when there is none."""
        return max(-self.min, self.max) + 0.0

    def quantile(self, q: float, *, magnitude: bool = False) -> float:
        """Value below which the fraction ``q`` in [0, 1] of the finite values lies; with ``magnitude``, of ``|x|``.

        Linear within a key, so within 1 part in 128 of a quantile of the data; ``q=0`` and ``q=1`` are exact.
        """
        self._require_values("quantile")
        if not 0 <= q <= 1:
            raise ArgumentValueError(f"Histogram.quantile: q must lie in [0, 1], got {q!r}")
        return self._keys.quantile(q, magnitude)

    def fraction_outside(self, lo: float, hi: float) -> float:
        """Fraction of the finite values that a range [lo, hi] clips."""
        return self._keys.fraction_outside(lo, hi)

    def histogram(
        self, bins: int = 2048, *, signed: bool = False
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """Equal-width histogram, derived from the keys.

        Parameters
        ----------
        bins : int in [1, 2**20]
        signed : bool. False: ``|x|`` over [0, absmax], or [0, 1] when absmax is 0. True: x over [min, max].

        Returns
        -------
        (bins,) uint64 counts and (bins + 1,) float64 edges
            A key that covers several bins is spread evenly over them in whole numbers; the counts sum to ``count``.
        """
        self._require_values("histogram")
        most = entropy.MAX_BINS
        if not _is_int(bins) or not 1 <= bins <= most:
            raise ArgumentValueError(f"Histogram.histogram: bins must be an integer in [1, {most}], got {bins!r}")
        lo, hi = (self.min, self.max) if signed else (0.0, self.absmax or 1.0)
        return self._keys.linear(lo, hi, bins, not signed), np.linspace(lo, hi, bins + 1)

    def linear(self, lo: float, hi: float, bins: int) -> npt.NDArray[np.uint64]:
        """Counts of ``bins`` equal bins over [lo, hi], which must hold every value."""
        return self._keys.linear(lo, hi, bins, False)

    def threshold(
        self,
        method: Method,
        *,
        num_bins: int | Literal["auto"] = "auto",
        percentile: float = 99.99,
        exponent: float | None = None,
        num_levels: int | None = None,
        skip_zeros: bool = False,
    ) -> float:
        """Clipping threshold T: quantize [-T, T], or [0, T] when no value is negative.

        Parameters
        ----------
        method : "max", "percentile", "mse", "p-norm", "entropy" or "entropy-two-sided"
            The largest ``|x|``; a percentile of ``|x|``; the least mean ``|error|**exponent`` of quantization, twice;
            the least relative entropy as TensorRT defines it (S7310, GTC 2017) with at most one value in 20 clipped,
            the largest of those within 1e-9 of it. Two-sided entropy is the same on ``|x|``.
        num_bins : int or "auto". Bins over [0, absmax] of the entropy search; "auto" takes
            ``num_levels * ceil(2 * absmax / P99.9)`` within [2048, 65536], so that a threshold at P99.9 is in reach.
        percentile : float in (0, 100]
        exponent : float in [1, 8], optional. None is 2 for "mse", 2.4 for "p-norm"; above 2, clipping weighs more.
        num_levels : int, optional. Levels that [0, T] is quantized to. None is 256, or 128 with negative values.
        skip_zeros : bool. Leave exact zeros out of the entropy search: they are exact at any scale, and the spike that
            a ReLU makes of them pulls the definition's threshold far down. :meth:`range` does so.

        Returns
        -------
        float
            0 when every value is 0.

        Raises
        ------
        CalibrationError
            When no finite value was counted.
        ArgumentValueError
            When an option is out of its range.
        """
        self._check("threshold", method, percentile, exponent)
        if num_levels is None:
            num_levels = 128 if self.min < 0 else 256
        elif not _is_int(num_levels) or not 2 <= num_levels <= _MOST_LEVELS:
            raise ArgumentValueError(
                f"Histogram.threshold: num_levels must be an integer in [2, {_MOST_LEVELS}], got {num_levels!r}"
            )
        if method == "percentile":
            return self._keys.quantile(percentile / 100, True) or self.absmax
        if method in EXPONENTS:
            return self._keys.error_threshold(num_levels, _exponent(method, exponent))
        if method in ("entropy", "entropy-two-sided"):
            skip = flag("Histogram.threshold", "skip_zeros", skip_zeros)
            return entropy.least_threshold("Histogram.threshold", self, num_bins, num_levels, skip)
        return self.absmax

    def range(
        self,
        method: Method,
        *,
        symmetric: bool = False,
        num_bits: int = 8,
        num_bins: int | Literal["auto"] = "auto",
        percentile: float = 99.99,
        exponent: float | None = None,
        skip_zeros: bool = True,
    ) -> tuple[float, float]:
        """Range (lo, hi) with lo <= 0 <= hi to quantize to 2**num_bits levels.

        Parameters
        ----------
        method, num_bins, percentile, exponent, skip_zeros
            As in :meth:`threshold`. Two-sided, "percentile" cuts half of what it cuts at each end, or all of it at the
            end that has values; "mse" and "p-norm" search both ends; "entropy" cuts both ends at one threshold on
            ``|x|``, "entropy-two-sided" searches both.
        symmetric : bool. True gives (-T, T), for a zero point of 0 in a signed type.
        num_bits : int in [2, 8]

        Returns
        -------
        (lo, hi) : floats
            (0, 0) when every value is 0. Never beyond the smallest and largest value seen, 0 included.
        """
        self._check("range", method, percentile, exponent)
        if not _is_int(num_bits) or not 2 <= num_bits <= 8:
            raise ArgumentValueError(f"Histogram.range: num_bits must be an integer in [2, 8], got {num_bits!r}")
        if flag("Histogram.range", "symmetric", symmetric):
            t = self.threshold(
                method,
                num_bins=num_bins,
                percentile=percentile,
                exponent=exponent,
                num_levels=2 ** (num_bits - 1),
                skip_zeros=skip_zeros,
            )
            return -t + 0.0, t
        lo, hi = min(self.min, 0.0), max(self.max, 0.0)
        if method == "percentile":
            cut = (1 - percentile / 100) / (2 if lo < 0 < hi else 1)
            a = min(0.0, self._keys.quantile(cut, False)) if lo < 0 else 0.0
            b = max(0.0, self._keys.quantile(1 - cut, False)) if hi > 0 else 0.0
            return (a, b) if a < b else (lo, hi)
        if method in EXPONENTS:
            return self._keys.error_range(2**num_bits, _exponent(method, exponent))
        skip = flag("Histogram.range", "skip_zeros", skip_zeros)
        if method == "entropy-two-sided":
            return entropy.least_window("Histogram.range", self, num_bins, 2**num_bits, skip)
        if method == "entropy" and lo < hi:
            # The wider side gets its share of the levels: half of them when both are equal, all when there is one.
            num_levels = round(2**num_bits * max(-lo, hi) / (hi - lo))
            t = entropy.least_threshold("Histogram.range", self, num_bins, num_levels, skip)
            return max(lo, -t), min(hi, t)
        return lo, hi

    def kl(
        self,
        limits: float | tuple[float, float],
        *,
        num_levels: int | None = None,
        num_bins: int | Literal["auto"] = "auto",
        skip_zeros: bool = True,
    ) -> float:
        """Relative entropy KL(P || Q) of what a threshold or a range keeps, in nats, as the searches compare it.

        Parameters
        ----------
        limits : float, or (lo, hi) with lo <= 0 <= hi
            A threshold on ``|x|``, as "entropy" searches it, or a range, as "entropy-two-sided" does.
        num_levels : int, optional. Of [0, T]: 256, or 128 with negative values. Of [lo, hi]: 256.
        num_bins, skip_zeros
            As in :meth:`range`; "auto" takes as many bins more as the levels need, up to 2**20.

        Returns
        -------
        float
            Infinite where no bins express the limits, or nothing that is kept lies where clipped values land.
        """
        self._require_values("kl")
        skip = flag("Histogram.kl", "skip_zeros", skip_zeros)
        if isinstance(limits, tuple):
            lo, hi = limits
            _levels("kl", lo, hi, 8)
            return entropy.of_window("Histogram.kl", self, (lo, hi), num_bins, num_levels or 256, skip)
        t = number("Histogram.kl", "limits", limits)
        if not 0 <= t < math.inf:
            raise ArgumentValueError(f"Histogram.kl: limits must be a finite threshold of at least 0, got {limits!r}")
        levels = num_levels or (128 if self.min < 0 else 256)
        return entropy.of_threshold("Histogram.kl", self, t, num_bins, levels, skip)

    def quantization_error(self, lo: float, hi: float, *, num_bits: int = 8, exponent: float = 2.0) -> float:
        """Mean ``|x - dequantize(quantize(x))|**exponent`` over a range (lo, hi) with lo <= 0 <= hi, 0 being a level.

        Integrated over each key's interval with its values taken as even over it; a range of (0, 0) has scale 1.0.
        """
        self._check("quantization_error", "mse", 100, exponent)
        return self._keys.quantization_error(*_levels("quantization_error", lo, hi, num_bits), exponent)

    def sqnr_db(self, lo: float, hi: float, *, num_bits: int = 8) -> float:
        """Signal over the noise of clipping and rounding to a range (lo, hi), in dB, as :meth:`quantization_error` sees
        it: infinite where there is no noise, 0 where every value becomes 0."""
        signal, noise = self._powers("sqnr_db", lo, hi, num_bits)
        return 10 * math.log10(signal / noise) if noise else math.inf

    def powers(self, lo: float, hi: float, *, num_bits: int = 8) -> tuple[float, float]:
        """Mean square of the values, and of the error of clipping and rounding them to a range (lo, hi)."""
        return self._powers("powers", lo, hi, num_bits)

    def _powers(self, function: str, lo: float, hi: float, num_bits: int) -> tuple[float, float]:
        self._require_values(function)
        signal, noise = self._keys.powers(*_levels(function, lo, hi, num_bits))
        return signal, noise

    def state_dict(self) -> dict[str, Any]:
        """Everything, as NumPy arrays and numbers; :meth:`load_state_dict` is the way back."""
        keys, counts, num_zero, num_nan, num_inf, lowest, highest = self._keys.state()
        return {
            "keys": keys.astype(np.uint16),
            "counts": counts,
            "num_zero": num_zero,
            "num_nan": num_nan,
            "num_inf": num_inf,
            "min": lowest,
            "max": highest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Count what a saved state had counted, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("Histogram"):
            keys, counts = whole_numbers(state["keys"], np.uint16), whole_numbers(state["counts"], np.uint64)
            if keys.shape != counts.shape or np.unique(keys).size != keys.size:
                raise ValueError(f"{keys.shape} keys do not fit {counts.shape} counts")
            dense = np.zeros(_NUM_KEYS, np.uint64)
            dense[keys] = counts
            num_zero, num_nan, num_inf = (operator.index(state[name]) for name in ("num_zero", "num_nan", "num_inf"))
            self._keys.restore(dense, num_zero, num_nan, num_inf, float(state["min"]), float(state["max"]))
        return self

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """A histogram of a saved state; see :meth:`load_state_dict`."""
        return cls().load_state_dict(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return Histogram.from_state_dict, (self.state_dict(),)

    def _require_values(self, function: str) -> None:
        if self.count == 0:
            raise CalibrationError(
                f"Histogram.{function}: no finite value was counted ({self.num_nan} NaN, {self.num_inf} infinite); "
                "call update with data first"
            )

    def _check(self, function: str, method: str, percentile: float, exponent: float | None) -> None:
        check_options(f"Histogram.{function}", method, percentile, exponent)
        self._require_values(function)


def update_all(pairs: Iterable[tuple[Histogram, npt.ArrayLike]]) -> None:
    """Update each histogram with its array, on the package's number of threads."""
    histograms, arrays = [], []
    for histogram, x in pairs:
        histograms.append(histogram._keys)
        arrays.append(_float32("update_all", x))
    _core.update_histograms(histograms, arrays)


def _float32(function: str, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(lent(function, "x", x))
    except ValueError as error:  # rows of different lengths
        raise ArgumentTypeError(f"{function}: x must be an array of numbers") from error
    if array.dtype != np.float32:
        if array.dtype.name not in ("float16", "float64", "bfloat16"):
            raise ArgumentTypeError(
                f"{function}: x must be float32, float16, bfloat16 or float64, got {array.dtype}; "
                "ranges are taken of float activations"
            )
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return plain(function, "x", array if array.flags.c_contiguous else _as_it_lies(array))


def _as_it_lies(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same values in the order of memory: counting knows no other."""
    forward = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)]
    return forward.transpose(sorted(range(array.ndim), key=lambda axis: -forward.strides[axis]))


def check_options(
    function: str,
    method: str,
    percentile: float,
    exponent: float | None,
    methods: tuple[str, ...] = get_args(Method),
) -> None:
    """Refuse a method or an option that no histogram could use."""
    if not isinstance(method, str) or method not in methods:
        known = ", ".join(repr(m) for m in methods)
        raise ArgumentValueError(f"{function}: method must be one of {known}, got {method!r}")
    if not 0 < number(function, "percentile", percentile) <= 100:
        raise ArgumentValueError(f"{function}: percentile must lie in (0, 100], got {percentile!r}")
    if exponent is not None and not 1 <= number(function, "exponent", exponent) <= 8:
        raise ArgumentValueError(f"{function}: exponent must lie in [1, 8], got {exponent!r}")


def _exponent(method: str, given: float | None) -> float:
    return EXPONENTS[method] if given is None else given


def _levels(function: str, lo: float, hi: float, num_bits: int) -> tuple[float, float, float]:
    """Scale, first and last level of a range, in steps from 0."""
    if not (lo <= 0 <= hi and math.isfinite(hi - lo)):
        raise ArgumentValueError(
            f"Histogram.{function}: lo and hi must be finite with lo <= 0 <= hi, got lo={lo!r}, hi={hi!r}"
        )
    last = 2**num_bits - 1
    scale = (hi - lo) / last or 1.0
    zero_point = round(-lo / scale)
    return scale, -zero_point, last - zero_point


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
