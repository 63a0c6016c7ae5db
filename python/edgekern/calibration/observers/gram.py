"""The Gram matrix X^T X of what a product multiplies: how its inputs go together, for choosing weights by it.

Float sums depend on their order; these do not. A sample is rounded to 20 bits below its largest magnitude, so that its
products and their sums are whole numbers that float64 holds; what it adds is rounded down to 2**-60, and the sums are
kept as whole multiples of 2**-8 and what is left of them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.base import reading_state

Matrix = npt.NDArray[np.float64]

LIMIT_BYTES = 1 << 26
_BYTES = 16  # an element: two float64
_BITS = 19  # of a value: squares have 38, and as many rows as below leave the sum within 53
_ROWS = 1 << 14
_HIGH, _LOW = 2.0**-8, 2.0**-60
_MOST = 2.0**44


class GramMatrix:
    """Sum of ``x x^T`` over all rows x of a tensor: of its last axis, or of axis 1 of images (four axes and more).

    Parameters
    ----------
    limit_bytes : what the sums may take, 16 bytes an element of the matrix. A tensor with more columns has no matrix.

    Notes
    -----
    NaN and infinite values count as 0. A tensor whose columns change in number, or whose sums pass 2**44, has none.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rows, self._refused = 0, False
        self._high: Matrix = np.zeros((0, 0))
        self._low: Matrix = np.zeros((0, 0))

    def __repr__(self) -> str:
        why = "none: too many columns for the limit, another number of them, or sums beyond 2**44"
        what = why if self._refused else f"{len(self._high)} columns, {self._rows} rows"
        return f"GramMatrix({what}; at most {self._limit} bytes)"

    @property
    def rows(self) -> int:
        """Rows that were summed over."""
        return self._rows

    def values(self) -> Matrix | None:
        """(columns, columns) float64, or None when there is none; the representation says why."""
        return self._high + self._low if self._rows else None

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Add the rows of an array of shape (samples, ..., columns), or of images (samples, channels, ...)."""
        if x.ndim < 2 or x.size == 0 or self._refused:
            return self
        columns = x.shape[1] if x.ndim > 3 else x.shape[-1]
        if not self._take(columns):
            return self
        for sample in x:
            rows = sample.reshape(columns, -1).T if x.ndim > 3 else sample.reshape(-1, columns)
            for start in range(0, len(rows), _ROWS):
                self._add_rows(rows[start : start + _ROWS])
        return self

    def merge(self, other: GramMatrix) -> Self:
        """Add what another one summed."""
        if other._refused:
            self._give_up()
        elif other._rows and self._take(len(other._high)):
            self._add(other._high, other._low, other._rows)
        return self

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        flat = {"high": self._high.reshape(-1).copy(), "low": self._low.reshape(-1).copy()}
        return {"rows": self._rows, "refused": int(self._refused), "limit_bytes": self._limit, **flat}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Keep what a saved state kept, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("GramMatrix"):
            rows, limit, refused = (operator.index(state[name]) for name in ("rows", "limit_bytes", "refused"))
            high, low = (np.array(state[name], np.float64) for name in ("high", "low"))
            side = round(high.size**0.5)
            if high.ndim != 1 or high.shape != low.shape or side * side != high.size or rows < 0 or limit < 0:
                raise ValueError(f"{high.shape} and {low.shape} sums of {rows} rows are no matrix")
            if (
                bool(side) != bool(rows)
                or refused not in (0, 1)
                or (rows and refused)
                or not np.isfinite([high, low]).all()
            ):
                raise ValueError(f"{rows} rows, {side} columns, refused={refused}")
            if (np.floor(high / _HIGH) * _HIGH != high).any() or not ((low >= 0) & (low < _HIGH)).all():
                raise ValueError("the sums are no whole multiples and what is left of them")
        self._rows, self._limit, self._refused = rows, limit, bool(refused)
        self._high, self._low = high.reshape(side, side), low.reshape(side, side)
        return self

    def _add_rows(self, rows: npt.NDArray[Any]) -> None:
        wide = rows.astype(np.float64)
        wide[~(np.abs(wide) <= np.finfo(np.float32).max)] = 0.0
        exponent = int(np.frexp(np.abs(wide).max())[1])
        whole = np.rint(np.ldexp(wide, _BITS - exponent))
        product = np.ldexp(whole.T @ whole, 2 * (exponent - _BITS))  # whole numbers below 2**53: exact in any order
        if not np.abs(product).max() < _MOST:
            self._give_up()
            return
        high = np.floor(product / _HIGH) * _HIGH
        self._add(high, np.floor((product - high) / _LOW) * _LOW, len(rows))

    def _add(self, high: Matrix, low: Matrix, rows: int) -> None:
        if self._refused:
            return
        self._low = self._low + low
        carried = np.floor(self._low / _HIGH) * _HIGH
        self._low -= carried
        self._high = self._high + high + carried
        self._rows += rows
        if not np.abs(self._high).max() < _MOST:
            self._give_up()

    def _take(self, columns: int) -> bool:
        """Whether there is a matrix for this number of columns; the first array decides it."""
        if columns**2 * _BYTES > self._limit or (self._rows and len(self._high) != columns):
            self._give_up()
        elif not self._rows and not self._refused:
            self._high, self._low = np.zeros((2, columns, columns))
        return not self._refused

    def _give_up(self) -> None:
        self._refused = True
        self._rows, self._high, self._low = 0, np.zeros((0, 0)), np.zeros((0, 0))
