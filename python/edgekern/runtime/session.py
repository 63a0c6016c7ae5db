"""InferenceSession: a program with its arena and threads."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import file_path, flag, isa_name, thread_count
from edgekern._arrays import Lent, as_array, report_copy, unnamed, written_array
from edgekern.artifact import Program, TensorInfo
from edgekern.artifact.container import Verify
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.host import HOST_TIMEOUT_S, HostRunner, host_timeout, refuse_host_steps
from edgekern.runtime.measured_paths import MeasuredPaths, choices_for
from edgekern.runtime.profile import WARM_UP, Profile, positive, profiled

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]

_MOST_THREADS = 1024  # the pool's, which any larger number means
_TYPES = {"float32": "float", "float64": "double"}


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


class InferenceSession:
    """Runs a program; the interface is onnxruntime's.

    Parameters
    ----------
    model : path of an .ekm file, its bytes, or Program
    num_threads : int, optional
        None is the package's setting; 1 stays on the caller's thread.
    isa : str, optional
        The instruction set to use, one of ``cpu_info()["available"]``; None is the best, or EDGEKERN_ISA.
    verify : "full" or "lazy"
        "lazy" leaves the hashes of the weights unchecked.
    allow_host : bool
        Whether onnxruntime may compute what has no kernel. False keeps onnxruntime away from the file: the choice for
        programs of strangers.
    host_timeout_s : float, optional
        Seconds that one run of one host step may take; None is no limit. Ctrl-C ends it at any time.
    paths : MeasuredPaths or path of its file, optional
        Which code each step runs, as it was measured with this program, instruction set, number of threads and CPU
        (:func:`edgekern.runtime.measure_paths`); None goes by rule. The bits are the same.

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

    A pickle, and a deep copy, opens the program anew with the same ``num_threads`` and ``isa``, in an arena of its own
    and by rule; the program travels whole and every byte is checked where it arrives.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | Program,
        *,
        num_threads: int | None = None,
        isa: str | None = None,
        verify: Verify = "full",
        allow_host: bool = True,
        host_timeout_s: float | None = HOST_TIMEOUT_S,
        paths: MeasuredPaths | str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(verify, str) or verify not in ("full", "lazy"):
            raise ArgumentValueError(f"InferenceSession: verify must be 'full' or 'lazy', got {verify!r}")
        self._options: dict[str, Any] = {"num_threads": num_threads, "isa": isa}
        self._options |= {"allow_host": allow_host, "host_timeout_s": host_timeout_s}
        isa = isa_name("InferenceSession", isa)
        threads = min(thread_count("InferenceSession", num_threads), _MOST_THREADS)
        allow_host = flag("InferenceSession", "allow_host", allow_host)
        timeout_s = host_timeout(host_timeout_s)
        if not isinstance(model, Program):
            if not isinstance(model, (str, os.PathLike, bytes)):
                raise ArgumentTypeError(
                    f"InferenceSession: model must be a path, bytes or Program, got {type(model).__name__}"
                )
            source = model if isinstance(model, bytes) else file_path("InferenceSession", "model", model)
            model = Program.load(source, verify=verify)
        if not allow_host:
            refuse_host_steps(model, "InferenceSession")
        self._program = model
        inputs, outputs = ([name for name, _ in side] for side in (model.manifest.inputs, model.manifest.outputs))
        choices = choices_for(paths, model, isa, threads)
        self._core = _core.Session(model.index, model.container.blobs.data, isa, threads, inputs, outputs, choices)
        self._hosts = [
            HostRunner(model, step, self._core, self._core.num_threads, timeout_s) for step in model.host_steps
        ]
        self._inputs = _places(model.inputs, model.manifest.inputs, self._core)
        self._outputs = _places(model.outputs, model.manifest.outputs, self._core)
        self._lock = threading.Lock()
        _sessions.add(self)

    def _after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._lock = threading.Lock()
        for host in self._hosts:
            host.after_fork()

    def get_inputs(self) -> list[NodeArg]:
        """What :meth:`run` wants."""
        return [_node_arg(info) for info in self._program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What :meth:`run` gives."""
        return [_node_arg(info) for info in self._program.outputs]

    def run(
        self, output_names: Sequence[str] | None, feeds: Feeds, *, out: Sequence[Lent] | None = None
    ) -> list[Array]:
        """Compute outputs from inputs.

        Parameters
        ----------
        output_names : names of the outputs wanted, in the order wanted; None is all of them
        feeds : an array per input name, of the very dtype and shape that :meth:`get_inputs` states: NumPy's, or of
            whichever library lends its memory (torch on the CPU, DLPack, ``__array__``, the buffer protocol)
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
        """
        names = list(self._outputs) if output_names is None else self._wanted(output_names)
        arrays = self._ordered(feeds)
        if out is None:
            results: list[Array] = [np.empty_like(self._outputs[name]) for name in names]
        else:
            results = _given(out, names)
        returned: list[Any] = results if out is None else list(out)
        if output_names is None:
            self._run(arrays, list(results))
            return returned
        result_of = dict(zip(names, results, strict=True))
        targets: list[Array | None] = list(map(result_of.get, self._outputs))
        if len(result_of) < len(results):  # a name is asked for twice
            for name, result in zip(names, results, strict=True):
                self._core.check(arrays, [result if name == other else None for other in self._outputs])
        self._run(arrays, targets)
        if len(result_of) < len(results):
            for name, result in zip(names, results, strict=True):
                np.copyto(result, result_of[name])
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
        nothing: list[Array | None] = [None] * len(self._outputs)
        self._core.check(arrays, nothing)
        self._report_copies("trace", arrays, nothing)
        return self._trace(arrays)

    def _trace(self, arrays: list[Array]) -> Iterator[tuple[int, Array]]:
        index = self._program.index
        segments, steps = index.segments, index.steps
        with self._lock:
            self._fill(arrays)
            for what, number in self._program.manifest.order:
                if what == "host":
                    self._hosts[number].run()
                    continue
                for step in range(segments[number].begin, segments[number].end):
                    self._core.run_step(step)
                    yield step, self._core.tensor(steps[step].outputs[0])

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
        targets: list[Array | None] = [np.empty_like(place) for place in self._outputs.values()]
        self._core.check(arrays, targets)
        self._report_copies("profile", arrays, targets)
        times: list[tuple[int, list[int], list[int]]] = []
        with self._lock:
            try:
                clock = self._core.clock(True)
                assert clock is not None
                for _ in range(WARM_UP + runs):
                    start = time.perf_counter_ns()
                    direct = not self._hosts and self._core.run(arrays, targets)
                    hosts = [] if direct else self._run_in_arena(arrays, targets)
                    times.append((time.perf_counter_ns() - start, clock.tolist(), hosts))
            finally:
                self._core.clock(False)
        whole, steps, hosts_of = (np.array(part, np.float64) / 1e3 for part in zip(*times[WARM_UP:], strict=True))
        return profiled(self._program, self.paths, self.isa, self.num_threads, whole, steps, hosts_of)

    def summary(self) -> str:
        """The program's table, with the paths of this session."""
        return self._program.summary(isa=self.isa)

    @property
    def paths(self) -> tuple[str, ...]:
        """The code that each kernel step runs here; see :meth:`Program.paths`."""
        return tuple(self._core.path(step) for step in range(len(self._program.steps)))

    @property
    def program(self) -> Program:
        return self._program

    @property
    def arena_bytes(self) -> int:
        """All memory that the session owns: arena, scratch, accumulator starts."""
        return int(self._core.arena_bytes)

    @property
    def isa(self) -> str:
        return str(self._core.isa)

    @property
    def num_threads(self) -> int:
        return int(self._core.num_threads)

    def __repr__(self) -> str:
        return f"InferenceSession({self._program!r}, isa={self.isa!r}, num_threads={self.num_threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._program, self._options)

    def _wanted(self, output_names: Sequence[str]) -> list[str]:
        if isinstance(output_names, str):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got the string {output_names!r}")
        if not isinstance(output_names, Iterable):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(output_names).__name__}")
        for name in (output_names := list(output_names)):
            if not isinstance(name, str):
                raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(name).__name__} in it")
            if name not in self._outputs:
                raise ArgumentValueError(f"run: there is no output {name!r}; the outputs are {list(self._outputs)}")
        return output_names

    def _ordered(self, feeds: Feeds) -> list[Array]:
        """The arrays in the order of the program's inputs."""
        if type(feeds) is not dict or feeds.keys() != self._inputs.keys():
            self._check_names(feeds)
        return [
            given if type(given := feeds[name]) is np.ndarray else as_array("run", f"input {name!r}", given)
            for name in self._inputs
        ]

    def _check_names(self, feeds: Feeds) -> None:
        if not isinstance(feeds, Mapping):
            raise unnamed("run", "feeds", feeds, list(self._inputs))
        for name in feeds:
            if name not in self._inputs:
                raise ArgumentValueError(f"run: there is no input {name!r}; the inputs are {list(self._inputs)}")
        for name in self._inputs:
            if name not in feeds:
                raise ArgumentValueError(f"run: feeds lack the input {name!r}; the inputs are {list(self._inputs)}")

    def _run(self, arrays: list[Array], targets: list[Array | None]) -> None:
        if not self._hosts:
            with self._lock:
                if self._core.run(arrays, targets):
                    return
        self._core.check(arrays, targets)
        self._report_copies("run", arrays, targets)
        with self._lock:
            self._run_in_arena(arrays, targets)

    def _report_copies(self, function: str, arrays: list[Array], targets: list[Array | None]) -> None:
        inputs, outputs = zip(self._inputs, arrays, strict=True), zip(self._outputs, targets, strict=True)
        for what, pairs in (("input", inputs), ("out for", outputs)):
            for name, array in pairs:
                if array is not None and not (array.flags.c_contiguous and array.flags.aligned):
                    report_copy(function, f"{what} {name!r}", array)

    def _run_in_arena(self, arrays: list[Array], targets: list[Array | None]) -> list[int]:
        """Copies everything in and out: for host steps, which read and write the arena, and for strided and unaligned
        arrays. Gives the nanoseconds of the host steps."""
        self._fill(arrays)
        took = [0] * len(self._hosts)
        for what, number in self._program.manifest.order:
            if what == "segment":
                self._core.run_segment(number)
                continue
            start = time.perf_counter_ns()
            self._hosts[number].run()
            took[number] = time.perf_counter_ns() - start
        for place, target in zip(self._outputs.values(), targets, strict=True):
            if target is not None:
                np.copyto(target, place)
        return took

    def _fill(self, arrays: Sequence[Array]) -> None:
        for place, array in zip(self._inputs.values(), arrays, strict=True):
            np.copyto(place, array)


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


def _places(infos: Sequence[TensorInfo], numbers: Sequence[tuple[str, int]], core: _core.Session) -> dict[str, Array]:
    """Where inputs or outputs lie in the arena."""
    return {info.name: core.tensor(number) for info, (_, number) in zip(infos, numbers, strict=True)}


def _node_arg(info: TensorInfo) -> NodeArg:
    kind = _TYPES.get(info.dtype.name, info.dtype.name)
    return NodeArg(info.name, list(info.shape), f"tensor({kind})", info.scale, info.zero_point)
