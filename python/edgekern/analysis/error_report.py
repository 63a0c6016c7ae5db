"""What ``compare`` has found: a row a layer, and what to do about it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekern._reports import Chart, Report, table
from edgekern.analysis.figures import MOST_CLIPPED, SENSITIVE_DB, WATCH_DB, Sums, mark

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ErrorRow:
    """How far one layer is from float.

    Attributes
    ----------
    name : name of the ONNX node
    tensor : the float tensor that was compared
    op : the ONNX operators that the step does
    path : the code that ran: "tile", "thin", "gemv", "lookup", ...
    sqnr_db : signal to quantization noise in dB, of all that happened up to here; infinite where nothing differs
    cosine : cosine of the angle between float and integer result
    max_error : largest absolute difference
    mse : mean square difference
    own_db, own_cosine, own_max_error : the same of the error that the layer itself adds: its step on the exact inputs
    clipped : share of the float values that lie beyond the range of the codes, by more than half a step
    recommendation : what its own figures ask for
    """

    name: str
    tensor: str
    op: str
    path: str
    sqnr_db: float
    cosine: float
    max_error: float
    mse: float = 0.0
    own_db: float = math.inf
    own_cosine: float = 1.0
    own_max_error: float = 0.0
    clipped: float = 0.0
    recommendation: str = "fine"

    @property
    def mark(self) -> str:
        """By the error of its own: "sensitive" below 25 dB; "watch" below 30, with a cosine below 0.995, and where a
        thousandth and more is clipped."""
        return mark(self.own_db, cosine=self.own_cosine, clipped=self.clipped)


@dataclass(frozen=True, repr=False)
class ErrorReport(Report):
    """Rows of :func:`compare`, worst SQNR first; ``str()`` is the table."""

    rows: tuple[ErrorRow, ...]
    feeds: int

    _derived: ClassVar[tuple[str, ...]] = ("mark",)

    def worst(self, count: int = 10) -> tuple[ErrorRow, ...]:
        return self.rows[:count]

    def by_own_error(self) -> ErrorReport:
        """The same rows, those first that add most to the error themselves."""
        return ErrorReport(tuple(sorted(self.rows, key=lambda row: row.own_db)), self.feeds)

    def table(self, count: int | None = None) -> str:
        """The first rows, or all."""
        columns = {"layer": "<", "operators": "<", "path": "<", "SQNR dB": ".2f", "cosine": ".6f", "max error": ".4g"}
        columns |= {"MSE": ".3g", "own dB": ".2f", "clipped": ".2%", "": "<", "recommendation": "<"}
        return table(
            columns,
            [
                (
                    r.name,
                    r.op,
                    r.path,
                    r.sqnr_db,
                    r.cosine,
                    r.max_error,
                    r.mse,
                    r.own_db,
                    r.clipped,
                    r.mark,
                    r.recommendation,
                )
                for r in self.rows[:count]
            ],
        )

    def __str__(self) -> str:
        feeds = f"{self.feeds} feed{'s' if self.feeds > 1 else ''}"
        return (
            f"{self.table()}\nthe program against float32 on {feeds}, worst first; "
            "own: what the layer adds itself, on exact inputs\n"
            "edgekern.sensitivity shows whose error reaches the outputs"
        )

    def __repr__(self) -> str:
        marks = [row.mark for row in self.rows]
        worst = f", worst {self.rows[0].name!r} at {self.rows[0].sqnr_db:.2f} dB" if self.rows else ""
        counts = f"{marks.count('sensitive')} sensitive, {marks.count('watch')} to watch"
        return f"ErrorReport({len(self.rows)} layers, {counts}{worst})"

    def _chart(self) -> Chart:
        limits = {"watch": WATCH_DB, "sensitive": SENSITIVE_DB}
        rows = sorted(self.rows, key=lambda row: row.own_db)
        return Chart("The error that each layer adds itself", "SQNR, dB", [(r.name, r.own_db) for r in rows], limits)


@dataclass
class Clipped:
    """What the range of a tensor's codes cuts off."""

    count: int = 0
    outside: int = 0
    energy: float = 0.0

    def add(self, values: Array, lo: float, hi: float, step: float) -> None:
        half = step / 2  # so far beyond an end a value goes to its code, as to any other
        outside = values[(values < lo - half) | (values > hi + half)].astype(np.float64)
        over = outside - np.clip(outside, lo, hi)
        self.count += values.size
        self.outside += over.size
        self.energy += float(over @ over)

    @property
    def share(self) -> float:
        return self.outside / self.count if self.count else 0.0


def recommend(
    name: str, maker: str, sqnr_db: float, own: Sums, clipped: Clipped, *, precision: str, step: float
) -> str:
    """What would mend a layer, by which part of its own error is the largest.

    Parameters
    ----------
    name : of its node, which has the weights
    maker : of the node that makes its result, the last one of what the step does
    sqnr_db : of all that happened up to here
    own, clipped : of its result
    precision : in which numbers its step works, as :attr:`Program.precisions` has it
    step : of the codes of its result; 0 where it is float
    """
    found = mark(own.sqnr_db, cosine=own.cosine, clipped=clipped.share)
    if not found:
        return "fine" if sqnr_db >= SENSITIVE_DB else "fine: the error comes with its inputs"
    if own.sqnr_db >= WATCH_DB:
        what = f"clipped {clipped.share:.2%}" if clipped.share > MOST_CLIPPED else f"cosine {own.cosine:.4f}"
        return f"fine: {what}, yet {own.sqnr_db:.1f} dB"
    perhaps = "" if found == "sensitive" else "perhaps "
    return perhaps + _remedy(rule_for(name), rule_for(maker), own, clipped, precision, step)


def _remedy(rule: str, maker: str, own: Sums, clipped: Clipped, precision: str, step: float) -> str:
    if clipped.energy > own.noise / 2:
        part = min(clipped.energy / own.noise, 1.0)
        return f"wider range: clipped {clipped.share:.2%}, {part:.0%} of its error"
    rounding = own.nonzero * step**2 / 12  # 0 has a code of its own
    if rounding > own.noise / 2:  # the steps of its result are too coarse, whatever its weights are
        share = f"the steps of its result are {min(rounding / own.noise, 1.0):.0%} of its error"
        return f"w8a16: overrides={{{maker!r}: 'w8a16'}}, {share}"
    if precision == "float32":
        return "wider ranges before it: it works in float32 itself"
    if precision == "16 bits":
        return f"keep in float32: keep_float=[{rule!r}], for it has 16 bits already"
    return f"keep in float32: keep_float=[{rule!r}]"


def rule_for(name: str) -> str:
    """The rule that names one node, and none that has other letters where this one has a bracket or a star."""
    return re.sub(r"([*?[])", r"[\1]", name)
