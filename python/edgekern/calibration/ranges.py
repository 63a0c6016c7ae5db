"""Ranges: what calibration hands to quantization."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from edgekern import files
from edgekern._arguments import file_path
from edgekern._reports import Chart, Report
from edgekern.errors import ArgumentValueError, CalibrationError
from edgekern.file_kinds import naming_kind

_FORMAT = "edgekern.ranges"
_VERSION = 1
_MAX_BYTES = 1 << 28
_FEW_VALUES, _BYTES_PER_VALUE = 64, 4  # what floats and names take at least, however the text is laid out

OptionValue = str | int | float | bool


@dataclass(frozen=True)
class TensorRange:
    """The range to quantize one tensor over, and what was seen of it.

    Attributes
    ----------
    lo, hi : float. lo <= 0 <= hi; both 0 for a tensor that was all zeros.
    count, num_nan, num_inf : int. Finite values that the range was taken of, and values left out of it.
    clipped_fraction : float. Fraction of the finite values outside [lo, hi].
    power, noise : float, optional. Mean square of the finite values, and of the error of rounding them over [lo, hi] to
        the width that calibration was asked for, 8 bits by default; the choice of a recipe compares them.
    channel_means : tuple of float, optional. Mean of each channel (axis 1), where weights multiply the tensor; the bias
        correction of quantization uses them.
    method : str, optional. Which method the range is by, where "auto" chose among several.
    """

    lo: float
    hi: float
    count: int = 0
    num_nan: int = 0
    num_inf: int = 0
    clipped_fraction: float = 0.0
    channel_means: tuple[float, ...] | None = field(default=None, repr=False)
    power: float | None = None
    noise: float | None = None
    method: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo <= 0 <= self.hi):
            raise ArgumentValueError(
                f"TensorRange: lo and hi must be finite with lo <= 0 <= hi, got lo={self.lo!r}, hi={self.hi!r}"
            )


@dataclass(frozen=True, repr=False)
class Ranges(Mapping[str, TensorRange]):
    """Range of every observed tensor of one model, by name: a mapping that compares, prints, saves and loads.

    Attributes
    ----------
    tensors : mapping of tensor name to :class:`TensorRange`
    model_hash : str. Of the model that was calibrated; see :func:`edgekern.calibration.model_hash`.
    method : str. How the ranges were chosen.
    options : mapping. The options that the method ran with.
    preprocessing : mapping, optional. How files became the model's inputs, where :func:`edgekern.samples` read them.
    """

    tensors: Mapping[str, TensorRange]
    model_hash: str
    method: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", dict(self.tensors))
        object.__setattr__(self, "options", dict(self.options))

    def __getitem__(self, name: str) -> TensorRange:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Ranges({len(self)} tensors, method={self.method!r}, model_hash='{self.model_hash[:12]}...')"

    def __str__(self) -> str:
        width = max((len(name) for name in self), default=6)
        lines = [repr(self), f"{'tensor':<{width}}  {'lo':>12}  {'hi':>12}  {'clipped %':>9}  left out"]
        for name, r in self.items():
            odd = f"{r.num_nan} NaN, {r.num_inf} inf" if r.num_nan or r.num_inf else "-"
            lines.append(f"{name:<{width}}  {r.lo:>12.6g}  {r.hi:>12.6g}  {100 * r.clipped_fraction:>9.4f}  {odd}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`save` writes: plain dicts, lists, numbers and strings."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model_hash": self.model_hash,
            "method": self.method,
            "options": dict(self.options),
            **({} if self.preprocessing is None else {"preprocessing": dict(self.preprocessing)}),
            "tensors": {name: asdict(r) for name, r in self.items()},
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text; :meth:`save` writes it into a file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """A line a tensor, without the means of channels; into a file, too, where ``path`` is given."""
        return _RangeTable.of(self).to_csv(path)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the width of the widest ranges as bars; see :meth:`edgekern.ErrorReport.plot`."""
        _RangeTable.of(self).plot(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically; floats are written so that :meth:`load` gives the same bits."""
        text = self.to_json()
        with files.atomic_write(file_path("Ranges.save", "path", path), function="Ranges.save") as file:
            file.write(text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CalibrationError
            When the file is not one that :meth:`save` wrote.
        ArtifactError, ArgumentValueError
            When it is larger than any ranges are, or no regular file.
        """
        file = file_path("Ranges.load", "path", path)
        with naming_kind(file, "a file of ranges", "ranges"):
            return cls._read(file)

    @classmethod
    def _read(cls, file: Path) -> Self:
        text = files.read_bytes(file, function="Ranges.load", limit=_MAX_BYTES)
        try:
            content: Any = files.parse_json(text, most_values=_FEW_VALUES + len(text) // _BYTES_PER_VALUE)
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            return cls(
                tensors={str(name): _tensor_range(r) for name, r in content["tensors"].items()},
                model_hash=str(content["model_hash"]),
                method=str(content["method"]),
                options=content["options"],
                preprocessing=None if (made := content.get("preprocessing")) is None else dict(made),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CalibrationError(
                f"Ranges.load: {str(file)!r} is not a version {_VERSION} ranges file ({error!r}); "
                "write it with Ranges.save"
            ) from error


@dataclass(frozen=True)
class _RangeRow:
    tensor: str
    lo: float
    hi: float
    count: int
    num_nan: int
    num_inf: int
    clipped_fraction: float
    power: float | None
    noise: float | None


@dataclass(frozen=True, repr=False)
class _RangeTable(Report):
    rows: tuple[_RangeRow, ...]

    @staticmethod
    def of(ranges: Ranges) -> _RangeTable:
        names = [f.name for f in fields(_RangeRow)][1:]
        return _RangeTable(
            tuple(_RangeRow(tensor, **{n: getattr(r, n) for n in names}) for tensor, r in ranges.items())
        )

    def _chart(self) -> Chart:
        rows = sorted(self.rows, key=lambda row: row.lo - row.hi)
        return Chart("Ranges, widest first", "hi - lo", [(row.tensor, row.hi - row.lo) for row in rows], {})


def _tensor_range(saved: dict[str, Any]) -> TensorRange:
    means = saved.get("channel_means")
    return TensorRange(**{**saved, "channel_means": None if means is None else tuple(float(mean) for mean in means)})
