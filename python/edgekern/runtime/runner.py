"""Arena: memory for one run at a time, and Runner: the steps of a program in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arrays import report_copy
from edgekern.runtime.host import HostRunner
from edgekern.runtime.profile import WARM_UP, Profile, profiled

if TYPE_CHECKING:
    from edgekern.artifact import Program, TensorInfo
    from edgekern.runtime.measured_paths import Choice

Array = npt.NDArray[Any]
Given = Callable[[int], "Array | None"]  # what is to stand in a tensor, as it is stored
_BY_RULE: Mapping[int, Sequence[Choice]] = MappingProxyType({})


class Runner:
    """A program with an arena and its host steps; one caller at a time.

    Parameters
    ----------
    program, isa, num_threads, timeout_s : as of :class:`~edgekern.runtime.InferenceSession`, checked
    choices : how each step runs, where not by rule
    arena_of : another one over the same weights, whose arena is as large; one of the two runs at a time
    weights_of : one with an arena of its own, which has the same weights widened
    """

    def __init__(
        self,
        program: Program,
        isa: str,
        num_threads: int,
        timeout_s: float | None,
        *,
        choices: Sequence[Choice] = (),
        arena_of: Runner | None = None,
        weights_of: Runner | None = None,
    ) -> None:
        self.program = program
        inputs, outputs = ([name for name, _ in side] for side in (program.manifest.inputs, program.manifest.outputs))
        arena, weights = (None if other is None else other.core for other in (arena_of, weights_of or arena_of))
        self.core: _core.Session = _core.Session(
            program.index, program.container.blobs.data, isa, num_threads, inputs, outputs, arena, weights, choices
        )
        self.hosts = [
            HostRunner(program, step, self.core, self.core.num_threads, timeout_s) for step in program.host_steps
        ]
        self.inputs = _places(program.inputs, program.manifest.inputs, self.core)
        self.outputs = _places(program.outputs, program.manifest.outputs, self.core)
        # Where runs begin: a RunTrace puts its clock around each.
        self.run_direct: Callable[[list[Array], list[Array | None]], bool] = self.core.run
        self.run_bound: Callable[[_core.BoundArrays], None] = self.core.run_bound
        self.clocked = False  # by a RunTrace

    def run_copying(self, arrays: list[Array], targets: list[Array | None]) -> list[int]:
        """:meth:`run`, where runs begin."""
        return self.run(arrays, targets)

    def after_fork(self) -> None:
        """Leave what belongs to threads of the parent process."""
        for host in self.hosts:
            host.after_fork()

    @property
    def paths(self) -> tuple[str, ...]:
        """The code that each kernel step runs."""
        return tuple(self.core.path(step) for step in range(len(self.program.steps)))

    def run(self, arrays: list[Array], targets: list[Array | None]) -> list[int]:
        """Copies everything in and out: for host steps, which read and write the arena, and for strided and unaligned
        arrays. Gives the nanoseconds of the host steps."""
        self._fill(arrays)
        took = [0] * len(self.hosts)
        for what, number in self.program.manifest.order:
            if what == "segment":
                self.core.run_segment(number)
                continue
            start = time.perf_counter_ns()
            self.hosts[number].run()
            took[number] = time.perf_counter_ns() - start
        copied = sum(
            place.nbytes for place, array in zip(self.inputs.values(), arrays, strict=True) if array is not place
        )
        for place, target in zip(self.outputs.values(), targets, strict=True):
            if target is not None:
                np.copyto(target, place)
                copied += target.nbytes
        self.core.border_bytes = copied
        return took

    def bind(self, arrays: list[Array], targets: list[Array | None]) -> Callable[[Runner], object]:
        """A run on arrays that are checked here, once: for this runner, those of the same program, and other modes."""
        bound = self.core.bind(arrays, targets)

        def run(runner: Runner) -> object:
            return runner.run_copying(arrays, targets) if runner.hosts else runner.run_bound(bound)

        return run

    def trace(self, arrays: list[Array], given: Given | None = None) -> Iterator[tuple[int, Array]]:
        """Run step by step: the number of each kernel step, and its result where it lies.

        What is ``given`` for a tensor, by its number, stands in it before each step that reads it.
        """
        segments, steps = self.program.index.segments, self.program.index.steps
        self._fill(arrays)
        for what, number in self.program.manifest.order:
            if what == "host":
                self._write(given, (tensor for _, tensor in self.program.host_steps[number].inputs))
                self.hosts[number].run()
                continue
            for step in range(segments[number].begin, segments[number].end):
                self._write(given, steps[step].inputs)
                self.core.run_step(step)
                yield step, self.core.tensor(steps[step].outputs[0])

    def _write(self, given: Given | None, tensors: Iterable[int]) -> None:
        if given is None:
            return
        for tensor in tensors:
            if (values := given(tensor)) is not None:
                np.copyto(self.core.tensor(tensor), values)

    def profile(self, arrays: list[Array], targets: list[Array | None], runs: int) -> Profile:
        """Run with a clock in every step."""
        times: list[tuple[int, list[int], list[int]]] = []
        try:
            clock = self.core.clock(True)
            assert clock is not None
            for _ in range(WARM_UP + runs):
                start = time.perf_counter_ns()
                direct = not self.hosts and self.core.run(arrays, targets)
                hosts = [] if direct else self.run(arrays, targets)
                times.append((time.perf_counter_ns() - start, clock.tolist(), hosts))
        finally:
            self.core.clock(self.clocked)
        whole, steps, hosts_of = (np.array(part, np.float64) / 1e3 for part in zip(*times[WARM_UP:], strict=True))
        return profiled(self.program, self.paths, self.core.isa, self.core.num_threads, whole, steps, hosts_of)

    def report_copies(self, function: str, arrays: list[Array], targets: list[Array | None]) -> None:
        """Warn of arrays that cannot be read and written where they lie."""
        inputs, outputs = zip(self.inputs, arrays, strict=True), zip(self.outputs, targets, strict=True)
        for what, pairs in (("input", inputs), ("out for", outputs)):
            for name, array in pairs:
                if array is not None and not (array.flags.c_contiguous and array.flags.aligned):
                    report_copy(function, f"{what} {name!r}", array)

    def _fill(self, arrays: Sequence[Array]) -> None:
        for place, array in zip(self.inputs.values(), arrays, strict=True):
            if array is not place:  # which is filled already
                np.copyto(place, array)


class Arena:
    """What one caller at a time runs in.

    Parameters
    ----------
    program, isa, num_threads, timeout_s : as of :class:`Runner`
    choices : how each step runs, where not by rule, by the number of the program in the file
    weights_of : another one of the same program

    Attributes
    ----------
    runners : of all sizes of all modes that the program has, as the file numbers them
    modes : those of each mode
    """

    def __init__(
        self,
        program: Program,
        isa: str,
        num_threads: int,
        timeout_s: float | None,
        *,
        choices: Mapping[int, Sequence[Choice]] = _BY_RULE,
        weights_of: Arena | None = None,
    ) -> None:
        every = program.all
        largest = max(range(len(every)), key=lambda number: every[number].index.arena_bytes)
        other = None if weights_of is None else weights_of.runners[0]

        def runner(number: int, arena_of: Runner | None) -> Runner:
            return Runner(
                every[number],
                isa,
                num_threads,
                timeout_s,
                choices=choices.get(number, ()),
                arena_of=arena_of,
                weights_of=other,
            )

        first = runner(largest, None)
        self.runners: tuple[Runner, ...] = tuple(
            first if number == largest else runner(number, first) for number in range(len(every))
        )
        sizes = len(program.variants)
        self.modes = tuple(self.runners[at : at + sizes] for at in range(0, len(every), sizes))

    @property
    def nbytes(self) -> int:
        return sum(int(runner.core.arena_bytes) for runner in self.runners)

    def after_fork(self) -> None:
        """Leave what belongs to threads of the parent process."""
        for runner in self.runners:
            runner.after_fork()


def _places(infos: Sequence[TensorInfo], numbers: Sequence[tuple[str, int]], core: _core.Session) -> dict[str, Array]:
    """Where inputs or outputs lie in the arena."""
    return {info.name: core.tensor(number) for info, (_, number) in zip(infos, numbers, strict=True)}
