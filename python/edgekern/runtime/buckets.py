"""Runs of any size on programs of a few: what is between two is filled up, and what is beyond the last is cut."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentTypeError, ArgumentValueError

if TYPE_CHECKING:
    from edgekern.artifact import Program
    from edgekern.artifact.buckets import Axis, Buckets, Dimension
    from edgekern.runtime.runner import Runner

Array = npt.NDArray[Any]
Part = tuple[Any, ...]  # slices


@dataclass(frozen=True)
class Piece:
    """A run of one program.

    Attributes
    ----------
    number : of the program
    sizes : that it has, by dimension
    begin, end : of what it computes of each dimension
    """

    number: int
    sizes: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    def parts(self, axes: Sequence[Axis], rank: int) -> tuple[Part, Part]:
        """(of the caller's array, of the program's) that hold the same."""
        whole, own = [slice(None)] * rank, [slice(None)] * rank
        for axis in axes:
            begin, end = self.begin[axis.dimension], self.end[axis.dimension]
            whole[axis.axis] = slice(axis.step * begin, axis.size(end))  # only what starts at 0 is cut
            own[axis.axis] = slice(0, axis.size(end - begin))
        return (*whole, ...), (*own, ...)  # of an array without dimensions, too, an array

    def is_full(self, axes: Sequence[Axis]) -> bool:
        """Whether nothing of an array is filled up."""
        return all(self.end[one.dimension] - self.begin[one.dimension] == self.sizes[one.dimension] for one in axes)


class Sized:
    """What a program of several sizes is given, and what it gives.

    Parameters
    ----------
    program : with buckets
    """

    def __init__(self, program: Program, buckets: Buckets) -> None:
        self.buckets = buckets
        self._inputs = {info.name: info for info in program.inputs}
        self._outputs = {info.name: info for info in program.outputs}
        self._variants = program.variants

    def shape(self, name: str, *, output: bool = False) -> list[int | str]:
        """Of an input or output, with the names of dimensions."""
        info, axes = (
            (self._outputs[name], self.buckets.outputs) if output else (self._inputs[name], self.buckets.inputs)
        )
        shape: list[int | str] = list(info.shape)
        for axis in axes.get(name, ()):
            shape[axis.axis] = axis.told(self.buckets.dimensions[axis.dimension].name)
        return shape

    def sizes(self, arrays: Sequence[Array]) -> tuple[int, ...]:
        """Of each dimension, in an array for each input, which are held to their shapes and dtypes.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When an array has another dtype or shape, or two have other sizes of one dimension.
        """
        found: dict[int, tuple[int, str]] = {}
        for name, array in zip(self._inputs, arrays, strict=True):
            info, axes = self._inputs[name], self.buckets.inputs.get(name, ())
            if array.dtype != info.dtype:
                raise ArgumentTypeError(
                    f"run: input '{name}' must be {info.dtype}, got {array.dtype}; convert it with astype"
                )
            fixed = [size for at, size in enumerate(array.shape) if all(axis.axis != at for axis in axes)]
            if array.ndim != len(info.shape) or fixed != [
                size for at, size in enumerate(info.shape) if all(axis.axis != at for axis in axes)
            ]:
                shape = ", ".join(map(str, self.shape(name)))
                raise ArgumentValueError(f"run: input '{name}' must have shape ({shape}), got {array.shape}")
            for axis in axes:
                size, told = array.shape[axis.axis], f"input '{name}'"
                known, before = found.setdefault(axis.dimension, (size, told))
                if known != size:
                    raise ArgumentValueError(
                        f"run: {told} has {size} of '{self.buckets.dimensions[axis.dimension].name}', and {before} has "
                        f"{known}; they are one dimension"
                    )
        return tuple(found[number][0] for number in range(len(self.buckets.dimensions)))

    def pieces(self, sizes: Sequence[int]) -> list[Piece]:
        """The runs that compute these sizes.

        Raises
        ------
        ArgumentValueError
            When a size is larger than the largest, or lies between two and may not.
        """
        cuts = [_cuts(one, size) for one, size in zip(self.buckets.dimensions, sizes, strict=True)]
        found = [Piece(0, (), (), ())]
        for one, parts in zip(self.buckets.dimensions, cuts, strict=True):
            found = [
                Piece(
                    piece.number * len(one.sizes) + place,
                    (*piece.sizes, one.sizes[place]),
                    (*piece.begin, begin),
                    (*piece.end, end),
                )
                for piece in found
                for place, begin, end in parts
            ]
        return found

    def whole(self, function: str, arrays: Sequence[Array]) -> int:
        """The program that has the very sizes of these arrays.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`sizes`, and when there is none.
        """
        sizes = self.sizes(arrays)
        for one, size in zip(self.buckets.dimensions, sizes, strict=True):
            if size not in one.sizes:
                raise ArgumentValueError(f"{function}: '{one.name}' is {size}; give one of the sizes {list(one.sizes)}")
        return self.buckets.number(
            [one.sizes.index(size) for one, size in zip(self.buckets.dimensions, sizes, strict=True)]
        )

    def results(self, names: Sequence[str], sizes: Sequence[int], pieces: Sequence[Piece]) -> list[Array]:
        """Arrays for outputs of these sizes."""
        return [np.empty(self._output_shape(name, sizes, pieces), self._outputs[name].dtype) for name in names]

    def check_results(
        self, names: Sequence[str], results: Sequence[Array], sizes: Sequence[int], pieces: Sequence[Piece]
    ) -> None:
        """Hold arrays of the caller's to the outputs of these sizes.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When one has another dtype or shape, or is read-only.
        """
        for name, result in zip(names, results, strict=True):
            dtype, shape = self._outputs[name].dtype, self._output_shape(name, sizes, pieces)
            if result.dtype != dtype:
                raise ArgumentTypeError(f"run: out for '{name}' must be {dtype}, got {result.dtype}")
            if result.shape != shape:
                raise ArgumentValueError(f"run: out for '{name}' must have shape {shape}, got {result.shape}")
            if not result.flags.writeable:
                raise ArgumentValueError(f"run: out for '{name}' is read-only; pass a writeable array")

    def _output_shape(self, name: str, sizes: Sequence[int], pieces: Sequence[Piece]) -> tuple[int, ...]:
        [shape] = {info.shape for info in self._variants[pieces[-1].number].outputs if info.name == name}
        found = list(shape)
        for axis in self.buckets.outputs.get(name, ()):
            found[axis.axis] = axis.size(sizes[axis.dimension])
        return tuple(found)

    def run(
        self,
        runners: Sequence[Runner],
        pieces: Sequence[Piece],
        arrays: Sequence[Array],
        targets: Sequence[Array | None],
    ) -> Runner:
        """Run the pieces on the runners of all sizes; arrays and targets in the order of the program, of the right
        shapes and dtypes. Gives the runner that was last, which tells what all of them have copied."""
        copied = 0
        if len(pieces) > 1:  # what one run writes, a later one may not read
            wanted_by = [target for target in targets if target is not None]
            kept = [
                array.copy() if any(np.may_share_memory(array, target) for target in wanted_by) else array
                for array in arrays
            ]
            copied = sum(array.nbytes for array, given in zip(kept, arrays, strict=True) if array is not given)
            arrays = kept
        for piece in pieces:
            runner = runners[piece.number]
            given = [self._given(piece, runner, name, array) for name, array in zip(self._inputs, arrays, strict=True)]
            wanted = [self._wanted(piece, name, target) for name, target in zip(self._outputs, targets, strict=True)]
            if runner.hosts or not runner.run_direct(given, wanted):
                runner.run_copying(given, wanted)
            copied += runner.core.border_bytes
            for (name, place), target, direct in zip(runner.outputs.items(), targets, wanted, strict=True):
                if target is not None and direct is None:
                    whole, own = piece.parts(self.buckets.outputs.get(name, ()), target.ndim)
                    target[whole] = place[own]
                    copied += place[own].nbytes
            copied += sum(
                array[piece.parts(axes, array.ndim)[0]].nbytes
                for name, array in zip(self._inputs, arrays, strict=True)
                if not piece.is_full(axes := self.buckets.inputs.get(name, ()))
            )
        runner.core.border_bytes = copied
        return runner

    def _given(self, piece: Piece, runner: Runner, name: str, array: Array) -> Array:
        """The part of an input, filled up where it lies in the arena, if at all."""
        axes = self.buckets.inputs.get(name, ())
        whole, own = piece.parts(axes, array.ndim)
        if piece.is_full(axes):
            return array[whole]
        place = runner.inputs[name]
        place[...] = self.buckets.pads.get(name, 0)
        place[own] = array[whole]
        return place

    def _wanted(self, piece: Piece, name: str, target: Array | None) -> Array | None:
        """The part of an output that can be written where it belongs."""
        axes = self.buckets.outputs.get(name, ())
        if target is None or not piece.is_full(axes):
            return None
        part: Array = target[piece.parts(axes, target.ndim)[0]]
        return part if part.flags.c_contiguous else None


def _cuts(one: Dimension, size: int) -> list[tuple[int, int, int]]:
    """(place of the size that runs, begin, end) of each run."""
    largest = one.sizes[-1]
    if size < one.least:
        raise ArgumentValueError(f"run: '{one.name}' is {size}, and must be at least {one.least}")
    if size > largest and not one.rows:
        raise ArgumentValueError(
            f"run: '{one.name}' is {size}, and the program has the sizes {list(one.sizes)}; compile it for more"
        )
    if size not in one.sizes and not one.padded:
        raise ArgumentValueError(
            f"run: '{one.name}' is {size}, and the program has the sizes {list(one.sizes)} alone, as what fills up "
            "would be seen; compile it for this size, too"
        )
    whole = [(len(one.sizes) - 1, begin, begin + largest) for begin in range(0, size - largest + 1, largest)]
    begin = whole[-1][2] if whole else 0
    return whole if begin == size else [*whole, (bisect_left(one.sizes, size - begin), begin, size)]
