"""Feeds in as many rows as a program takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def cut(feeds: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]]) -> Iterator[Mapping[str, Any]]:
    """Pieces of feeds whose rows are a multiple of those that all inputs have, by their ``shapes``; else the feeds as
    they are, for the session to say what is wrong."""
    wanted = {shape[0] if shape else None for shape in shapes.values()}
    given = {array.shape[0] if getattr(array, "ndim", 0) else None for array in feeds.values()}
    if len(wanted) == len(given) == 1 and feeds.keys() == shapes.keys():
        [rows], [count] = wanted, given
        if isinstance(rows, int) and isinstance(count, int) and rows > 0 and count > rows and count % rows == 0:
            for first in range(0, count, rows):
                yield {name: array[first : first + rows] for name, array in feeds.items()}
            return
    yield feeds
