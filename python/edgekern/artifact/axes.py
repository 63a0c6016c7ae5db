"""Where inputs and outputs have the dimensions of which a program has several sizes: their shapes tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekern.artifact.buckets import Axis, Buckets, Dimension

Shapes = Mapping[str, Sequence[int]]


def find_axes(
    dimensions: Sequence[Dimension], inputs: Sequence[Shapes], outputs: Sequence[Shapes], pads: Mapping[str, float]
) -> tuple[Buckets, dict[str, str]]:
    """Compare the shapes of inputs and outputs, by name, in the programs of all sizes.

    Returns
    -------
    (the dimensions where they are, padded and rows as far as shapes allow; why not, by the name of the dimension)

    Raises
    ------
    ValueError
        When an input or output has not the same number of dimensions in all of them.
    """
    bare, reasons = Buckets(tuple(dimensions), {}, {}, pads), dict[str, str]()
    for one in dimensions:
        number = dimensions.index(one)
        if not any(number in follow(bare, [shapes[name] for shapes in inputs]) for name in inputs[0]):
            raise ValueError(f"no input has the dimension '{one.name}'")
    found = replace(
        bare,
        inputs={name: _checked(bare, f"input '{name}'", [one[name] for one in inputs], reasons) for name in inputs[0]},
        outputs={
            name: _checked(bare, f"output '{name}'", [one[name] for one in outputs], reasons) for name in outputs[0]
        },
    )
    allowed = [
        replace(one, padded=one.name not in reasons, rows=one.name not in reasons and _are_rows(found, number))
        for number, one in enumerate(dimensions)
    ]
    return replace(found, dimensions=tuple(allowed)), reasons


def axes_of(buckets: Buckets, shapes: Sequence[Sequence[int]]) -> tuple[Axis, ...] | None:
    """Of one tensor in all programs; None where a size follows no dimension, or several at once."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    found = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        followed = _followed(buckets, sizes)
        if not followed:
            continue
        if len(followed) > 1 or (fit := _line(buckets, followed[0], sizes)) is None:
            return None
        found.append(Axis(axis, followed[0], *fit))
    return tuple(found)


def follow(buckets: Buckets, shapes: Sequence[Sequence[int]]) -> set[int]:
    """The dimensions that the shape of a tensor depends on."""
    return {number for sizes in zip(*shapes, strict=False) for number in _followed(buckets, sizes)}


def _checked(buckets: Buckets, told: str, shapes: Sequence[Sequence[int]], reasons: dict[str, str]) -> tuple[Axis, ...]:
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"{told} has other dimensions in one size than in another: {sorted(map(tuple, shapes))}")
    found = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        one = axes_of(buckets, [(size,) for size in sizes])
        for number in _followed(buckets, sizes) if one is None else ():
            reasons[buckets.dimensions[number].name] = f"dimension {axis} of {told} is no multiple of it"
        found += [replace(place, axis=axis) for place in one or ()]
    return tuple(found)


def _followed(buckets: Buckets, sizes: Sequence[int]) -> list[int]:
    """The dimensions that these sizes, of each program, depend on."""

    def smallest(number: int, dimension: int) -> int:
        places = _places(buckets, number)
        return buckets.number([*places[:dimension], 0, *places[dimension + 1 :]])

    return [
        dimension
        for dimension in range(len(buckets.dimensions))
        if any(size != sizes[smallest(number, dimension)] for number, size in enumerate(sizes))
    ]


def _places(buckets: Buckets, number: int) -> list[int]:
    return [one.sizes.index(size) for one, size in zip(buckets.dimensions, buckets.sizes(number), strict=True)]


def _line(buckets: Buckets, dimension: int, sizes: Sequence[int]) -> tuple[int, int] | None:
    """(step, start) of ``step * size + start``."""
    given = [buckets.sizes(number)[dimension] for number in range(len(sizes))]
    low, high = given.index(min(given)), given.index(max(given))
    step, rest = divmod(sizes[high] - sizes[low], given[high] - given[low])
    start = sizes[low] - step * given[low]
    fits = rest == 0 and step > 0 and all(step * size + start == got for size, got in zip(given, sizes, strict=True))
    return (step, start) if fits else None


def _are_rows(buckets: Buckets, dimension: int) -> bool:
    """Whether it is the first axis of inputs, and of all outputs: what may be cut."""
    places = [axis for axes in buckets.inputs.values() for axis in axes if axis.dimension == dimension]
    firsts = [[axis for axis in axes if axis.dimension == dimension] for axes in buckets.outputs.values()]
    places += [axis for axes in firsts for axis in axes]
    return all(firsts) and all(axis.axis == 0 and axis.start == 0 for axis in places)
