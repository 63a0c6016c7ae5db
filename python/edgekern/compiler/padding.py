"""Whether what fills up an input is seen in the results: it is tried, where trying can tell.

A mask, a causal order, or rows that have nothing to do with each other leave every bit as a program of the exact size
computes it. Sums and means over a dimension, and scales of whole tensors, do not, whatever numbers come. The largest of
all may, by chance, and so may a sum that is rounded to 8 bits: what they gather over a dimension is not tried but asked
for (``insisted``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._core import DType, StepKind, TensorDef
from edgekern.artifact import Program, TensorInfo
from edgekern.artifact.axes import axes_of, follow
from edgekern.artifact.buckets import Axis, Buckets
from edgekern.compiler.draws import draws, feeds_of
from edgekern.compiler.floats.reductions import MAX, MIN
from edgekern.errors import EdgekernError
from edgekern.runtime import InferenceSession

Array = npt.NDArray[Any]
Exact = Callable[[Sequence[int]], Program]

_MOST_TRIED = 4  # sizes of a dimension
_MOVES = frozenset({StepKind.SLICE, StepKind.PICK, StepKind.CONCAT, StepKind.PAD, StepKind.TRANSPOSE, StepKind.PERMUTE})
_MOVES |= {StepKind.GATHER, StepKind.GATHER_ELEMENTS, StepKind.GATHER_ND, StepKind.CONSTANT}
_ORDER = frozenset({StepKind.ARG_EXTREME, StepKind.MAX_POOL, StepKind.POOL_F32})


def try_padding(program: Program, exact: Exact, *, insisted: bool) -> tuple[Buckets, dict[str, str]]:
    """Run sizes between those of ``program`` beside programs for them.

    Parameters
    ----------
    program : whose buckets say which dimensions may be padded, and what may be rows
    exact : compiles the program of one size
    insisted : whether the caller says that the model hides what fills up; results are compared all the same

    Returns
    -------
    (the buckets as far as they hold, why not, by the name of the dimension)
    """
    trial = _Trial(program, exact, insisted=insisted)
    reasons: dict[str, str] = {}
    for number, one in enumerate(trial.buckets.dimensions):
        if not one.padded:
            continue
        trial.find_least(number)
        reason = trial.gathered(number) or trial.seen(number)
        if reason is not None:
            reasons[one.name] = reason
            trial.change(number, padded=False, rows=False, least=1)
        elif trial.buckets.dimensions[number].rows and trial.seen_in_cuts(number):
            trial.change(number, rows=False)
    if (reason := trial.seen_together()) is not None:
        for number, one in enumerate(trial.buckets.dimensions):
            if one.padded:
                reasons[one.name] = reason
                trial.change(number, padded=False, rows=False, least=1)
    return trial.buckets, reasons


class _Trial:
    def __init__(self, program: Program, exact: Exact, *, insisted: bool) -> None:
        assert program.buckets is not None
        self.buckets, self._program, self._exact, self._insisted = program.buckets, program, exact, insisted
        self._session = InferenceSession(program)
        self._last: tuple[tuple[int, ...], Program] | None = None  # each holds all weights
        self._layers = None if insisted else _layers(program, self.buckets)

    def change(self, number: int, **fields: Any) -> None:
        dimensions = list(self.buckets.dimensions)
        dimensions[number] = replace(dimensions[number], **fields)
        self.buckets = replace(self.buckets, dimensions=tuple(dimensions))

    def gathered(self, number: int) -> str | None:
        """What gathers over a dimension and does not show all that it gathers."""
        if self._insisted:
            return None
        steps = [one.index.steps for one in self._program.variants]
        tensors = [one.index.tensors for one in self._program.variants]
        for at, step in enumerate(steps[0]):
            if any(len(each) <= at for each in steps) or not step.inputs:
                continue
            given = follow(self.buckets, [_size(t, each[at].inputs[0]) for t, each in zip(tensors, steps, strict=True)])
            got = follow(self.buckets, [_size(t, each[at].outputs[0]) for t, each in zip(tensors, steps, strict=True)])
            codes = tensors[0][step.inputs[0]].dtype in (DType.U8, DType.S8) and step.kind not in _MOVES
            largest = step.kind == StepKind.REDUCE and step.arguments["op"] in (MAX, MIN)
            if number in given - got and (codes or largest or step.kind in _ORDER):
                what = "adds 8 bits of" if codes and step.kind not in _ORDER else "takes the largest of"
                return f"'{step.name}' ({step.op}) {what} all, which a trial may not show; if a mask hides it, give pad"
        return None

    def find_least(self, number: int) -> None:
        """The smallest size that the model allows, by halving. Where it is not 1, rows are not independent."""
        places = [axis for axes in self.buckets.outputs.values() for axis in axes if axis.dimension == number]
        low = max([1, *(-(axis.start // axis.step) for axis in places)])  # below, an output has less than nothing
        high = self.buckets.dimensions[number].sizes[0]
        if low < high and not self._allows(number, low):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._allows(number, middle) else (middle, high)
            low = high
        least = min(low, high)
        self.change(number, least=least, rows=self.buckets.dimensions[number].rows and least == 1)

    def _allows(self, number: int, size: int) -> bool:
        try:
            self._of(self._others(number, size, 0))
        except EdgekernError:
            return False
        return True

    def seen(self, number: int) -> str | None:
        """What tells that something between two sizes is not as it should be, or None."""
        one = self.buckets.dimensions[number]
        between = _between(one.sizes, one.least)
        few = between if len(between) < 3 else [between[0], between[-1]]
        return self._compared([self._others(number, size, 0) for size in between]) or self._compared(
            [self._others(number, size, -1) for size in few] if len(self.buckets.dimensions) > 1 else []
        )

    def seen_in_cuts(self, number: int) -> str | None:
        """The same of more rows than the largest size has."""
        largest = self.buckets.dimensions[number].sizes[-1]
        cuts = [self._others(number, size, place) for size in (largest + 1, 3 * largest) for place in (0, -1)]
        return self._compared(list(dict.fromkeys(cuts)))

    def seen_together(self) -> str | None:
        """The same where several dimensions are filled up at once."""
        between = [_between(one.sizes, one.least) for one in self.buckets.dimensions]
        if len(between) < 2 or not all(
            one.padded and found for one, found in zip(self.buckets.dimensions, between, strict=True)
        ):
            return None
        return self._compared([tuple(sizes[0] for sizes in between), tuple(sizes[-1] for sizes in between)])

    def _others(self, number: int, size: int, place: int) -> tuple[int, ...]:
        sizes = [one.sizes[place] for one in self.buckets.dimensions]
        return (*sizes[:number], size, *sizes[number + 1 :])

    def _of(self, sizes: tuple[int, ...]) -> Program:
        if self._last is None or self._last[0] != sizes:
            self._last = None
            self._last = sizes, self._exact(sizes)
        return self._last[1]

    def _compared(self, tried: Sequence[tuple[int, ...]]) -> str | None:
        told, evidence = "", 0
        for sizes in tried:
            try:
                session = InferenceSession(self._of(sizes))
                reaches = _reaches(session.program)
                for draw in draws(session.program.inputs, self.buckets, insisted=self._insisted):
                    feeds = feeds_of(session.program.inputs, draw, reaches, self.buckets)
                    wanted = session.run(None, feeds)
                    if not all(np.isfinite(y).all() for y in wanted if y.dtype.kind == "f"):
                        told = f"with {_shown(sizes)}, results are no finite numbers"
                        continue
                    evidence += 1
                    got = self._session.run(None, feeds)
                    for node, a, b in zip(session.get_outputs(), wanted, got, strict=True):
                        if a.shape != b.shape or a.tobytes() != b.tobytes():
                            return (
                                f"with {_shown(sizes)}, '{node.name}' is not what a program for it computes{draw.hint}"
                            )
                    if (layer := self._layer_seen(session, sizes, feeds)) is not None:
                        return f"with {_shown(sizes)}, '{layer}' is not what a program for it computes{draw.hint}"
            except EdgekernError as error:  # numbers that the model does not allow
                told = f"{_shown(sizes)} could not be tried: {error}"
        return None if evidence or not tried else told

    def _layer_seen(self, alone: InferenceSession, sizes: Sequence[int], feeds: dict[str, Array]) -> str | None:
        """A step whose result is another where nothing is filled up: before an output rounds it away."""
        choice = self._session.choose(feeds)
        if self._layers is None or len(choice) > 1:
            return None
        number = self.buckets.number([one.sizes.index(choice[0][one.name]) for one in self.buckets.dimensions])
        one = self._program.variants[number]
        steps = one.index.steps
        if [step.kind for step in steps] != [step.kind for step in alone.program.index.steps]:
            return None
        bare = InferenceSession(replace(one, manifest=replace(one.manifest, buckets=None, variants=()), others=()))
        filled = {info.name: self._filled(info, feeds[info.name]) for info in one.inputs}
        for (at, a), (_, b) in zip(alone.trace(feeds), bare.trace(filled), strict=True):
            axes = self._layers[at]
            if axes is None or a.ndim != b.ndim or any(axis.start > 0 for axis in axes):  # what is behind the places
                continue
            part = [slice(None)] * b.ndim
            for axis in axes:
                part[axis.axis] = slice(0, axis.size(sizes[axis.dimension]))
            if a.shape == b[tuple(part)].shape and a.tobytes() != b[tuple(part)].tobytes():
                return steps[at].name
        return None

    def _filled(self, info: TensorInfo, array: Array) -> Array:
        found = np.full(info.shape, self.buckets.pads.get(info.name, 0), info.dtype)
        found[tuple(slice(0, size) for size in array.shape)] = array
        return found


def _layers(program: Program, buckets: Buckets) -> list[tuple[Axis, ...] | None] | None:
    """Where the result of each step has the dimensions; None where the programs differ in their steps."""
    kinds = [[step.kind for step in one.index.steps] for one in program.variants]
    if any(each != kinds[0] for each in kinds):
        return None
    shapes = [[one.index.tensors[step.outputs[0]].shape for step in one.index.steps] for one in program.variants]
    return [axes_of(buckets, each) for each in zip(*shapes, strict=True)]


def _reaches(program: Program) -> dict[str, float]:
    """How large numbers are that an input is made for: what its 8 bits span, where it is quantized at once."""
    tensors, found = program.index.tensors, {}
    for name, number in program.manifest.inputs:
        for step in program.index.steps:
            result = tensors[step.outputs[0]]
            if number in step.inputs and result.dtype in (DType.U8, DType.S8) and result.scale > 0:
                found[name] = 64 * result.scale
    return found


def _between(sizes: Sequence[int], least: int) -> list[int]:
    """Sizes that are none of those given: behind each of them, where most is filled up, and one before the last."""
    found = {low + 1 for low, high in itertools.pairwise((least - 1, *sizes)) if high - low > 1}
    found |= {sizes[-1] - 1} - {*sizes, least - 1, 0}
    ascending = sorted(found)
    return ascending if len(ascending) <= _MOST_TRIED else [ascending[0], *ascending[1 - _MOST_TRIED :]]


def _size(tensors: Sequence[TensorDef], number: int) -> tuple[int]:
    """Its elements, as a shape."""
    return (int(np.prod(tensors[number].shape, dtype=np.int64)),)


def _shown(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
