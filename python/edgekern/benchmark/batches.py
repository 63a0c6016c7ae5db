"""A model at several batches: one report each, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekern.benchmark.models import bench_model
from edgekern.benchmark.report import ModelReport
from edgekern.benchmark.text import aligned, milliseconds
from edgekern.files import StrPath


@dataclass(frozen=True)
class BatchesReport:
    """What :func:`bench_batches` has measured, by the rows of a run."""

    reports: dict[int, ModelReport]

    def to_json(self) -> str:
        """All figures of all reports."""
        return json.dumps([{"batch": batch, **json.loads(r.to_json())} for batch, r in self.reports.items()], indent=1)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """A row for each batch, number of threads and contender; first what is the same for all, last what is not
        timed."""
        first, *_ = self.reports.values()
        rows: list[tuple[str, ...]] = [("batch", "threads", "", "p50 ms", "p95 ms", "ms a row", "rows/s", "outputs")]
        for batch, report in self.reports.items():
            for row in report.rows:
                times = (row.timing.p50_us, row.timing.p95_us, row.timing.p50_us / batch)
                rate = f"{batch * row.timing.runs_per_s:,.1f}"
                found = report.differences.get(row.who)
                told = "" if found is None else str(found)
                rows.append((str(batch), str(row.num_threads), row.who, *map(milliseconds, times), rate, told))
        left = [
            f"{batch}: {who} is not timed: {why}"
            for batch, r in self.reports.items()
            for who, why in r.left_out.items()
        ]
        head = [line for line in first.head() if not line.startswith("compiled ")]
        busy = [line for report in self.reports.values() for line in report.busy()]
        return "\n".join([*head, "", *aligned(rows, ">><>>>><"), *left, *busy[-1:]])


def bench_batches(model: StrPath, batches: Sequence[int], **options: Any) -> BatchesReport:
    """:func:`bench_model` for each batch.

    Parameters
    ----------
    model : path of an ONNX model whose first dimension is free
    batches : rows of a run
    options : of :func:`bench_model`, which has the errors, too
    """
    return BatchesReport({batch: bench_model(model, batch=batch, **options) for batch in dict.fromkeys(batches)})
