"""Sizes of one program: a program for each, and what lies between them.

A program whose inputs have free dimensions holds an index for every combination of their sizes, over one set of blobs.
What a caller gives runs on the next larger one: filled up on the way in, cut on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PROGRAMS = 64  # in one file: a session prepares all of them
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Dimension:
    """A dimension of inputs and outputs that a program has in several sizes.

    Attributes
    ----------
    name : "batch", the name that the model has for it, or such as "image[2]"
    sizes : ascending
    padded : whether every size up to the largest runs: what fills it up was seen to change no bit of the results
    rows : whether results of one row are independent of the others: what exceeds the largest size is cut
    """

    name: str
    sizes: tuple[int, ...]
    padded: bool = False
    rows: bool = False

    def __str__(self) -> str:
        told = f"{self.name} {', '.join(map(str, self.sizes))}"
        return f"{told}, any number" if self.rows else f"{told}, and all below" if self.padded else f"{told} alone"


@dataclass(frozen=True)
class Axis:
    """The axis of an input or output that has a dimension's size: ``step * size + start``."""

    axis: int
    dimension: int
    step: int = 1
    start: int = 0

    def size(self, size: int) -> int:
        return self.step * size + self.start


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

    def __str__(self) -> str:
        return "; ".join(map(str, self.dimensions))

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Buckets:
        """Read what ``dataclasses.asdict`` wrote; raises ValueError, KeyError, TypeError of anything else."""
        dimensions = tuple(
            Dimension(**{**entry, "sizes": tuple(map(_whole, entry["sizes"]))}) for entry in fields.pop("dimensions")
        )
        for one in dimensions:
            sound = type(one.name) is str and type(one.padded) is bool and type(one.rows) is bool
            sound = sound and (one.padded or not one.rows)
            ascending = all(a < b for a, b in zip((0, *one.sizes), one.sizes, strict=False))
            if not sound or not one.sizes or not ascending or one.sizes[-1] > _LARGEST:
                raise ValueError(f"dimension {one.name}")
        buckets = Buckets(dimensions, _axes(fields.pop("inputs")), _axes(fields.pop("outputs")), **fields)
        if not all(type(name) is str and type(value) in (int, float) for name, value in buckets.pads.items()):
            raise TypeError("pads")
        places = [axis for axes in (buckets.inputs, buckets.outputs) for found in axes.values() for axis in found]
        if any(axis.dimension >= len(dimensions) for axis in places):
            raise ValueError("axes")
        if len({one.name for one in dimensions}) < len(dimensions) or not 1 < buckets.combinations <= MOST_PROGRAMS:
            raise ValueError("dimensions")
        return buckets

    def fits(self, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]], number: int) -> bool:
        """Whether these shapes are those of a program's inputs and outputs, as far as the dimensions tell."""
        sizes = self.sizes(number)
        return all(
            name in shapes
            and 0 <= axis.axis < len(shapes[name])
            and axis.size(sizes[axis.dimension]) == shapes[name][axis.axis]
            for axes, shapes in ((self.inputs, inputs), (self.outputs, outputs))
            for name, places in axes.items()
            for axis in places
        )


def _axes(fields: dict[str, Any]) -> dict[str, tuple[Axis, ...]]:
    return {name: tuple(_axis(entry) for entry in entries) for name, entries in fields.items()}


def _axis(fields: dict[str, Any]) -> Axis:
    axis = Axis(**{name: _whole(value) for name, value in fields.items()})
    if axis.axis < 0 or axis.step < 1 or axis.dimension < 0:
        raise ValueError("axis")
    return axis


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) > _LARGEST:
        raise TypeError("a number that is no whole one")
    return value
