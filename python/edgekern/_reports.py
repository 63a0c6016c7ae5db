"""What reports have in common: tables for terminals, JSON, CSV, and a chart."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgekern import files
from edgekern._arguments import file_path
from edgekern.errors import ArgumentValueError, EdgekernError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BARS = 30
_BAR, _LIMIT = "#4c72b0", "#444444"


@dataclass(frozen=True)
class Chart:
    """Bars, one a row, first row on top.

    Attributes
    ----------
    title, axis : what is shown, and what its figure is called
    bars : (name, figure) of each row; what is not finite has no bar and is named
    limits : figures that are marked by a line, with their names
    """

    title: str
    axis: str
    bars: Sequence[tuple[str, float]]
    limits: Mapping[str, float]


class Drawn(ABC):
    """A base for reports whose ``rows`` are dataclasses of plain values, and which can be drawn.

    A subclass is a dataclass. ``_derived`` names properties of a row that are written beside its fields.
    """

    _derived: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as JSON has them; None where a figure is not finite."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}  # type: ignore[arg-type]
        return {**{name: _plain(value) for name, value in own.items()}, "rows": [self._written(r) for r in self._rows]}

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """:meth:`to_dict` as text, and as a file where ``path`` is given."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        self._write(path, text, "to_json")
        return text

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as text with a line of names, and as a file where ``path`` is given; nothing where not finite."""
        rows = [self._written(row) for row in self._rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        self._write(path, text.getvalue(), "to_csv")
        return text.getvalue()

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the rows, into a file whose ending says its kind: png, svg, pdf.

        Raises
        ------
        EdgekernError
            When matplotlib is not installed.
        ArgumentValueError
            When matplotlib knows no such kind of file.
        """
        function = f"{type(self).__name__}.plot"
        file = file_path(function, "path", path)
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ImportError as error:
            raise EdgekernError(f"{function}: it needs matplotlib; pip install matplotlib") from error
        figure = self._figure(Figure)
        kind, drawn = file.suffix.lstrip(".").lower() or "png", io.BytesIO()
        if kind not in (known := figure.canvas.get_supported_filetypes()):
            raise ArgumentValueError(f"{function}: path must end in one of {sorted(known)}, got {file.name!r}")
        with rc_context({"svg.hashsalt": "edgekern"}):  # the same rows give the same file
            figure.savefig(drawn, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
        with files.atomic_write(file, function=function) as opened:
            opened.write(drawn.getvalue())

    @abstractmethod
    def _figure(self, make: type[Figure]) -> Figure: ...

    @property
    def _rows(self) -> Iterable[Any]:
        rows: Iterable[Any] = getattr(self, "rows", ())
        return rows

    def _written(self, row: Any) -> dict[str, Any]:
        named = [f.name for f in fields(row)]
        return {name: _plain(getattr(row, name)) for name in (*named, *self._derived)}

    def _write(self, path: str | os.PathLike[str] | None, text: str, method: str) -> None:
        if path is None:
            return
        function = f"{type(self).__name__}.{method}"
        with files.atomic_write(file_path(function, "path", path), function=function) as file:
            file.write(text.encode())


class Report(Drawn):
    """A base for those that are drawn as bars, the first 30 rows of them."""

    def _figure(self, make: type[Figure]) -> Figure:
        chart = self._chart()
        bars = list(chart.bars[:_MOST_BARS])
        figure = make(figsize=(9, 1.4 + 0.26 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        finite = [value if math.isfinite(value) else 0.0 for _, value in bars]
        axes.barh(range(len(bars)), finite, color=_BAR)
        for at, (_, value) in enumerate(bars):
            text = f" {value:.3g}" if math.isfinite(value) else " exact" if value > 0 else " nothing left"
            axes.text(max(finite[at], 0.0), at, text, va="center", fontsize=7)
        axes.set_yticks(range(len(bars)), [_shortened(name) for name, _ in bars], fontsize=7)
        axes.invert_yaxis()
        axes.tick_params(axis="x", labelsize=7)
        axes.margins(x=0.1, y=0.01)
        for name, value in chart.limits.items():
            axes.axvline(value, color=_LIMIT, linewidth=0.8, linestyle="--", label=f"{name}: {value:g}")
        if chart.limits:
            figure.legend(fontsize=7, loc="outside lower right", ncols=len(chart.limits))
        left = len(chart.bars) - len(bars)
        axes.set_title(chart.title + (f" (first {len(bars)} of {len(chart.bars)})" if left else ""), fontsize=9)
        axes.set_xlabel(chart.axis, fontsize=8)
        return figure

    @abstractmethod
    def _chart(self) -> Chart: ...


def table(columns: Mapping[str, str], rows: Sequence[Sequence[object]]) -> str:
    """An aligned table.

    Parameters
    ----------
    columns : name to format of each: ``"<"`` for text, else as for :func:`format` (``".2f"``), aligned to the right
    rows : a value a column; None is "-"
    """
    cells = [list(columns)]
    for row in rows:
        cells.append(
            [
                "-" if v is None else str(v) if of == "<" else format(v, of)
                for v, of in zip(row, columns.values(), strict=True)
            ]
        )
    width = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [of == "<" for of in columns.values()]
    return "\n".join(
        "  ".join(
            cell.ljust(size) if is_left else cell.rjust(size)
            for cell, size, is_left in zip(row, width, left, strict=True)
        ).rstrip()
        for row in cells
    )


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _shortened(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[-most // 2 + 2 :]}"
