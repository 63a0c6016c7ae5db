"""InferenceSession: a program with its arena and threads."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arguments import flag, isa_name
from edgekern._arrays import Lent, as_array, unnamed, written_array
from edgekern.artifact import Program, TensorInfo
from edgekern.artifact.container import Verify
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.element_types import tensor_type
from edgekern.runtime.host import HOST_TIMEOUT_S, host_timeout, refuse_host_steps
from edgekern.runtime.interface import OnnxruntimeMethods, opened
from edgekern.runtime.options import RunOptions, SessionOptions, check_run_options, num_threads_of
from edgekern.runtime.profile import Profile, positive
from edgekern.runtime.providers import Providers, check_providers
from edgekern.runtime.run_trace import RunTrace
from edgekern.runtime.runner import Arena, Runner

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]

_MOST_THREADS = 1024  # the pool's, which any larger number means


@dataclass(frozen=True)
class NodeArg:
    """An input or output as onnxruntime describes it: ``name``, ``shape``, ``type`` such as "tensor(float)".

    8 bits stand for ``(code - zero_point) * scale``: 1 and 0 where they are numbers themselves, None of other types.
    """

    name: str
    shape: list[int]
    type: str
    scale: float | None = None
    zero_point: int | None = None


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
        options.check_shapes({info.name: info.shape for info in program.inputs})
        self._arena = Arena(program, isa, threads, timeout_s)
        self._runner = self._arena.runners[0]
        self._lock = threading.Lock()
        if self._run_trace is not None:
            self._run_trace.watch(self._runner)
            weakref.finalize(self, self._run_trace.finish)
        _sessions.add(self)

    def _after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._lock = threading.Lock()
        self._arena.after_fork()
        if self._run_trace is not None:
            self._run_trace.leave()

    def get_inputs(self) -> list[NodeArg]:
        """What :meth:`run` wants."""
        return [_node_arg(info) for info in self._program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What :meth:`run` gives."""
        return [_node_arg(info) for info in self._program.outputs]

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
        if out is None:
            results: list[Array] = [np.empty_like(self._runner.outputs[name]) for name in names]
        else:
            results = _given(out, names)
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
        if len(result_of) < len(results):
            for name, result in zip(names, results, strict=True):
                if result is not result_of[name]:
                    np.copyto(result, result_of[name])
                    self._runner.core.border_bytes += result.nbytes
        return returned

    def trace(self, feeds: Feeds) -> Iterator[tuple[int, Array]]:
        """Run step by step.

        Yields
        ------
        (number of the step, its result in the arena as it is stored)
            The array is a view that later steps may overwrite. The session is locked until the last step is taken.

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
            As :meth:`run`, and when ``runs`` is not a positive integer.
        """
        positive("profile", "runs", runs)
        arrays = self._ordered(feeds)
        targets: list[Array | None] = [np.empty_like(place) for place in self._runner.outputs.values()]
        self._runner.core.check(arrays, targets)
        self._runner.report_copies("profile", arrays, targets)
        with self._lock:
            return self._runner.profile(arrays, targets, runs)

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
        return int(self._runner.core.arena_bytes)

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
        if isinstance(output_names, str):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got the string {output_names!r}")
        if not isinstance(output_names, Iterable):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(output_names).__name__}")
        for name in (output_names := list(output_names) or list(self._runner.outputs)):
            if not isinstance(name, str):
                raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(name).__name__} in it")
            if name not in self._runner.outputs:
                raise ArgumentValueError(
                    f"run: there is no output {name!r}; the outputs are {list(self._runner.outputs)}"
                )
        return output_names

    def _ordered(self, feeds: Feeds) -> list[Array]:
        """The arrays in the order of the program's inputs."""
        if type(feeds) is not dict or feeds.keys() != self._runner.inputs.keys():
            self._check_names(feeds)
        return [
            given if type(given := feeds[name]) is np.ndarray else as_array("run", f"input {name!r}", given)
            for name in self._runner.inputs
        ]

    def _check_names(self, feeds: Feeds) -> None:
        if not isinstance(feeds, Mapping):
            raise unnamed("run", "input_feed", feeds, list(self._runner.inputs))
        for name in feeds:
            if name not in self._runner.inputs:
                raise ArgumentValueError(f"run: there is no input {name!r}; the inputs are {list(self._runner.inputs)}")
        for name in self._runner.inputs:
            if name not in feeds:
                raise ArgumentValueError(
                    f"run: input_feed lacks the input {name!r}; the inputs are {list(self._runner.inputs)}"
                )

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

    def _on_runner(self, call: Callable[[Runner], object]) -> None:
        with self._lock:
            call(self._runner)


_sessions: weakref.WeakSet[InferenceSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in _sessions:
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _reopen(program: Program, options: Mapping[str, Any]) -> InferenceSession:
    return InferenceSession(program, **options)


def _given(out: Sequence[Lent], names: Sequence[str]) -> list[Array]:
    """Where to write: an array, or a view of one of another library, for each name."""
    if not isinstance(out, (list, tuple)) or len(out) != len(names):
        count = len(out) if isinstance(out, (list, tuple)) else type(out).__name__
        raise ArgumentTypeError(f"run: out must be a list of {len(names)} arrays, one for each output, got {count}")
    return [written_array("run", f"out for {name!r}", array) for name, array in zip(names, out, strict=True)]


def _node_arg(info: TensorInfo) -> NodeArg:
    return NodeArg(info.name, list(info.shape), tensor_type(info.dtype), info.scale, info.zero_point)
