"""InferenceSession: a program with its arena and threads."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import flag, isa_name
from edgekern._arrays import Lent
from edgekern.artifact import Program
from edgekern.artifact.container import Verify
from edgekern.errors import ArgumentValueError, ForkError
from edgekern.runtime.border import Feeds, ordered, targets_of, wanted_names
from edgekern.runtime.buckets import Sized
from edgekern.runtime.callers import Callback, Callers
from edgekern.runtime.host import HOST_TIMEOUT_S, host_timeout, refuse_host_steps
from edgekern.runtime.interface import OnnxruntimeMethods, opened
from edgekern.runtime.measured_paths import MeasuredPaths, choices_for
from edgekern.runtime.modes import Modes, mode_number
from edgekern.runtime.options import RunOptions, SessionOptions, check_run_options, num_threads_of
from edgekern.runtime.profile import Profile, positive
from edgekern.runtime.providers import Providers, check_providers
from edgekern.runtime.run_trace import RunTrace
from edgekern.runtime.runner import Arena, Given, Runner

Array = npt.NDArray[Any]

MOST_THREADS = 1024  # the pool's, which any larger number means
_MOST_ARENAS = 1024


class InferenceSession(OnnxruntimeMethods, Modes):
    """Runs a program; the interface is onnxruntime's.

    Parameters
    ----------
    path_or_bytes : path of an .ekm file, its bytes, or Program
    sess_options : SessionOptions, optional
        Those of onnxruntime: threads, profiling.
    providers : list of names, or of (name, dict), optional
        "CPUExecutionProvider" among them; others are skipped with an EdgekernWarning.
    provider_options : list of dict, optional
        One for each of ``providers``; without effect.
    num_threads : int, optional
        None is what ``sess_options`` say, or the package's setting; 1 stays on the caller's thread.
    isa : str, optional
        The instruction set to use, one of ``cpu_info()["available"]``; None is the best, or EDGEKERN_ISA.
    verify : "full" or "lazy"
        "lazy" leaves the hashes of the weights unchecked.
    allow_host : bool
        Whether onnxruntime may compute what has no kernel. False keeps onnxruntime away from the file: the choice for
        programs of strangers.
    host_timeout_s : float, optional
        Seconds that one run of one host step may take; None is no limit. Ctrl-C ends it at any time.
    arenas : int
        How many callers run at a time, each in memory of its own over the same weights. More of them wait, first come,
        first served. With several, ``num_threads=1`` leaves each its CPU.
    paths : MeasuredPaths or path of its file, optional
        Which code each step runs, as it was measured with this program, instruction set, number of threads and CPU
        (:func:`edgekern.runtime.measure_paths`); None goes by rule. The bits are the same. Of several sizes it is
        the smallest that is measured, of several modes one.
    mode : str, optional
        The precision to begin with, of a program that has several (:func:`edgekern.compile_modes`); None is the first.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value.
    ArtifactError
        When the file is truncated, altered, or of another version.
    MemoryBudgetError
        When the arena is larger than the memory that this process can have.
    UnsupportedIsaError
        When this CPU lacks ``isa``.
    HostStepError
        When the program has host steps and ``allow_host`` is False.
    EdgekernError
        When the program has host steps and onnxruntime is not installed.

    Notes
    -----
    The arenas are allocated here, once. ``run`` allocates only the arrays that it returns, and none with ``out``; host
    steps make their own. What a program quantizes, dequantizes or transposes at its border (images, nearly always) goes
    straight from the caller's arrays into the arena and back; what kernels read or write themselves, and all of a
    program with host steps, is copied. So are strided and unaligned arrays, with an EdgekernWarning. The GIL is
    released meanwhile.

    A pickle, and a deep copy, opens the program anew with the same ``num_threads``, ``isa`` and ``arenas``, in memory
    of its own, in the same mode and by rule; the program travels whole and every byte is checked where it arrives.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes | Program,
        sess_options: SessionOptions | None = None,
        providers: Providers | None = None,
        provider_options: Sequence[Mapping[Any, Any]] | None = None,
        *,
        num_threads: int | None = None,
        isa: str | None = None,
        verify: Verify = "full",
        allow_host: bool = True,
        host_timeout_s: float | None = HOST_TIMEOUT_S,
        arenas: int = 1,
        paths: MeasuredPaths | str | os.PathLike[str] | None = None,
        mode: str | None = None,
    ) -> None:
        if not isinstance(verify, str) or verify not in ("full", "lazy"):
            raise ArgumentValueError(f"InferenceSession: verify must be 'full' or 'lazy', got {verify!r}")
        start_ns = time.monotonic_ns()
        self._session_options = options = SessionOptions.of(sess_options)
        check_providers("InferenceSession", providers, provider_options)
        threads = min(num_threads_of(options, num_threads), MOST_THREADS)
        self._options: dict[str, Any] = {"sess_options": options, "num_threads": num_threads, "isa": isa}
        self._options |= {"allow_host": allow_host, "host_timeout_s": host_timeout_s, "arenas": arenas}
        isa = isa_name("InferenceSession", isa)
        allow_host = flag("InferenceSession", "allow_host", allow_host)
        timeout_s = host_timeout(host_timeout_s)
        positive("InferenceSession", "arenas", arenas)
        if arenas > _MOST_ARENAS:
            raise ArgumentValueError(f"InferenceSession: arenas must be at most {_MOST_ARENAS}, got {arenas}")
        self._run_trace = RunTrace(options.profile_file_prefix, start_ns) if options.enable_profiling else None
        self._program = program = opened(path_or_bytes, verify)
        if not allow_host:
            refuse_host_steps(program, "InferenceSession")
        options.check_sizes(program)
        self._mode = 0 if mode is None else mode_number("InferenceSession", program, mode)
        choices = choices_for(paths, program, isa, threads)
        first = Arena(program, isa, threads, timeout_s, choices=choices)
        more = range(1, arenas)
        others = (Arena(program, isa, threads, timeout_s, choices=choices, weights_of=first) for _ in more)
        self._arenas = (first, *others)
        self._lender = _core.Lender(self._arenas)
        self._firsts = tuple(runners[0] for runners in first.modes)
        self._runner = self._ran = self._firsts[self._mode]  # whose borders are those of all modes
        self._sized = None if program.buckets is None else Sized(program, program.buckets)
        self._callers = Callers(arenas)
        self._forks = 0
        if self._run_trace is not None:
            for arena in self._arenas:
                self._run_trace.watch(arena)
            weakref.finalize(self, self._run_trace.finish_at_last)
        _sessions.add(self)

    def _after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._forks += 1
        self._lender.after_fork()
        self._callers.after_fork()
        for arena in self._arenas:
            arena.after_fork()
        if self._run_trace is not None:
            self._run_trace.leave()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Feeds,
        run_options: RunOptions | None = None,
        *,
        out: Sequence[Lent] | None = None,
        mode: str | None = None,
    ) -> list[Array]:
        """Compute outputs from inputs.

        Parameters
        ----------
        output_names : names of the outputs wanted, in the order wanted; None, or no name, is all of them
        input_feed : an array per input name, of the very dtype and shape that :meth:`get_inputs` states: NumPy's, or of
            whichever library lends its memory (torch on the CPU, DLPack, ``__array__``, the buffer protocol)
        run_options : RunOptions, optional
        out : arrays of the same kinds to write, one for each output wanted, of the dtype and shape that
            :meth:`get_outputs` states; None makes new ones
        mode : the precision of this run; None is :attr:`mode`

        Returns
        -------
        list of arrays, those of ``out`` where they are given

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When a name is unknown or missing, or an array has another dtype or shape; nothing is written then. Or
            when an index among the values leaves its axis: what ``out`` holds is then no result.
        HostTimeoutError
            When a host step takes longer than ``host_timeout_s``.
        RunTerminatedError
            When ``run_options.terminate`` is set.
        """
        if run_options is not None:
            check_run_options("run", run_options)
        number = self._mode if mode is None else mode_number("run", self._program, mode)
        names = list(self._runner.outputs) if output_names is None else self._wanted(output_names)
        arrays = self._ordered(input_feed)
        if self._sized is not None:
            return self._run_sized(number, self._sized, names, arrays, out)
        if out is None:
            results: list[Array] = [np.empty_like(self._runner.outputs[name]) for name in names]
        else:
            results = targets_of(out, names)
        returned: list[Any] = results if out is None else list(out)
        if output_names is None:
            self._run(number, arrays, list(results))
            return returned
        result_of = dict(zip(names, results, strict=True))
        targets: list[Array | None] = list(map(result_of.get, self._runner.outputs))
        if len(result_of) < len(results):  # a name is asked for twice
            for name, result in zip(names, results, strict=True):
                self._runner.core.check(arrays, [result if name == other else None for other in self._runner.outputs])
        _repeat(self._run(number, arrays, targets), names, results, result_of)
        return returned

    def _run_sized(
        self, mode: int, sized: Sized, names: Sequence[str], arrays: list[Array], out: Sequence[Lent] | None
    ) -> list[Any]:
        sizes = sized.sizes(arrays)
        pieces = sized.pieces(sizes)
        results = sized.results(names, sizes, pieces) if out is None else targets_of(out, names)
        if out is not None:
            sized.check_results(names, results, sizes, pieces)
        result_of = dict(zip(names, results, strict=True))
        targets = [result_of.get(name) for name in self._runner.outputs]
        self._runner.report_copies("run", arrays, targets)
        with self._lender.lend() as arena:
            self._ran = ran = sized.run(arena.modes[mode], pieces, arrays, targets)
        _repeat(ran, names, results, result_of)
        return results if out is None else list(out)

    def choose(self, feeds: Feeds) -> list[dict[str, int]]:
        """The sizes of the programs that :meth:`run` would run on ``feeds``, by dimension, one for each run.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`run`.
        """
        arrays = self._ordered(feeds)
        if self._sized is None:
            self._runner.core.check(arrays, [None] * len(self._runner.outputs))
            return [{}]
        pieces = self._sized.pieces(self._sized.sizes(arrays))
        dimensions = self._sized.buckets.dimensions
        return [{one.name: size for one, size in zip(dimensions, piece.sizes, strict=True)} for piece in pieces]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Feeds,
        callback: Callback | None = None,
        user_data: object = None,
        run_options: RunOptions | None = None,
        *,
        out: Sequence[Lent] | None = None,
        mode: str | None = None,
    ) -> Future[list[Array]]:
        """Do :meth:`run` on a thread of the session's own, of which it has one an arena.

        Parameters
        ----------
        output_names, input_feed, run_options, out, mode : as of :meth:`run`. The arrays are read and written when their
            turn comes: until the future is done the caller leaves them alone. The mode is that of now
        callback : function of (results, ``user_data``, error), optional
            onnxruntime's: called when the run has ended, on the session's thread, before the future is done. ``error``
            is the text of what :meth:`run` raised, and the results are then an empty list; else it is ``""``.
        user_data : what the callback gets

        Returns
        -------
        concurrent.futures.Future
            Of what :meth:`run` returns or raises. One that still waits can be cancelled.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When a name is unknown or missing, something is no array, or ``callback`` no function. All else that
            :meth:`run` raises is in the future.
        """
        names = None if output_names is None else self._wanted(output_names)
        arrays = dict(zip(self._runner.inputs, self._ordered(input_feed), strict=True))
        if mode is not None:
            mode_number("run_async", self._program, mode)
        call = partial(self.run, names, arrays, run_options, out=out, mode=mode or self.mode)
        return self._callers.submit(call, callback, user_data)

    def trace(self, feeds: Feeds, *, given: Given | None = None) -> Iterator[tuple[int, Array]]:
        """Run step by step.

        Parameters
        ----------
        feeds : as of :meth:`run`
        given : function, optional
            Asked before each step for every tensor that it reads, by its number: the array that shall stand there, of
            the dtype and shape in which it is stored, or None for what the steps before have made of it.

        Yields
        ------
        (number of the step, its result in the arena as it is stored)
            The array is a view that later steps may overwrite. An arena is taken until the last step is, or the
            iterator is closed or dropped; with one arena, other callers wait meanwhile. Of several sizes it takes the
            smallest.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`run`, at the call.
        ForkError
            When this process was forked since: the arena is others' now.
        """
        arrays = self._ordered(feeds)
        nothing: list[Array | None] = [None] * len(self._runner.outputs)
        self._runner.core.check(arrays, nothing)
        self._runner.report_copies("trace", arrays, nothing)
        return self._trace(self._mode, arrays, given)

    def _trace(self, mode: int, arrays: list[Array], given: Given | None) -> Iterator[tuple[int, Array]]:
        forks = self._forks
        with self._lender.lend() as arena:
            for step in arena.modes[mode][0].trace(arrays, given):
                yield step
                if self._forks != forks:
                    raise ForkError("trace: this process was forked between two steps; call trace again")

    def profile(self, feeds: Feeds, *, runs: int = 100) -> Profile:
        """Time every step of some runs.

        Reading the clock takes some 30 ns a step; :meth:`run` reads none.

        Parameters
        ----------
        feeds : as of :meth:`run`
        runs : how many are timed, behind a few that are not

        Returns
        -------
        Profile
            Percentiles, shares, multiply-adds a second beside the machine's peak, and what the time goes to.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`run`, when ``runs`` is not a positive integer, and when a dimension of several sizes has none of
            them.
        """
        positive("profile", "runs", runs)
        arrays = self._ordered(feeds)
        mode, number = self._mode, 0 if self._sized is None else self._sized.whole("profile", arrays)
        runner = self._arenas[0].modes[mode][number]
        targets: list[Array | None] = [np.empty_like(place) for place in runner.outputs.values()]
        runner.core.check(arrays, targets)
        runner.report_copies("profile", arrays, targets)
        with self._lender.lend() as arena:
            return arena.modes[mode][number].profile(arrays, targets, runs)

    def summary(self) -> str:
        """The program's table, with the paths of this session."""
        return self.program_of_mode.summary(isa=self.isa)

    @property
    def paths(self) -> tuple[str, ...]:
        """The code that each kernel step runs here; see :meth:`Program.paths`."""
        return self._runner.paths

    @property
    def program(self) -> Program:
        return self._program

    @property
    def arena_bytes(self) -> int:
        """All memory that the session owns: arenas, scratch, accumulator starts."""
        return sum(arena.nbytes for arena in self._arenas)

    @property
    def isa(self) -> str:
        return str(self._runner.core.isa)

    @property
    def num_threads(self) -> int:
        return int(self._runner.core.num_threads)

    @property
    def num_arenas(self) -> int:
        return len(self._arenas)

    def __repr__(self) -> str:
        return f"InferenceSession({self._program!r}, isa={self.isa!r}, num_threads={self.num_threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._program, {**self._options, "mode": self.mode})

    def _wanted(self, output_names: Sequence[str]) -> list[str]:
        return wanted_names(output_names, self._runner.outputs)

    def _ordered(self, feeds: Feeds) -> list[Array]:
        """The arrays in the order of the program's inputs."""
        return ordered(feeds, self._runner.inputs)

    def _run(self, mode: int, arrays: list[Array], targets: list[Array | None]) -> Runner:
        if not self._firsts[mode].hosts:
            with self._lender.lend() as arena:
                self._ran = runner = arena.modes[mode][0]
                if runner.run_direct(arrays, targets):
                    return runner
        self._runner.core.check(arrays, targets)
        self._runner.report_copies("run", arrays, targets)
        with self._lender.lend() as arena:
            self._ran = runner = arena.modes[mode][0]
            runner.run_copying(arrays, targets)
        return runner

    def _on_runner(self, size: int, call: Callable[[Runner], object]) -> None:
        """Call with the runner of a size, of an arena that nobody runs in, in the mode of now."""
        mode = self._mode
        with self._lender.lend() as arena:
            self._ran = runner = arena.modes[mode][size]
            call(runner)


_sessions: weakref.WeakSet[InferenceSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in _sessions:
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _reopen(program: Program, options: Mapping[str, Any]) -> InferenceSession:
    return InferenceSession(program, **options)


def _repeat(ran: Runner, names: Sequence[str], results: Sequence[Array], result_of: Mapping[str, Array]) -> None:
    """Write what is asked for twice a second time."""
    if len(result_of) == len(results):
        return
    for name, result in zip(names, results, strict=True):
        if result is not result_of[name]:
            np.copyto(result, result_of[name])
            ran.core.border_bytes += result.nbytes
