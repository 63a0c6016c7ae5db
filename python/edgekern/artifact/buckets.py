"""Sizes of one program: a program for each, and what lies between them.

A program whose inputs have free dimensions holds an index for every combination of their sizes, over one set of blobs.
What a caller gives runs on the next larger one: filled up on the way in, cut on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_PROGRAMS = 64  # in one file: a session prepares all of them
_LARGEST = 2**31 - 1
LONGEST_NAME = 1024


@dataclass(frozen=True)
class Dimension:
    """A dimension of inputs and outputs that a program has in several sizes.

    Attributes
    ----------
    name : "batch", the name that the model has for it, or such as "image[2]"
    sizes : ascending
    padded : whether every size up to the largest runs: what fills it up was seen to change no bit of the results
    rows : whether results of one row are independent of the others: what exceeds the largest size is cut
    least : the smallest size that the model allows, where sizes are padded
    """

    name: str
    sizes: tuple[int, ...]
    padded: bool = False
    rows: bool = False
    least: int = 1

    def __str__(self) -> str:
        told = f"{self.name} {', '.join(map(str, self.sizes))}"
        below = "and all below" if self.least == 1 else f"and all below down to {self.least}"
        return f"{told}, any number" if self.rows else f"{told}, {below}" if self.padded else f"{told} alone"


@dataclass(frozen=True)
class Axis:
    """The axis of an input or output that has a dimension's size: ``step * size + start``."""

    axis: int
    dimension: int
    step: int = 1
    start: int = 0

    def size(self, size: int) -> int:
        return self.step * size + self.start

    def told(self, name: str) -> str:
        """Its size, in words of the dimension's name."""
        times = name if self.step == 1 else f"{self.step} * {name}"
        return f"{times} {'+' if self.start > 0 else '-'} {abs(self.start)}" if self.start else times


Axes = Mapping[str, tuple[Axis, ...]]


@dataclass(frozen=True)
class Buckets:
    """The sizes that a program has.

    Attributes
    ----------
    dimensions : of which each combination of sizes is a program, those of the last one side by side
    inputs, outputs : where the dimensions are, by name
    pads : what fills up an input, by name; 0 where it has none
    """

    dimensions: tuple[Dimension, ...]
    inputs: Axes
    outputs: Axes
    pads: Mapping[str, float]

    @property
    def combinations(self) -> int:
        return math.prod(len(dimension.sizes) for dimension in self.dimensions)

    def sizes(self, number: int) -> tuple[int, ...]:
        """Of one program, by dimension."""
        found = []
        for dimension in reversed(self.dimensions):
            number, at = divmod(number, len(dimension.sizes))
            found.append(dimension.sizes[at])
        return tuple(reversed(found))

    def number(self, places: Sequence[int]) -> int:
        """The program that has each dimension's size of that place."""
        number = 0
        for dimension, place in zip(self.dimensions, places, strict=True):
            number = number * len(dimension.sizes) + place
        return number

    def fits(self, inputs: Mapping[str, Sequence[int]], number: int) -> bool:
        """Whether the inputs of a program have its sizes."""
        sizes = self.sizes(number)
        return all(
            axis.size(sizes[axis.dimension]) == inputs[name][axis.axis]
            for name, axes in self.inputs.items()
            for axis in axes
        )

    def __str__(self) -> str:
        return "; ".join(map(str, self.dimensions))

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Buckets:
        """Read what ``dataclasses.asdict`` wrote; raises ValueError, KeyError, TypeError of anything else."""
        dimensions = tuple(
            Dimension(**{**entry, "sizes": tuple(map(_whole, entry["sizes"]))}) for entry in fields.pop("dimensions")
        )
        for one in dimensions:
            sound = (
                is_name(one.name)
                and type(one.padded) is bool
                and type(one.rows) is bool
                and (one.padded or not one.rows)
            )
            ascending = all(a < b for a, b in zip((0, *one.sizes), one.sizes, strict=False))
            if not sound or not one.sizes or not ascending or one.sizes[-1] > _LARGEST:
                raise ValueError(f"dimension {one.name}")
            if not 1 <= _whole(one.least) <= one.sizes[0] or (one.rows and one.least > 1):
                raise ValueError(f"dimension {one.name}")
        buckets = Buckets(dimensions, _axes(fields.pop("inputs")), _axes(fields.pop("outputs")), **fields)
        if not all(type(name) is str and type(value) in (int, float) for name, value in buckets.pads.items()):
            raise TypeError("pads")
        if len({one.name for one in dimensions}) < len(dimensions) or not 1 < buckets.combinations <= MOST_PROGRAMS:
            raise ValueError("dimensions")
        return buckets


def is_name(name: object) -> bool:
    """Whether a file may call a dimension, or a mode, so."""
    return type(name) is str and name.isprintable() and len(name) <= LONGEST_NAME


def _axes(fields: dict[str, Any]) -> dict[str, tuple[Axis, ...]]:
    return {name: tuple(_axis(entry) for entry in entries) for name, entries in fields.items()}


def _axis(fields: dict[str, Any]) -> Axis:
    axis = Axis(**{name: _whole(value) for name, value in fields.items()})
    if axis.axis < 0 or axis.step < 1 or axis.dimension < 0:
        raise ValueError("axis")
    return axis


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a number can stand in an array of a type as it is, or rounded to the nearest float."""
    try:
        with np.errstate(all="ignore"):
            stored = np.array(value).astype(dtype)
    except (OverflowError, TypeError):
        return False
    if dtype.kind in "iub":
        return bool(stored == value)
    return bool(np.isfinite(stored.astype(np.float64))) == math.isfinite(value)


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) > _LARGEST:
        raise TypeError("a number that is no whole one")
    return value
