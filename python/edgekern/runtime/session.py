"""InferenceSession: a program with its arena and threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arguments import file_path, flag, isa_name, thread_count
from edgekern._arrays import Lent, as_array, unnamed, written_array
from edgekern.artifact import Program, TensorInfo
from edgekern.artifact.container import Verify
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.buckets import Sized
from edgekern.runtime.host import HOST_TIMEOUT_S, host_timeout, refuse_host_steps
from edgekern.runtime.profile import Profile, positive
from edgekern.runtime.runner import Arena, Given

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
    shape: Sequence[int | str]
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
        model: str | os.PathLike[str] | bytes | Program,
        *,
        num_threads: int | None = None,
        isa: str | None = None,
        verify: Verify = "full",
        allow_host: bool = True,
        host_timeout_s: float | None = HOST_TIMEOUT_S,
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
        self._arena = Arena(model, isa, threads, timeout_s)
        self._runner = self._arena.runners[0]
        self._sized = None if model.buckets is None else Sized(model, model.buckets)
        self._lock = threading.Lock()
        _sessions.add(self)

    def _after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._lock = threading.Lock()
        self._arena.after_fork()

    def get_inputs(self) -> list[NodeArg]:
        """What :meth:`run` wants; a dimension of several sizes is there by its name."""
        return [self._node_arg(info, output=False) for info in self._program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What :meth:`run` gives."""
        return [self._node_arg(info, output=True) for info in self._program.outputs]

    def _node_arg(self, info: TensorInfo, *, output: bool) -> NodeArg:
        kind = _TYPES.get(info.dtype.name, info.dtype.name)
        shape = list(info.shape) if self._sized is None else self._sized.shape(info.name, output=output)
        return NodeArg(info.name, shape, f"tensor({kind})", info.scale, info.zero_point)

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
        names = list(self._runner.outputs) if output_names is None else self._wanted(output_names)
        arrays = self._ordered(feeds)
        if self._sized is not None:
            return self._run_sized(self._sized, names, arrays, out)
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
                np.copyto(result, result_of[name])
        return returned

    def _run_sized(
        self, sized: Sized, names: Sequence[str], arrays: list[Array], out: Sequence[Lent] | None
    ) -> list[Any]:
        sizes = sized.sizes(arrays)
        pieces = sized.pieces(sizes)
        results = sized.results(names, sizes, pieces) if out is None else _given(out, names)
        if out is not None:
            sized.check_results(names, results, sizes, pieces)
        result_of = dict(zip(names, results, strict=True))
        targets = [result_of.get(name) for name in self._runner.outputs]
        self._runner.report_copies("run", arrays, targets)
        with self._lock:
            sized.run(self._arena, pieces, arrays, targets)
        if len(result_of) < len(results):  # a name is asked for twice
            for name, result in zip(names, results, strict=True):
                np.copyto(result, result_of[name])
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
        return self._trace(arrays, given)

    def _trace(self, arrays: list[Array], given: Given | None) -> Iterator[tuple[int, Array]]:
        with self._lock:
            yield from self._runner.trace(arrays, given)

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
        runner = self._runner if self._sized is None else self._arena.runners[self._sized.whole(arrays)]
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
        if isinstance(output_names, str):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got the string {output_names!r}")
        if not isinstance(output_names, Iterable):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(output_names).__name__}")
        for name in (output_names := list(output_names)):
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
            raise unnamed("run", "feeds", feeds, list(self._runner.inputs))
        for name in feeds:
            if name not in self._runner.inputs:
                raise ArgumentValueError(f"run: there is no input {name!r}; the inputs are {list(self._runner.inputs)}")
        for name in self._runner.inputs:
            if name not in feeds:
                raise ArgumentValueError(
                    f"run: feeds lack the input {name!r}; the inputs are {list(self._runner.inputs)}"
                )

    def _run(self, arrays: list[Array], targets: list[Array | None]) -> None:
        runner = self._runner
        if not runner.hosts:
            with self._lock:
                if runner.core.run(arrays, targets):
                    return
        runner.core.check(arrays, targets)
        runner.report_copies("run", arrays, targets)
        with self._lock:
            runner.run(arrays, targets)


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
