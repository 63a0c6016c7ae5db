"""Where inputs and outputs have the dimensions of which a program has several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekern import _core
from edgekern.artifact import Manifest
from edgekern.artifact.buckets import Axis, Buckets, Dimension
from edgekern.errors import CompileError

Shape = tuple[int, ...]
Story = tuple[_core.ProgramIndex, Manifest]


def find_axes(
    dimensions: Sequence[Dimension], programs: Sequence[Story], pads: Mapping[str, float]
) -> tuple[Buckets, dict[str, str]]:
    """Compare the shapes of the programs of all sizes.

    Returns
    -------
    (the dimensions where they are, what cannot lie between the sizes of a dimension, by its name)
    """
    bare = Buckets(tuple(dimensions), {}, {}, pads)
    reasons: dict[str, str] = {}
    inputs, outputs = (
        {
            name: _axes(
                bare, [_shapes(index, story)[at][name] for index, story in programs], f"{side} '{name}'", reasons
            )
            for name in _shapes(*programs[0])[at]
        }
        for at, side in enumerate(("input", "output"))
    )
    found = replace(bare, inputs=inputs, outputs=outputs)
    return replace(
        found,
        dimensions=tuple(
            replace(one, padded=one.name not in reasons, rows=one.name not in reasons and _are_rows(found, at))
            for at, one in enumerate(dimensions)
        ),
    ), reasons


def _shapes(index: _core.ProgramIndex, story: Manifest) -> tuple[dict[str, Shape], dict[str, Shape]]:
    tensors = index.tensors
    inputs, outputs = (
        {name: tuple(tensors[number].shape) for name, number in side} for side in (story.inputs, story.outputs)
    )
    return inputs, outputs


def _axes(buckets: Buckets, shapes: Sequence[Shape], told: str, reasons: dict[str, str]) -> tuple[Axis, ...]:
    if len({len(shape) for shape in shapes}) > 1:
        raise CompileError(f"compile: {told} has other dimensions in one size than in another: {sorted(set(shapes))}")
    found = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        if len(set(sizes)) == 1:
            continue
        followed = _followed(buckets, sizes)
        if len(followed) > 1 or (fit := _line(buckets, followed[0], sizes)) is None:
            for number in followed:
                reasons[buckets.dimensions[number].name] = f"dimension {axis} of {told} is no multiple of it"
            continue
        found.append(Axis(axis, followed[0], *fit))
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
