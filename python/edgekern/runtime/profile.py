"""What each step of a program takes, beside what this machine can do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core, files
from edgekern._arguments import file_path, integer
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.machine import read_bandwidth

if TYPE_CHECKING:
    from edgekern.artifact import Program, TensorInfo

Array = npt.NDArray[Any]
Times = npt.NDArray[np.float64]

WARM_UP = 5  # runs that no figure is taken of
HOST = "host"
_BAR = 24  # columns of the longest bar
_SIDES = "<<<>>><>>>"  # of the columns
# What turns one kind of number into the other, and what only brings bytes to another place.
CONVERSIONS = frozenset({"QUANTIZE", "QUANTIZE_NCHW", "DEQUANTIZE", "DEQUANTIZE_NCHW"})
MOVES = frozenset({"TRANSPOSE", "PERMUTE", "SLICE", "PAD", "CONCAT", "PICK", "CONSTANT"})
# From these shares of a run on, a cause is named.
_HOST_SHARE, _CONVERSION_SHARE, _MOVE_SHARE, _CALL_SHARE = 0.02, 0.1, 0.1, 0.1
_FLOAT_SHARE = 0.25
_FAR_FROM_PEAK = 0.4
_MEMORY_SHARE, _SMALL_SHARE = 0.1, 0.1
_NEAR_BANDWIDTH = 0.5
_SMALL_US = 5.0  # a step that takes less has begun and ended before threads and tiles are worth their while
_MOST_READ_BYTES = 128 << 20


@dataclass(frozen=True)
class StepTime:
    """One step, over all runs of a profile.

    Attributes
    ----------
    name, op, kind : as of :class:`~edgekern.artifact.StepInfo`; the kind of a host step is "host"
    path : the code that ran, as of :attr:`InferenceSession.paths`; "host" for onnxruntime
    precision : of its multiply-adds: "8 bits", "16 bits", "float32", "host"
    p50_us, p95_us, p99_us : microseconds of a run
    share : of the time of all steps, by their p50
    macs : multiply-adds of a run
    nbytes : of its tensors and constants
    peak_share : of the multiply-adds a second that this machine makes on registers, measured in the same minute; None
        where it makes none, and on the host
    """

    name: str
    op: str
    kind: str
    path: str
    precision: str
    p50_us: float
    p95_us: float
    p99_us: float
    share: float
    macs: int
    nbytes: int
    peak_share: float | None

    @property
    def macs_per_s(self) -> float:
        return self.macs / self.p50_us * 1e6 if self.p50_us else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.p50_us * 1e6 if self.p50_us else 0.0


@dataclass(frozen=True)
class Profile:
    """What :meth:`InferenceSession.profile` has measured; ``str()`` is a table of the steps that take most.

    Attributes
    ----------
    steps : in the order in which they run, those of the host among them
    p50_us, p95_us, p99_us : microseconds of a run in the core, copies at the border and host steps in it. Beside it
        :meth:`InferenceSession.run` looks at names and makes the arrays that it returns, some 2 us
    runs, num_threads, isa : of what was measured
    peaks : multiply-adds a second on registers, by precision
    read_bytes_per_s : at which this machine reads as much as a run has of tensors and constants, from memory or a cache
    causes : what the time goes to that a model could do without, largest first
    beside_us : microseconds of a run that no step takes, in the run that had fewest of them
    """

    steps: tuple[StepTime, ...]
    p50_us: float
    p95_us: float
    p99_us: float
    runs: int
    num_threads: int
    isa: str
    peaks: Mapping[str, float]
    read_bytes_per_s: float
    causes: tuple[str, ...]
    _typical: tuple[float, ...] = field(repr=False)  # us of each step, of the run in the middle
    beside_us: float = 0.0

    def top(self, count: int = 20) -> tuple[StepTime, ...]:
        """The steps that take most.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When ``count`` is not a positive integer; so does :meth:`table`.
        """
        positive("Profile.top", "count", count)
        return tuple(sorted(self.steps, key=lambda step: -step.share)[:count])

    def table(self, count: int = 20, *, bar: str = "█") -> str:
        """The steps that take most, with bars of a character, and the causes."""
        rows = self.top(count)
        head = ("step", "operators", "path", "p50 us", "p99 us", "share", "", "GMAC/s", "of peak", "GB/s")
        cells = [head, *(_cells(row, rows[0].share, bar) for row in rows)]
        width = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines = [
            "  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, _SIDES, width, strict=True)) for row in cells
        ]
        summed = sum(step.p50_us for step in self.steps)
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        told = (
            f"{self.runs} runs on {self.isa}, {threads}: p50 {self.p50_us:.1f} us, p95 {self.p95_us:.1f}, "
            f"p99 {self.p99_us:.1f}; {len(self.steps)} steps take {summed:.1f}"
        )
        others = len(self.steps) - len(rows)
        more = [f"{others} more steps take {sum(s.share for s in self.steps) - sum(r.share for r in rows):.1%}"]
        return "\n".join([told, "", *map(str.rstrip, lines), *(more if others else []), "", *self.causes])

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> str:
        """All figures."""
        steps = [asdict(step) | {"macs_per_s": step.macs_per_s, "bytes_per_s": step.bytes_per_s} for step in self.steps]
        own = ("p50_us", "p95_us", "p99_us", "runs", "num_threads", "isa", "read_bytes_per_s")
        return json.dumps(
            {**{name: getattr(self, name) for name in own}, "peaks": dict(self.peaks), "causes": self.causes}
            | {"steps": steps},
            indent=1,
        )

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the run in the middle as a trace that Perfetto and Chrome draw (JSON), atomically.

        Raises
        ------
        OSError, ArgumentTypeError, ArgumentValueError
            As :func:`edgekern.files.atomic_write`.
        """
        target = file_path("Profile.save_trace", "path", path)
        events, at = [], 0.0
        for step, took in zip(self.steps, self._typical, strict=True):
            shown = {"operators": step.op, "path": step.path, "macs": step.macs, "bytes": step.nbytes}
            events.append(
                {"name": step.name, "cat": step.kind, "ph": "X", "pid": 1, "tid": 1, "ts": at, "dur": took}
                | {"args": shown}
            )
            at += took
        with files.atomic_write(target, function="Profile.save_trace") as file:
            file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}).encode())


def _cells(row: StepTime, longest: float, bar: str) -> tuple[str, ...]:
    return (
        row.name,
        row.op,
        row.path,
        f"{row.p50_us:.1f}",
        f"{row.p99_us:.1f}",
        f"{row.share:.1%}",
        bar * max(1, round(_BAR * row.share / longest)) if longest else "",
        f"{row.macs_per_s / 1e9:.1f}" if row.macs else "",
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
        f"{row.bytes_per_s / 1e9:.1f}" if row.nbytes else "",
    )


def profiled(
    program: Program, paths: Sequence[str], isa: str, num_threads: int, runs: Times, steps: Times, hosts: Times
) -> Profile:
    """Figures of times in us: of runs (n,), of kernel steps and host steps (n, steps) and (n, host steps)."""
    peaks = {
        "8 bits": _core.measure_dot_peak(isa, num_threads) / 2,
        "float32": _core.measure_fma_peak(isa, num_threads) / 2,
    }
    peaks["16 bits"] = peaks["8 bits"] / 2  # two products of 8 bits each
    order: list[tuple[bool, int]] = []
    for what, number in program.manifest.order:
        segment = program.index.segments[number] if what == "segment" else None
        numbers: Iterable[int] = [number] if segment is None else range(segment.begin, segment.end)
        order += [(segment is None, at) for at in numbers]
    columns = [(hosts if host else steps)[:, at] for host, at in order]
    times = np.stack(columns, axis=1) if columns else np.zeros((len(runs), 0))
    measured = [_percentiles(column) for column in times.T]
    total = sum(p50 for p50, _, _ in measured) or 1.0  # of medians: one run that was interrupted makes no step slow
    found = []
    for (host, at), (p50, p95, p99) in zip(order, measured, strict=True):
        share = p50 / total
        if host:
            step = program.host_steps[at]
            operators = "+".join(step.operators)
            found.append(StepTime(step.name, operators, HOST, HOST, HOST, p50, p95, p99, share, step.macs, 0, None))
            continue
        info, precision = program.steps[at], program.precisions[at]
        peak = info.macs / p50 * 1e6 / peaks[precision] if info.macs and p50 else None
        found.append(
            StepTime(
                info.name, info.op, info.kind, paths[at], precision, p50, p95, p99, share, info.macs, info.nbytes, peak
            )
        )
    middle = int(np.argsort(runs)[len(runs) // 2])
    p50, p95, p99 = _percentiles(runs)
    footprint = program.nbytes + program.memory_plan.arena_bytes
    rate = read_bandwidth(footprint, num_threads, most_bytes=_MOST_READ_BYTES, seconds=0.02)
    causes = _causes(program, found, p50, rate)
    typical = tuple(times[middle].tolist())
    beside = max(float((runs - times.sum(axis=1)).min(initial=np.inf)), 0.0)
    return Profile(tuple(found), p50, p95, p99, len(runs), num_threads, isa, peaks, rate, causes, typical, beside)


def _percentiles(times: Times) -> tuple[float, float, float]:
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    return float(p50), float(p95), float(p99)


def _causes(program: Program, steps: Sequence[StepTime], run_us: float, rate: float) -> tuple[str, ...]:
    found: list[tuple[float, str]] = []

    def look(least: float, text: str, matches: Callable[[StepTime], bool]) -> None:
        share = sum(step.share for step in steps if matches(step))
        if share >= least:
            found.append((share, f"{share:.0%} of the time: {text}"))

    reasons = "; ".join(map(str, program.host_steps))
    look(_HOST_SHARE, f"host steps, which onnxruntime runs in float32: {reasons}", lambda s: s.kind == HOST)
    look(
        _CONVERSION_SHARE,
        "conversions between 8 bits and float32; quantize what stands between, or give bytes at the border "
        "(QuantConfig(inputs=, outputs=))",
        lambda s: s.kind in CONVERSIONS,
    )
    look(_MOVE_SHARE, "moves, which compute nothing", lambda s: s.kind in MOVES)
    if any(step.macs and step.precision == "8 bits" for step in steps):
        look(_FLOAT_SHARE, "products that stay in float32", lambda s: s.macs > 0 and s.precision == "float32")
    idle = [step for step in steps if step.kind != HOST and (step.peak_share or 0) < _FAR_FROM_PEAK]
    bound = [step for step in idle if step.bytes_per_s >= _NEAR_BANDWIDTH * rate and step.p50_us >= _SMALL_US]
    moved, share = sum(step.bytes_per_s * step.share for step in bound), sum(step.share for step in bound)
    if share >= _MEMORY_SHARE:
        text = f"{_counted(bound)} of memory's: they read and write {moved / share / 1e9:.1f} GB/s, and this machine "
        text += f"reads as many bytes as the program has at {rate / 1e9:.1f} GB/s"
        found.append((share, f"{share:.0%} of the time: {text}"))
    small = [step for step in idle if step.p50_us < _SMALL_US]
    share = sum(step.share for step in small)
    if share >= _SMALL_SHARE:
        text = f"{_counted(small)} of less than {_SMALL_US:g} us each, too small to fill tiles and threads"
        found.append((share, f"{share:.0%} of the time: {text}"))
    outside = 1 - sum(step.p50_us for step in steps) / run_us if run_us else 0.0
    if outside >= _CALL_SHARE:
        found.append((outside, f"{outside:.0%} of a run: copies at the border, and the call into the core"))
    products = [step for step in steps if step.peak_share is not None]
    busy = sum(step.share for step in products)
    reached = sum(step.share * (step.peak_share or 0) for step in products) / busy if busy else 0.0
    if busy >= 0.1:
        text = f"{busy:.0%} of the time: products, at {reached:.0%} of the multiply-adds that registers allow"
        if reached < _FAR_FROM_PEAK:
            worst = max(products, key=lambda step: step.share * (1 - (step.peak_share or 0)))
            text += f"; '{worst.name}' ({worst.peak_share:.0%}, {worst.bytes_per_s / 1e9:.1f} GB/s) holds most back"
        found.append((busy, text))
    return tuple(text for _, text in sorted(found, reverse=True))


def _counted(steps: Sequence[StepTime]) -> str:
    return f"{len(steps)} step{'s' if len(steps) > 1 else ''}"


def positive(function: str, argument: str, count: object) -> None:
    """Refuse what is no positive integer."""
    if isinstance(count, bool):  # which counts as 0 or 1 elsewhere
        raise ArgumentTypeError(f"{function}: {argument} must be an integer, got bool")
    if integer(function, argument, count) < 1:
        raise ArgumentValueError(f"{function}: {argument} must be at least 1, got {count}")


def random_feeds(inputs: Sequence[TensorInfo], seed: int = 0) -> dict[str, Array]:
    """Noise for floats, random codes for bytes, zeros for whole numbers and bools."""
    rng, feeds = np.random.default_rng(seed), {}
    for info in inputs:
        if info.dtype.kind == "b" or (info.dtype.kind in "iu" and info.dtype.itemsize > 1):
            feeds[info.name] = np.zeros(info.shape, info.dtype)
        elif info.dtype.kind in "iu":
            feeds[info.name] = rng.integers(0, 256, info.shape, np.uint8).view(info.dtype)
        else:
            feeds[info.name] = rng.normal(0, 1, info.shape).astype(info.dtype)
    return feeds
