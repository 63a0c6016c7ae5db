"""What a caller asks of free dimensions: a size, or several, each combination of which becomes a program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekern._arguments import integer
from edgekern.artifact.buckets import MOST_PROGRAMS, Dimension
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.graph.dimensions import LARGEST_SIZE

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.skeleton import Skeleton

# By the name of an input, a size or several for each dimension; by that of a dimension, the same.
AskedShapes = Mapping[str, int | Sequence[int | Sequence[int] | None]]

BATCH = "batch"


@dataclass(frozen=True)
class _Several:
    """Stands for a dimension in what one program is compiled from."""

    dimension: int


Entry = int | None | _Several


@dataclass(frozen=True)
class Sizes:
    """The dimensions with several sizes, and ``batch`` and ``shapes`` of each program."""

    dimensions: tuple[Dimension, ...]
    _batch: Entry
    _shapes: Mapping[str, Entry | tuple[Entry, ...]]

    def combinations(self) -> Iterator[tuple[int, ...]]:
        """All, those of the last dimension side by side."""
        return itertools.product(*(one.sizes for one in self.dimensions))

    def at(self, sizes: Sequence[int]) -> tuple[int, Shapes | None]:
        """``batch`` and ``shapes`` of the program with these sizes, by dimension."""

        def one(entry: Entry) -> int | None:
            return sizes[entry.dimension] if isinstance(entry, _Several) else entry

        shapes: dict[str, int | tuple[int | None, ...]] = {}
        for name, entry in self._shapes.items():
            if isinstance(entry, tuple):
                shapes[name] = tuple(map(one, entry))
            elif (size := one(entry)) is not None:
                shapes[name] = size
        return one(self._batch) or 1, shapes or None


def asks_for_several(batch: object, shapes: object) -> bool:
    """Whether anything has more than one size; names tell it apart from the sizes of an input, later."""
    if isinstance(batch, Sequence):
        return True
    values = list(shapes.values()) if isinstance(shapes, Mapping) else []
    entries = [entry for value in values if isinstance(value, Sequence) for entry in value]
    return any(isinstance(entry, Sequence) for entry in entries) or any(isinstance(value, Sequence) for value in values)


def read_sizes(model: Skeleton, batch: int | Sequence[int], shapes: AskedShapes | None) -> Sizes:
    """Sort out what has several sizes.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When sizes are no positive integers, or there are more programs than a file holds.
    """
    if shapes is not None and not isinstance(shapes, Mapping):
        raise ArgumentTypeError(
            f"compile: shapes must be a mapping such as {{'input_ids': (1, 128)}}, got {type(shapes).__name__}"
        )
    reader = _Reader(model)
    rows = reader.rows()
    whole = reader.entry(rows, "batch", batch) if isinstance(batch, Sequence) else batch
    if isinstance(whole, _Several) and isinstance((shapes or {}).get(rows), Sequence):
        raise ArgumentValueError(
            f"compile: batch and shapes[{rows!r}] both have several sizes; give them in shapes alone"
        )
    found: dict[str, Entry | tuple[Entry, ...]] = {}
    for name, value in (shapes or {}).items():
        told = f"shapes[{name!r}]"
        if name not in reader.sides:
            found[name] = reader.entry(name, told, value) if isinstance(value, Sequence) else value
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            names = reader.sides[name]
            found[name] = tuple(
                reader.entry(names[axis] if axis < len(names) else "", f"{told}[{axis}]", entry, (name, axis))
                if isinstance(entry, Sequence)
                else entry
                for axis, entry in enumerate(value)
            )
        else:
            found[name] = value  # type: ignore[assignment]  # which fix_dimensions refuses
    programs = math.prod(len(sizes) for _, sizes in reader.found)
    if programs > MOST_PROGRAMS:
        raise ArgumentValueError(
            f"compile: the sizes given make {programs} programs, and a file holds {MOST_PROGRAMS}; leave some out"
        )
    return Sizes(tuple(Dimension(name, sizes) for name, sizes in reader.found), whole, found)


class _Reader:
    def __init__(self, model: Skeleton) -> None:
        self.sides = {
            value.name: ["" if side.dim_param == "?" else side.dim_param for side in value.type.tensor_type.shape.dim]
            for value in model.inputs
        }
        self.found: list[tuple[str, tuple[int, ...]]] = []
        self._unnamed: dict[int, tuple[str, int]] = {}  # of those found, the input and axis that came first

    def rows(self) -> str:
        """What the model calls the dimension that ``batch`` fills, the free first one of its inputs; ``"batch"`` where
        it does not say, or has several names for it."""
        names = {sides[0] for sides in self.sides.values() if sides and sides[0]}
        return names.pop() if len(names) == 1 else BATCH

    def entry(self, name: str, told: str, given: Sequence[object], place: tuple[str, int] = ("", 0)) -> Entry:
        """Of one dimension. What has no name is one with the same axis of another input that has the same sizes."""
        if isinstance(given, (str, bytes)) or not given:
            raise ArgumentTypeError(f"compile: {told} must be a size or a tuple of sizes, got {given!r}")
        if len(given) > MOST_PROGRAMS:
            raise ArgumentValueError(
                f"compile: {told} has {len(given)} sizes, and a file holds {MOST_PROGRAMS} programs; leave some out"
            )
        for size in given:
            if isinstance(size, bool) or not 1 <= integer("compile", told, size) <= LARGEST_SIZE:
                raise ArgumentValueError(f"compile: {told} has the size {size!r}; sizes are 1 to {LARGEST_SIZE}")
        sizes = tuple(sorted({integer("compile", told, size) for size in given}))
        if len(sizes) == 1:
            return sizes[0]
        for at, (other, known) in enumerate(self.found):
            if not name:
                first, axis = self._unnamed.get(at, place)
                if first != place[0] and axis == place[1] and known == sizes:
                    return _Several(at)
            elif other == name and at not in self._unnamed:
                if known != sizes:
                    raise ArgumentValueError(
                        f"compile: {told} gives the dimension {name!r} the sizes {list(sizes)}, and it has "
                        f"{list(known)} already; one name has the same sizes everywhere"
                    )
                return _Several(at)
        if not name:
            self._unnamed[len(self.found)] = place
        self.found.append((name or f"{place[0]}[{place[1]}]", sizes))
        return _Several(len(self.found) - 1)
