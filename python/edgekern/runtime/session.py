"""InferenceSession: a program with its arena and threads."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arguments import flag, isa_name
from edgekern._arrays import Lent
from edgekern.artifact import Program
from edgekern.artifact.container import Verify
from edgekern.errors import ArgumentValueError
from edgekern.runtime.border import Feeds, ordered, targets_of, wanted_names
from edgekern.runtime.buckets import Sized
from edgekern.runtime.host import HOST_TIMEOUT_S, host_timeout, refuse_host_steps
from edgekern.runtime.interface import OnnxruntimeMethods, opened
from edgekern.runtime.options import RunOptions, SessionOptions, check_run_options, num_threads_of
from edgekern.runtime.profile import Profile, positive
from edgekern.runtime.providers import Providers, check_providers
from edgekern.runtime.run_trace import RunTrace
from edgekern.runtime.runner import Arena, Runner

Array = npt.NDArray[Any]

_MOST_THREADS = 1024  # the pool's, which any larger number means


class InferenceSession(OnnxruntimeMethods):
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
    The arena is allocated here, once. ``run`` allocates only the arrays that it returns, and none with ``out``; host
    steps make their own. What a program quantizes, dequantizes or transposes at its border (images, nearly always) goes
    straight from the caller's arrays into the arena and back; what kernels read or write themselves, and all of a
    program with host steps, is copied. So are strided and unaligned arrays, with an EdgekernWarning. The GIL is
    released meanwhile. Of two callers of one session the second waits.

    A pickle, and a deep copy, opens the program anew with the same ``num_threads`` and ``isa``, in an arena of its own;
    the program travels whole and every byte is checked where it arrives.
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
    ) -> None:
        if not isinstance(verify, str) or verify not in ("full", "lazy"):
            raise ArgumentValueError(f"InferenceSession: verify must be 'full' or 'lazy', got {verify!r}")
        start_ns = time.monotonic_ns()
        self._session_options = options = SessionOptions.of(sess_options)
        check_providers("InferenceSession", providers, provider_options)
        threads = min(num_threads_of(options, num_threads), _MOST_THREADS)
        self._options: dict[str, Any] = {"sess_options": options, "num_threads": num_threads, "isa": isa}
        self._options |= {"allow_host": allow_host, "host_timeout_s": host_timeout_s}
        isa = isa_name("InferenceSession", isa)
        allow_host = flag("InferenceSession", "allow_host", allow_host)
        timeout_s = host_timeout(host_timeout_s)
        self._run_trace = RunTrace(options.profile_file_prefix, start_ns) if options.enable_profiling else None
        self._program = program = opened(path_or_bytes, verify)
        if not allow_host:
            refuse_host_steps(program, "InferenceSession")
        options.check_sizes(program)
        self._arena = Arena(program, isa, threads, timeout_s)
        self._runner = self._ran = self._arena.runners[0]
        self._sized = None if program.buckets is None else Sized(program, program.buckets)
        self._lock = threading.Lock()
        if self._run_trace is not None:
            for runner in self._arena.runners:
                self._run_trace.watch(runner)
            weakref.finalize(self, self._run_trace.finish)
        _sessions.add(self)

    def _after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._lock = threading.Lock()
        self._arena.after_fork()
        if self._run_trace is not None:
            self._run_trace.leave()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Feeds,
        run_options: RunOptions | None = None,
        *,
        out: Sequence[Lent] | None = None,
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
        names = list(self._runner.outputs) if output_names is None else self._wanted(output_names)
        arrays = self._ordered(input_feed)
        if self._sized is not None:
            return self._run_sized(self._sized, names, arrays, out)
        if out is None:
            results: list[Array] = [np.empty_like(self._runner.outputs[name]) for name in names]
        else:
            results = targets_of(out, names)
        returned: list[Any] = results if out is None else list(out)
        if output_names is None:
            self._run(arrays, list(results))
            return returned
        result_of = dict(zip(names, results, strict=True))
        targets: list[Array | None] = list(map(result_of.get, self._runner.outputs))
        if len(result_of) < len(results):  # a name is asked for twice
            for name, result in zip(names, results, strict=True):
                self._runner.core.check(arrays, [result if name == other else None for other in self._runner.outputs])
        self._run(arrays, targets)
        self._repeat(names, results, result_of)
        return returned

    def _repeat(self, names: Sequence[str], results: Sequence[Array], result_of: Mapping[str, Array]) -> None:
        """Where a name is asked for twice."""
        if len(result_of) == len(results):
            return
        for name, result in zip(names, results, strict=True):
            if result is not result_of[name]:
                np.copyto(result, result_of[name])
                self._ran.core.border_bytes += result.nbytes

    def _run_sized(
        self, sized: Sized, names: Sequence[str], arrays: list[Array], out: Sequence[Lent] | None
    ) -> list[Any]:
        sizes = sized.sizes(arrays)
        pieces = sized.pieces(sizes)
        results = sized.results(names, sizes, pieces) if out is None else targets_of(out, names)
        if out is not None:
            sized.check_results(names, results, sizes, pieces)
        result_of = dict(zip(names, results, strict=True))
        targets = [result_of.get(name) for name in self._runner.outputs]
        self._runner.report_copies("run", arrays, targets)
        with self._lock:
            self._ran = sized.run(self._arena, pieces, arrays, targets)
        self._repeat(names, results, result_of)
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

    def trace(self, feeds: Feeds) -> Iterator[tuple[int, Array]]:
        """Run step by step.

        Yields
        ------
        (number of the step, its result in the arena as it is stored)
            The array is a view that later steps may overwrite. The session is locked until the last step is taken.
            Of several sizes it takes the smallest.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`run`, at the call.
        """
        arrays = self._ordered(feeds)
        nothing: list[Array | None] = [None] * len(self._runner.outputs)
        self._runner.core.check(arrays, nothing)
        self._runner.report_copies("trace", arrays, nothing)
        return self._trace(arrays)

    def _trace(self, arrays: list[Array]) -> Iterator[tuple[int, Array]]:
        with self._lock:
            yield from self._runner.trace(arrays)

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
        runner = self._runner if self._sized is None else self._arena.runners[self._sized.whole("profile", arrays)]
        targets: list[Array | None] = [np.empty_like(place) for place in runner.outputs.values()]
        runner.core.check(arrays, targets)
        runner.report_copies("profile", arrays, targets)
        with self._lock:
            return runner.profile(arrays, targets, runs)

    def summary(self) -> str:
        """The program's table, with the paths of this session."""
        return self._program.summary(isa=self.isa)

    @property
    def paths(self) -> tuple[str, ...]:
        """The code that each kernel step runs here; see :meth:`Program.paths`."""
        return self._runner.paths

    @property
    def program(self) -> Program:
        return self._program

    @property
    def arena_bytes(self) -> int:
        """All memory that the session owns: arena, scratch, accumulator starts."""
        return self._arena.nbytes

    @property
    def isa(self) -> str:
        return str(self._runner.core.isa)

    @property
    def num_threads(self) -> int:
        return int(self._runner.core.num_threads)

    def __repr__(self) -> str:
        return f"InferenceSession({self._program!r}, isa={self.isa!r}, num_threads={self.num_threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._program, self._options)

    def _wanted(self, output_names: Sequence[str]) -> list[str]:
        return wanted_names(output_names, self._runner.outputs)

    def _ordered(self, feeds: Feeds) -> list[Array]:
        """The arrays in the order of the program's inputs."""
        return ordered(feeds, self._runner.inputs)

    def _run(self, arrays: list[Array], targets: list[Array | None]) -> None:
        runner = self._runner
        if not runner.hosts:
            with self._lock:
                if runner.run_direct(arrays, targets):
                    return
        runner.core.check(arrays, targets)
        runner.report_copies("run", arrays, targets)
        with self._lock:
            runner.run_copying(arrays, targets)

    def _on_runner(self, number: int, call: Callable[[Runner], object]) -> None:
        """Call with the runner of a size, of an arena that nobody runs in."""
        with self._lock:
            self._ran = runner = self._arena.runners[number]
            call(runner)


_sessions: weakref.WeakSet[InferenceSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in _sessions:
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _reopen(program: Program, options: Mapping[str, Any]) -> InferenceSession:
    return InferenceSession(program, **options)
