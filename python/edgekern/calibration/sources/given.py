"""Feeds that are there already: any iterable of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from edgekern.calibration.sources.base import Array, Feeds, Samples
from edgekern.errors import ArgumentTypeError


class GivenSamples(Samples):
    """An iterable of feeds as samples: lists, data loaders, and other re-iterables that have a length."""

    def __init__(self, feeds: Iterable[Any], *, labels: Array | None = None) -> None:
        if isinstance(feeds, Iterator) or not isinstance(feeds, Sized):
            raise ArgumentTypeError(
                f"samples: source must have a length and be iterable more than once, got {type(feeds).__name__}; pass "
                "a list of feeds, or an object with __iter__ and __len__"
            )
        self._feeds = feeds
        self.labels = labels

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def num_samples(self) -> int:
        return sum(len(numbers) for numbers, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[list[int], Feeds]]:
        first = 0
        for feeds in self._feeds:
            array = next(iter(feeds.values()), None)
            shape = getattr(array, "shape", ())
            rows = shape[0] if shape else 1
            yield list(range(first, first + rows)), feeds
            first += rows
            del feeds, array

    def __repr__(self) -> str:
        return f"GivenSamples({len(self)} feeds)"
