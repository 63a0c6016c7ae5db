"""Samples that are read one by one, cut into feeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgekern.calibration.sources.base import (
    Feeds,
    Input,
    Samples,
    Source,
    UnreadableError,
    check_unreadable,
    fixed_rows,
    free_rows,
    report_unreadable,
)
from edgekern.errors import ArgumentValueError

MAX_UNREADABLE = 0.01


class RowSamples(Samples):
    """Feeds of a source: so many rows a feed, one feed in memory.

    Parameters
    ----------
    source : what reads one sample
    inputs : of the model
    batch : rows of a feed; None is the model's, 8 where that is free
    limit : take so many samples, evenly spread; None is all
    max_unreadable : float. Share of the samples that may be damaged; they are named and left out.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[Input],
        *,
        batch: int | None = None,
        limit: int | None = None,
        max_unreadable: float = MAX_UNREADABLE,
    ) -> None:
        self._fixed = fixed_rows(inputs)
        self._batch = batch or self._fixed or free_rows(inputs) or 1
        total = len(source)
        count = total if limit is None else min(limit, total)
        self._source = source
        self._numbers: Sequence[int] = range(total) if count == total else [i * total // count for i in range(count)]
        self._max_unreadable, self._whole, self._is_part = max_unreadable, count, False
        if self._fixed and (self._batch != self._fixed or count % self._fixed):
            given = f"batch={self._batch}" if self._batch != self._fixed else f"{count} samples"
            raise ArgumentValueError(
                f"samples: the model takes {self._fixed} rows at a time, got {given}; give a multiple, or make the "
                "model for another batch"
            )

    @property
    def preprocessing(self) -> Any:  # type: ignore[override]
        return self._source.preprocessing

    @property
    def labels(self) -> Any:  # type: ignore[override]
        """By the numbers that :meth:`numbered` gives."""
        return self._source.labels

    @property
    def num_samples(self) -> int:
        return len(self._numbers)

    @property
    def max_unreadable(self) -> float:
        """Share of all samples that may be damaged."""
        return self._max_unreadable

    def __len__(self) -> int:
        return -(-len(self._numbers) // self._batch)

    def part(self, start: int, stop: int) -> RowSamples:
        """Feeds ``start`` to ``stop``, to be read elsewhere; damaged samples are counted by who puts parts together."""
        part = object.__new__(RowSamples)
        part.__dict__ = dict(self.__dict__)
        part._numbers = self._numbers[start * self._batch : stop * self._batch]
        part._is_part = True
        return part

    def numbered(self) -> Iterator[tuple[list[int], Feeds]]:
        damaged: list[str] = []
        for start in range(0, len(self._numbers), self._batch):
            rows: dict[int, Feeds] = {}
            for number in self._numbers[start : start + self._batch]:
                try:
                    rows[number] = self._source.read(number)
                except UnreadableError as error:
                    damaged.append(str(error))
                    self.unreadable = tuple(damaged)
                    check_unreadable(damaged, self._whole, self._max_unreadable)
            if rows and not (self._fixed and len(rows) < self._fixed):
                feeds = self._source.join(list(rows.values()))
                numbers = list(rows)
                del rows
                yield numbers, feeds
                del feeds  # else it would live while the next one is read
        self.unreadable = tuple(damaged)
        if not self._is_part:
            report_unreadable(damaged, self._whole)
