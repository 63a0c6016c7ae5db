"""A program or an ONNX file on this machine, beside onnxruntime and beside the float model that it was made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import _core, _onnxruntime, files
from edgekern._arguments import file_path, isa_name, number, thread_count
from edgekern.artifact import Program, TensorInfo
from edgekern.benchmark.answers import difference
from edgekern.benchmark.fresh import Fresh, Job, measured
from edgekern.benchmark.others import Others
from edgekern.benchmark.report import Cost, Gain, ModelReport, Row, Work
from edgekern.benchmark.rounds import MOST_ROUNDS, Timing, ratio, timed
from edgekern.benchmark.sides import Checked, Feeds, Shapes, Side, checked, compiled, float_side, our_run
from edgekern.benchmark.work import by_kind
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.files import StrPath
from edgekern.machine import cpu_model
from edgekern.runtime import InferenceSession, Profile, random_feeds
from edgekern.runtime.modes import mode_number
from edgekern.runtime.profile import positive
from edgekern.runtime.session import MOST_THREADS

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]

DEFAULT_SECONDS = 1.0
_PROFILED_SECONDS, _FEWEST_PROFILED, _MOST_PROFILED = 1.0, 5, 200


def no_progress(description: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


def bench_model(
    model: StrPath,
    *,
    versus: StrPath | None = None,
    num_threads: Sequence[int] = (),
    batch: int = 1,
    shapes: Shapes | None = None,
    data: Callable[[Sequence[TensorInfo]], Feeds] = random_feeds,
    runs: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    isa: str | None = None,
    allow_host: bool = True,
    mode: str | None = None,
    progress: Progress = no_progress,
) -> ModelReport:
    """Time a model, its outputs compared first.

    Parameters
    ----------
    model : path of an .ekm, or of an .onnx, which is compiled in memory; of several sizes the smallest is timed
    versus : path of a float .onnx to stand beside it: compiled by edgekern, and in onnxruntime
    num_threads : one table for each; none is the package's setting
    batch, shapes : of an .onnx, as :func:`edgekern.compile` takes them
    data : gives feeds by name for what the program takes; default: random numbers
    runs : of each contender and number of threads that are timed; None is as many as take ``seconds``
    isa, allow_host, mode : as of :class:`~edgekern.InferenceSession`
    progress : given a description and a count, a context whose value is called after each part

    Returns
    -------
    ModelReport
        Latencies, memory, what the time goes to; ``table()`` and ``to_json()``.

    Raises
    ------
    EdgekernError
        An output of edgekern is not what ONNX defines.
    ArgumentTypeError, ArgumentValueError
        A file is of another kind, ``versus`` is another model, or an argument has the wrong type or value.
    CompileError, ArtifactError, HostStepError, UnsupportedIsaError
        As :func:`edgekern.compile` and :class:`~edgekern.InferenceSession`.
    """
    for argument, count in (("runs", runs), *(("num_threads", count) for count in num_threads)):
        if count is not None:
            positive("bench", argument, count)
    if not 0 < number("bench", "seconds", seconds) < float("inf"):
        raise ArgumentValueError(f"bench: seconds must be a positive number, got {seconds!r}")
    given = thread_counts(num_threads)
    options = {"isa": isa_name("bench", isa) or None, "allow_host": allow_host}
    own = _own_side(file_path("bench", "model", model), batch, shapes, data, allow_host, mode)
    other = None
    if versus is not None:
        path = file_path("bench", "versus", versus)
        if kind_of_file(path) != "onnx":
            raise ArgumentValueError(f"bench: --vs takes a float ONNX model, and {path} is none")
        other = float_side(path, own, allow_host=allow_host)
    counts, sides = list(dict.fromkeys(given)), [own, *([other] if other is not None else [])]
    checks = [checked(side, max(counts), options) for side in sides if kind_of_file(side.path) == "onnx"]
    bench = _Bench(sides, checks, options, runs, float(seconds))
    watch = Others()
    with progress("bench", len(counts) * MOST_ROUNDS) as advance:
        parts = [bench.at(threads, advance) for threads in counts]
    busy = watch.cpus()
    return ModelReport(
        model=str(own.path),
        versus=None if other is None else str(other.path),
        multiply_adds=own.program.multiply_adds,
        inputs={info.name: list(info.shape) for info in own.program.inputs},
        data=_told(data, own.program),
        cpu=cpu_model(),
        isa=bench.isa,
        versions=_versions(),
        compile_ms={side.ours: side.compile_ms for side in sides if side.compile_ms is not None},
        differences={who: found for check in checks for who, found in check.differences.items()},
        from_float=_from_float(own, other, checks[-1] if checks else None, options),
        left_out={who: why for check in checks for who, why in check.left_out.items()},
        others_busy=busy,
        rows=tuple(row for rows, _, _ in parts for row in rows),
        gains=tuple(gain for _, gains, _ in parts for gain in gains),
        work=tuple(work for _, _, work in parts),
        costs=tuple(bench.costs(max(counts))),
    )


def _told(data: Callable[[Sequence[TensorInfo]], Feeds], program: Program) -> str:
    given = "random numbers" if data is random_feeds else "the data given"
    return given if program.buckets is None else f"{given}; the smallest of several sizes ({program.buckets})"


def _own_side(
    path: Path,
    batch: int,
    shapes: Shapes | None,
    data: Callable[[Sequence[TensorInfo]], Feeds],
    allow_host: bool,
    mode: str | None,
) -> Side:
    if kind_of_file(path) == "onnx":
        if mode is not None:
            raise ArgumentValueError(f"bench: mode is of programs, and {path} is an ONNX model; leave it out")
        program, took = compiled(path, batch=batch, shapes=shapes, allow_host=allow_host)
        return Side("", path, program, took, data(program.inputs))
    if batch != 1 or shapes:
        raise ArgumentValueError("bench: batch and shapes are of ONNX models; a program has those it was compiled for")
    program = Program.load(path)
    if mode is not None:
        mode_number("bench", program, mode)
        program = program.by_mode[mode]
    return Side("", path, program, None, data(program.inputs), mode)


def _from_float(own: Side, other: Side | None, check: Checked | None, options: dict[str, Any]) -> Any:
    """How far the model is from the float one."""
    if other is None or check is None or check.defined is None:
        return None
    return difference(check.defined, our_run(InferenceSession(own.program, **options), own.feeds)[1]())


def _versions() -> dict[str, str]:
    found = {"edgekern": _core.__version__, "numpy": np.__version__}
    try:
        import onnxruntime
    except ImportError:
        return found
    return found | {"onnxruntime": onnxruntime.__version__}


def thread_counts(given: Sequence[int]) -> list[int]:
    """Those given, or the package's setting. Raises ArgumentValueError for more than a session has."""
    counts = [thread_count("bench", count) for count in given] or [_core.num_threads()]
    if max(counts) > MOST_THREADS:
        raise ArgumentValueError(f"bench: num_threads must be at most {MOST_THREADS}, got {max(counts)}")
    return counts


class _Bench:
    """What is timed, at so many threads at a time."""

    def __init__(
        self, sides: list[Side], checks: list[Checked], options: dict[str, Any], runs: int | None, seconds: float
    ) -> None:
        self.sides, self.options, self.runs, self.seconds = sides, options, runs, seconds
        self.peers = {side.peer for side in sides if any(side.peer in check.differences for check in checks)}
        self.peers -= {who for check in checks for who in check.left_out}
        self.arenas: dict[str, int] = {}
        self.isa = ""

    def at(self, threads: int, advance: Callable[[], None]) -> tuple[list[Row], list[Gain], Work]:
        calls: dict[str, Callable[[], object]] = {}
        sessions = {}
        for side in self.sides:
            session = InferenceSession(side.program, num_threads=threads, **self.options)
            sessions[side.ours], self.isa = session, session.isa
            self.arenas[side.ours] = session.arena_bytes
            calls[side.ours] = our_run(session, side.feeds)[0]
            if side.peer in self.peers:
                peer = _onnxruntime.open_peer(str(side.path), num_threads=threads)
                calls[side.peer] = _onnxruntime.bound_run(peer, side.feeds)[0]
        times = timed(calls, runs=self.runs, seconds=self.seconds, advance=advance)
        profiles = {}
        for side in self.sides:
            count = int(_PROFILED_SECONDS * times[side.ours].runs_per_s)
            count = min(max(count, _FEWEST_PROFILED), _MOST_PROFILED, self.runs or _MOST_PROFILED)
            profiles[side.ours] = sessions[side.ours].profile(side.feeds, runs=count)
        rows = [
            _row(who, side, threads, times[who], profiles[side.ours])
            for side in self.sides
            for who in (side.ours, side.peer)
            if who in times
        ]
        own = self.sides[0].ours
        gains = [Gain(threads, own, who, ratio(times[own], times[who])) for who in times if who != own]
        kinds = {who: by_kind(profile) for who, profile in profiles.items()}
        return (
            rows,
            gains,
            Work(threads, kinds, profiles[own].causes, dict(profiles[own].peaks), self.sides[0].quantized),
        )

    def costs(self, threads: int) -> list[Cost]:
        """Of each contender, in a process of its own."""
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for number_of, side in enumerate(self.sides):
                feeds, program = Path(folder) / f"{number_of}.npz", side.path
                with files.atomic_write(feeds, function="bench") as file:
                    np.savez(file, allow_pickle=False, **side.feeds)
                if side.compile_ms is not None:
                    side.program.save(program := Path(folder) / f"{number_of}.ekm")
                job = Job(
                    "edgekern",
                    str(program),
                    str(feeds),
                    threads,
                    self.options | ({"mode": side.mode} if side.mode else {}),
                )
                found.append(_cost(side.ours, threads, side.program.nbytes, self.arenas[side.ours], measured(job)))
                if side.peer in self.peers:
                    job = Job("onnxruntime", str(side.path), str(feeds), threads, {})
                    found.append(_cost(side.peer, threads, _file_bytes(side.path), None, measured(job)))
        return found


def _cost(who: str, threads: int, file_bytes: int, arena_bytes: int | None, fresh: Fresh) -> Cost:
    return Cost(who, threads, file_bytes, arena_bytes, fresh)


def _file_bytes(path: Path) -> int:
    """With its external data."""
    from edgekern.graph.model import model_files

    return sum(file.stat().st_size for file in model_files(path, function="bench"))


def _row(who: str, side: Side, threads: int, timing: Timing, profile: Profile) -> Row:
    """Its multiply-adds are those of the program, whoever does them."""
    macs = side.program.multiply_adds
    peaks = profile.peaks | {"host": profile.peaks["float32"]}  # type: ignore[operator]
    seconds = timing.p50_us / 1e6
    at_peak = sum(count / peaks[precision] for precision, count in macs.items())
    return Row(who, threads, timing, sum(macs.values()) / seconds, at_peak / seconds)
