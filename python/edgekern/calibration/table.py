"""The table of a calibration: of every tensor its range, what quantization makes of it, and what that loses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.calibration.observers.histogram import Histogram
    from edgekern.calibration.ranges import Ranges


@dataclass(frozen=True)
class TableRow:
    """What a range makes of one tensor.

    Attributes
    ----------
    tensor, method : str
    scale, zero_point : of unsigned integers of the width that the ranges are for; scale is finite and above 0
    lo, hi : the range
    clipped_fraction : of the finite values
    mse : mean square of the error of rounding and clipping
    kl : relative entropy of what the range keeps, in nats, as "entropy-two-sided" compares it; None where infinite
    """

    tensor: str
    method: str
    scale: float
    zero_point: int
    lo: float
    hi: float
    clipped_fraction: float
    mse: float
    kl: float | None


def table_of(ranges: Ranges, histograms: Mapping[str, Histogram]) -> list[TableRow]:
    """The rows of ranges, with what histograms of the same calibration know.

    Raises
    ------
    CalibrationError
        When a tensor has no histogram.
    """
    num_bits = int(ranges.options.get("num_bits", 8))
    last = 2**num_bits - 1
    rows = []
    for name, r in ranges.items():
        if name not in histograms:
            raise CalibrationError(
                f"table_of: ranges have tensor {name!r}, but histograms do not; pass those of the same Calibrator"
            )
        scale = _scale(r.hi - r.lo, last)
        kl = histograms[name].kl((r.lo, r.hi), num_levels=2**num_bits)
        rows.append(
            TableRow(
                tensor=name,
                method=r.method or ranges.method,
                scale=scale,
                zero_point=min(max(round(-r.lo / scale), 0), last),
                lo=r.lo,
                hi=r.hi,
                clipped_fraction=r.clipped_fraction,
                mse=histograms[name].quantization_error(r.lo, r.hi, num_bits=num_bits),
                kl=kl if kl < float("inf") else None,
            )
        )
    return rows


def _scale(span: float, last: int) -> float:
    """What quantization writes: within float32, and 1 where there is nothing to spread."""
    limits = np.finfo(np.float32)
    return min(max(span / last, float(limits.tiny)), float(limits.max)) if span else 1.0


def as_dicts(rows: Iterable[TableRow]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]


def as_text(rows: Sequence[TableRow]) -> str:
    """The rows under one another, numbers to the right."""
    head = ("tensor", "method", "scale", "zero point", "lo", "hi", "clipped %", "MSE", "KL")
    cells = [
        (
            row.tensor,
            row.method,
            f"{row.scale:.6g}",
            str(row.zero_point),
            f"{row.lo:.6g}",
            f"{row.hi:.6g}",
            f"{100 * row.clipped_fraction:.4f}",
            f"{row.mse:.4g}",
            "inf" if row.kl is None else f"{row.kl:.4g}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = []
    for row in (head, *cells):
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]))
    return "\n".join(lines)
