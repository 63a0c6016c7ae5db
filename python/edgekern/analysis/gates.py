"""Gates that a program must pass before it is shipped: what it loses, what it takes, and where each figure is from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekern._arguments import amount, byte_count
from edgekern._arrays import Lent
from edgekern._reports import Chart, Report, table
from edgekern._warn import warn_caller
from edgekern.analysis._borders import as_codes
from edgekern.analysis._rows import cut
from edgekern.analysis.runs import coded, run_of_model, run_of_program
from edgekern.analysis.side_by_side import Seen, labels_of, numbered, side_by_side
from edgekern.artifact import Program
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.graph.model import model_hash, open_model
from edgekern.machine import cpu_model
from edgekern.runtime import InferenceSession, random_feeds
from edgekern.runtime.profile import positive
from edgekern.runtime.stress import resident_bytes

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]

_WARM_UP = 5  # runs that no figure is taken of


@dataclass(frozen=True)
class Limits:
    """What is asked of a program; None asks nothing.

    Attributes
    ----------
    max_drop : share of the samples, 0.01 for one point: what the float model has right more than the program
    min_sqnr_db : signal to noise of the worst output, in dB, against the float model
    min_agreement : share of the samples that both give the highest score of one class
    max_bytes : of the file; a number, or a size such as "4M"
    max_memory_bytes : of a session, its weights among them; the same
    max_latency_ms : half of the runs on this machine take no longer
    """

    max_drop: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_bytes: int | str | None = None
    max_memory_bytes: int | str | None = None
    max_latency_ms: float | None = None

    def checked(self, function: str) -> Limits:
        """With bytes as numbers.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When a limit is no number, or one that no program could fail or pass.
        """

        def share(name: str) -> float | None:
            return self._number(function, name, -1 if name == "max_drop" else 0, 1)

        sizes = {
            name: None if (given := getattr(self, name)) is None else byte_count(function, name, given)
            for name in ("max_bytes", "max_memory_bytes")
        }
        return Limits(
            share("max_drop"),
            self._number(function, "min_sqnr_db", -math.inf, math.inf),
            share("min_agreement"),
            **sizes,
            max_latency_ms=self._number(function, "max_latency_ms", 0, math.inf),
        )

    def _number(self, function: str, name: str, least: float, most: float) -> float | None:
        if (given := getattr(self, name)) is None:
            return None
        value = amount(function, name, given)
        if not (math.isfinite(value) and least <= value <= most):
            between = f"between {least:g} and {most:g}" if math.isfinite(most) else "a finite number of at least 0"
            rule = between if math.isfinite(least) else "a finite number"
            hint = "; a share, 0.01 for one point in a hundred" if most == 1 else ""
            raise ArgumentValueError(f"{function}: {name} must be {rule}, got {given!r}{hint}")
        return value


@dataclass(frozen=True)
class Gate:
    """One figure beside its limit.

    Attributes
    ----------
    name : of the limit, such as "max_drop"
    what : the figure in words
    limit, measured : shares, dB, bytes or milliseconds, as the name says
    source : where the figure comes from
    """

    name: str
    what: str
    limit: float
    measured: float
    source: str

    @property
    def passed(self) -> bool:
        return self.measured >= self.limit if self.name.startswith("min_") else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        return "ok" if self.passed else "FAILED"

    def told(self, value: float) -> str:
        if self.name.endswith("_bytes"):
            return f"{value:,.0f} bytes"
        if self.name.endswith("_ms"):
            return f"{value:.3f} ms"
        return f"{value:.2f} dB" if self.name.endswith("_db") else f"{value:.2%}"


@dataclass(frozen=True, repr=False)
class Validation(Report):
    """Rows of :func:`validate`, in the order of the limits; ``str()`` is the table.

    Attributes
    ----------
    rows : tuple of Gate
    """

    rows: tuple[Gate, ...]

    _derived: ClassVar[tuple[str, ...]] = ("passed",)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the limits that are not kept."""
        return tuple(row.name for row in self.rows if not row.passed)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "failures": list(self.failures), **super().to_dict()}

    def __str__(self) -> str:
        side = {True: "at least", False: "at most"}
        rows = [
            (r.what, f"{side[r.name.startswith('min_')]} {r.told(r.limit)}", r.told(r.measured), r.verdict, r.source)
            for r in self.rows
        ]
        shown = table({"gate": "<", "limit": "<", "measured": "<", "": "<", "of what": "<"}, rows)
        left = ", ".join(self.failures)
        verdict = f"{len(self.failures)} of {len(self.rows)} gates FAILED: {left}" if left else "all gates passed"
        return f"{shown}\n{verdict}"

    def __repr__(self) -> str:
        return f"Validation({len(self.rows)} gates, failures={self.failures!r})"

    def _chart(self) -> Chart:
        bars = [(r.what, r.measured / r.limit if r.limit else math.nan) for r in self.rows]
        return Chart("What each gate measures", "in limits", bars, {"limit": 1.0})


def validate(
    program: InferenceSession | Program | str | os.PathLike[str],
    data: Iterable[Feeds] | Feeds | None = None,
    labels: Sequence[int] | Array | None = None,
    *,
    float_model: ModelLike | None = None,
    max_drop: float | None = None,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    max_bytes: int | str | None = None,
    max_memory_bytes: int | str | None = None,
    max_latency_ms: float | None = None,
    top: int = 1,
    runs: int = 100,
    output: str | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> Validation:
    """Hold a program to limits; only what is asked for is measured.

    Parameters
    ----------
    program : Program, path of an .ekm, or InferenceSession
    data : feeds of the float model, :func:`edgekern.samples` among them: in float32 where the program takes 8 bits
    labels : class of each sample, in their order; None takes those of the samples
    float_model : path, bytes or onnx.ModelProto. Before quantization; onnxruntime runs it.
    max_drop : share of the samples, 0.01 for one point, that the float model has right more than the program
    min_sqnr_db : signal to noise of the worst float output, all samples together
    min_agreement : share of the samples that both give the highest score of one class
    max_bytes : of the file; a number, or a size such as "4M", as :func:`edgekern.llm.load` takes it
    max_memory_bytes : the larger of what a session owns with the file behind it, and of what this process grows by when
        it opens the program and runs once
    max_latency_ms : p50 of ``runs`` runs of one feed, of random numbers where there is no data, on this machine
    top : a sample is right where its label is among so many highest scores
    runs : how many are timed
    output : name of the scores; None is the first output
    num_threads : of the program; None is the package's setting
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    Validation
        A row a limit; ``passed`` and ``failures`` are the verdict.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        Before anything is run: nothing is asked for, a limit has a value that it cannot have, or needs data, labels or
        a float model that are not given. Later: data, labels or the models do not fit each other, or the float model
        has so little right that no program could lose more than ``max_drop``.

    Warns
    -----
    EdgekernWarning
        When the program was made of another model than ``float_model``.
    """
    limits = Limits(max_drop, min_sqnr_db, min_agreement, max_bytes, max_memory_bytes, max_latency_ms)
    limits = limits.checked("validate")
    truth = labels_of("validate", data, labels)
    require_what_is_needed("validate", limits, data=data, labels=truth, float_model=float_model)
    positive("validate", "runs", runs)
    positive("validate", "top", top)
    before = resident_bytes()
    session = program if isinstance(program, InferenceSession) else InferenceSession(program, num_threads=num_threads)
    fed = first_feed("validate", session, data)
    session.run(None, fed)
    grown = None if session is program else max(resident_bytes() - before, 0)
    rows = []
    if limits.max_drop is not None or limits.min_sqnr_db is not None or limits.min_agreement is not None:
        assert data is not None
        assert float_model is not None
        ranked = limits.max_drop is not None or limits.min_agreement is not None
        seen = side_by_side(
            run_of_program(session),
            run_of_model(float_model, function="validate"),
            data,
            truth if limits.max_drop is not None else None,
            function="validate",
            scores=(output or session.program.outputs[0].name) if ranked else None,
            top=top,
            progress=progress,
        )
        _warn_of_another_model(float_model, session.program)
        rows += gates_of_answers("validate", limits, seen, top)
    rows += gates_of_costs(limits, session, fed, runs=runs, grown_bytes=grown)
    return Validation(tuple(rows))


def _warn_of_another_model(float_model: ModelLike, program: Program) -> None:
    """A gate may hold a program to an earlier model than the one that was quantized, but not unsaid."""
    wanted = program.manifest.float_model_hash
    found = None if wanted is None else model_hash(open_model(float_model, function="validate"))
    if wanted != found:
        warn_caller(
            f"validate: program was made of another model (hash {str(wanted)[:12]}..., float_model has "
            f"{str(found)[:12]}...); limits are held against float_model all the same"
        )


def require_what_is_needed(function: str, limits: Limits, *, data: object, labels: object, float_model: object) -> None:
    """Raise ArgumentValueError where a limit asks for what is not there, or none asks for anything."""
    if limits == Limits():
        names = ", ".join(Limits.__dataclass_fields__)
        raise ArgumentValueError(
            f"{function}: at least one limit must be given, got none; they are {names} (--max-drop, --min-sqnr, ...)"
        )
    needs = {
        "max_drop": ("float_model", "data", "labels"),
        **dict.fromkeys(("min_sqnr_db", "min_agreement"), ("float_model", "data")),
    }
    given = {"data": data, "labels": labels, "float_model": float_model}
    remedies = {
        "float_model": "the model before quantization (--float model.onnx)",
        "data": "samples (a folder, or files)",
        "labels": "the class of each sample (--labels labels.csv, .npy, or the word folders)",
    }
    for name, needed in needs.items():
        missing = [what for what in needed if given[what] is None]
        if getattr(limits, name) is not None and missing:
            told = "; ".join(f"give {what}, {remedies[what]}" for what in missing)
            raise ArgumentValueError(f"{function}: {name} must have {' and '.join(missing)} to be measured; {told}")
    require_twice(function, data)


def require_twice(function: str, data: object) -> None:
    """Raise ArgumentTypeError for feeds that are gone once they are read."""
    if isinstance(data, Iterator):
        raise ArgumentTypeError(
            f"{function}: data must be feeds that can be read twice, got {type(data).__name__}; give a list, or "
            "edgekern.samples"
        )


def first_feed(function: str, session: InferenceSession, data: object) -> dict[str, Any]:
    """Rows that the program takes at a time, of the data's first feed; random numbers where there is none."""
    if data is None:
        return random_feeds(session.program.inputs)
    _, feeds = next(numbered(function, data), ([], None))
    if feeds is None:
        raise ArgumentValueError(f"{function}: data holds no samples; give some")
    infos = {info.name: coded(info) for info in session.program.inputs}
    codes = {name: as_codes(array, infos.get(name)) for name, array in feeds.items()}
    return dict(next(cut(codes, {node.name: node.shape for node in session.get_inputs()})))


def gates_of_answers(function: str, limits: Limits, seen: Seen, top: int) -> list[Gate]:
    """Of what a program gives, beside its float model."""
    rows, of = [], f"{seen.samples} samples, float model in onnxruntime"
    if limits.max_drop is not None:
        told = f"{seen.float_top:.2%} in float, {seen.top:.2%} here; {of}"
        require_a_score(function, limits.max_drop, seen.float_top or 0.0)
        rows.append(Gate("max_drop", f"top-{top} lost", limits.max_drop, seen.drop, told))
    if limits.min_sqnr_db is not None:
        if not seen.outputs:
            raise ArgumentValueError(f"{function}: min_sqnr_db must have a float output to be measured; there is none")
        name, sums = seen.worst
        told = f"output {name!r}, worst of {len(seen.outputs)}; {of}"
        rows.append(Gate("min_sqnr_db", "SQNR", limits.min_sqnr_db, sums.sqnr_db, told))
    if limits.min_agreement is not None:
        assert seen.agreement is not None
        rows.append(Gate("min_agreement", "same highest score", limits.min_agreement, seen.agreement, of))
    return rows


def require_a_score(function: str, max_drop: float, float_score: float) -> None:
    """Raise ArgumentValueError where the float model scores so little that no program could lose too much."""
    if 0 <= float_score <= max_drop:
        raise ArgumentValueError(
            f"{function}: max_drop must be below what the float model scores, {float_score:.2%}, else nothing fails "
            f"it, got {max_drop:g}; look whether labels are those of this model (--label-offset), and data is read as "
            "it was trained (--preset, --size)"
        )


def gates_of_costs(
    limits: Limits, session: InferenceSession, fed: dict[str, Any], *, runs: int, grown_bytes: int | None
) -> list[Gate]:
    """Of what a program takes."""
    rows, program = [], session.program
    if limits.max_bytes is not None:
        rows.append(Gate("max_bytes", "file", float(limits.max_bytes), program.nbytes, "size of the .ekm"))
    if limits.max_memory_bytes is not None:
        measured, told = memory_bytes(session, grown_bytes)
        rows.append(Gate("max_memory_bytes", "memory", float(limits.max_memory_bytes), measured, told))
    if limits.max_latency_ms is not None:
        measured_ms, told = latency_ms(session, fed, runs)
        rows.append(Gate("max_latency_ms", "latency, p50", limits.max_latency_ms, measured_ms, told))
    return rows


def memory_bytes(session: InferenceSession, grown_bytes: int | None) -> tuple[int, str]:
    """What a session takes, and of what that is the larger."""
    own, file = session.arena_bytes, session.program.nbytes
    told = f"arena and scratch {own:,} + file {file:,}"
    told += "" if grown_bytes is None else f", or {grown_bytes:,} that this process grew by: the larger"
    told += "; host steps' own memory is not in it" if session.program.host_steps and grown_bytes is None else ""
    return max(own + file, grown_bytes or 0), told


def latency_ms(session: InferenceSession, fed: dict[str, Any], runs: int) -> tuple[float, str]:
    """p50 of runs of one feed."""
    times = np.empty(runs)
    for _ in range(min(_WARM_UP, runs)):
        session.run(None, fed)
    for at in range(runs):
        start = time.perf_counter()
        session.run(None, fed)
        times[at] = time.perf_counter() - start
    threads = f"{session.num_threads} thread{'s' if session.num_threads > 1 else ''}"
    return float(np.median(times)) * 1e3, f"{runs} runs on this machine, {threads}, {session.isa}: {cpu_model()}"
