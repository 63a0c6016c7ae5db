"""From a float model to a program in one call: calibrate, choose ranges, quantize, compile, compare, evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from edgekern._arguments import number
from edgekern._arrays import Lent
from edgekern._reports import Chart, Report, table
from edgekern.analysis.comparison import compare
from edgekern.analysis.error_report import ErrorRow
from edgekern.analysis.figures import SENSITIVE_DB, WATCH_DB, worst_first
from edgekern.analysis.gates import (
    Gate,
    Limits,
    Validation,
    first_feed,
    gates_of_answers,
    gates_of_costs,
    latency_ms,
    require_twice,
    require_what_is_needed,
)
from edgekern.analysis.runs import Run, run_of_model, run_of_program
from edgekern.analysis.side_by_side import labels_of, numbered, side_by_side
from edgekern.calibration import AnyMethod, Calibrator, Ranges
from edgekern.calibration.sources import Samples
from edgekern.compiler import compile as compile_program
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.graph.dimensions import fix_dimensions
from edgekern.graph.model import load_model, model_files, open_model
from edgekern.quantization import QuantConfig, choose_ranges, plan_of, quantize
from edgekern.runtime import InferenceSession
from edgekern.runtime.profile import positive

if TYPE_CHECKING:
    import onnx

    from edgekern.artifact import Program
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]
Evaluate = Callable[[Run], float]

_COMPARED, _WORST = 16, 10  # samples that tell layers apart, and layers that are shown


@dataclass(frozen=True)
class OutputRow:
    """How far one output of the program is from float, all samples together."""

    name: str
    sqnr_db: float
    cosine: float
    max_error: float


@dataclass(frozen=True, repr=False)
class CompressReport(Report):
    """What became of a model; ``str()`` is a table.

    Attributes
    ----------
    float_bytes, program_bytes, memory_bytes : of the ONNX model, of the .ekm, and of what a session owns beside it
    method : by which ranges were chosen; products : how many have each recipe
    samples : on which outputs were compared, and ``held_out`` whether they are others than those of calibration
    outputs : an :class:`OutputRow` each
    float_score, score : what ``evaluate`` gives for both, or the share of labels that are right; None without either
    latency_ms : p50 of ``runs`` runs on this machine, that of the gate where there is one; None where none are timed
    gates : of the limits; None without any
    rows : the layers of :func:`edgekern.compare` that are furthest from float, worst first
    """

    float_bytes: int
    program_bytes: int
    memory_bytes: int
    method: str
    products: Mapping[str, int]
    samples: int
    held_out: bool
    outputs: tuple[OutputRow, ...]
    rows: tuple[ErrorRow, ...]
    float_score: float | None = None
    score: float | None = None
    latency_ms: float | None = None
    measured_on: str = ""
    gates: Validation | None = field(default=None)

    _derived: ClassVar[tuple[str, ...]] = ("mark",)

    @property
    def drop(self) -> float | None:
        """What the program scores less than the float model."""
        return None if self.score is None or self.float_score is None else self.float_score - self.score

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return self.gates is None or self.gates.passed

    def to_dict(self) -> dict[str, Any]:
        gates = None if self.gates is None else self.gates.to_dict()
        return {**super().to_dict(), "drop": self.drop, "passed": self.passed, "gates": gates}

    def __str__(self) -> str:
        other = "other samples than those of calibration" if self.held_out else "samples, those of calibration"
        products = ", ".join(f"{count} by {name}" for name, count in sorted(self.products.items())) or "none"
        rows = [
            ("size", f"{self.float_bytes:,} bytes", f"{self.program_bytes:,} bytes"),
            ("score", _shown(self.float_score), _shown(self.score)),
            ("latency, p50", "", "" if self.latency_ms is None else f"{self.latency_ms:.3f} ms, {self.measured_on}"),
            ("memory of a session", "", f"{self.memory_bytes:,} bytes and the file"),
        ]
        lines = [
            table({"": "<", "float": "<", "program": "<"}, [row for row in rows if row[2]]),
            f"products: {products}; ranges by {self.method!r}",
            "",
            table(
                {"output": "<", "SQNR dB": ".2f", "cosine": ".6f", "max error": ".4g"},
                [(r.name, r.sqnr_db, r.cosine, r.max_error) for r in self.outputs],
            ),
            f"on {self.samples} {other}",
            "",
            table(
                {
                    "worst layers": "<",
                    "operators": "<",
                    "SQNR dB": ".2f",
                    "own dB": ".2f",
                    "": "<",
                    "recommendation": "<",
                },
                [(r.name, r.op, r.sqnr_db, r.own_db, r.mark, r.recommendation) for r in self.rows],
            ),
        ]
        return "\n".join([*lines, *([] if self.gates is None else ["", str(self.gates)])])

    def __repr__(self) -> str:
        return (
            f"CompressReport({self.float_bytes} -> {self.program_bytes} bytes, drop={self.drop}, passed={self.passed})"
        )

    def _chart(self) -> Chart:
        limits = {"watch": WATCH_DB, "sensitive": SENSITIVE_DB}
        return Chart("The worst layers", "SQNR, dB", [(r.name, r.sqnr_db) for r in self.rows], limits)


@dataclass(frozen=True)
class Compressed:
    """What :func:`compress` gives.

    Attributes
    ----------
    program : Program, to save; qdq : the QDQ model; ranges : those that were chosen; report : CompressReport
    """

    program: Program
    qdq: onnx.ModelProto = field(repr=False)
    ranges: Ranges
    report: CompressReport


def compress(
    model: ModelLike,
    data: Iterable[Feeds],
    evaluate: Evaluate | None = None,
    *,
    labels: Sequence[int] | Array | None = None,
    held_out: Iterable[Feeds] | None = None,
    config: QuantConfig | None = None,
    method: AnyMethod | None = None,
    batch: int = 1,
    shapes: Shapes | None = None,
    allow_host: bool = True,
    max_drop: float | None = None,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    max_bytes: int | str | None = None,
    max_memory_bytes: int | str | None = None,
    max_latency_ms: float | None = None,
    top: int = 1,
    runs: int = 0,
    output: str | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> Compressed:
    """Calibrate, choose ranges, quantize, compile, compare and evaluate.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto. In float32.
    data : feeds, as often as one likes: a list, or :func:`edgekern.samples`
    evaluate : a function that scores a model, the higher the better: it gets a function from feeds to a dict of
        outputs by name, of the float model, then of the program. None counts right labels, where there are any.
    labels : class of each sample of ``held_out``, or of ``data``; None takes those of the samples
    held_out : feeds that did not calibrate, to compare on; None is ``data``
    config : QuantConfig, optional
    method : of choosing ranges; None takes the one whose quantized model is nearest to the float model
        (:func:`edgekern.choose_ranges`)
    batch, shapes, allow_host : as of :func:`edgekern.compile`
    max_drop, min_sqnr_db, min_agreement, max_bytes, max_memory_bytes, max_latency_ms
        Limits, as of :func:`edgekern.validate`; ``max_drop`` is of the score. A program that does not keep them is
        returned all the same: ``result.report.passed`` tells.
    top, output, num_threads : as of :func:`edgekern.validate`
    runs : how many are timed; 0 times none, 100 where ``max_latency_ms`` is given
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    Compressed

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, CalibrationError, QuantizationError, CompileError, HostStepError
        As of the steps; a limit that could not be measured is refused before the first of them.

    Warns
    -----
    EdgekernWarning
        As of the steps.
    """
    limits = Limits(max_drop, min_sqnr_db, min_agreement, max_bytes, max_memory_bytes, max_latency_ms)
    limits = limits.checked("compress")
    seen_data: Any = data if held_out is None else held_out
    truth = labels_of("compress", seen_data, labels)
    if evaluate is not None and not callable(evaluate):
        raise ArgumentTypeError(f"compress: evaluate must be a function, got {type(evaluate).__name__}")
    if limits != Limits():
        scored = evaluate if truth is None else truth
        require_what_is_needed("compress", limits, data=seen_data, labels=scored, float_model=model)
    positive("compress", "top", top)
    for given in (data, held_out):
        require_twice("compress", given)
    if runs != 0 or isinstance(runs, bool):
        positive("compress", "runs", runs)
    _require_sizes(model, shapes)
    _require_whole_batches(seen_data, batch)
    calibrator = Calibrator(model, shapes=shapes, progress=progress)
    calibrator.collect_many(data)
    ranges = (
        choose_ranges(calibrator, model, config, shapes=shapes, progress=progress)
        if method is None
        else calibrator.compute_ranges(method=method)
    )
    qdq = quantize(model, ranges, config, samples=calibrator, shapes=shapes, progress=progress)
    program = compile_program(qdq, batch=batch, allow_host=allow_host)
    session = InferenceSession(program, num_threads=num_threads)
    ours, theirs = run_of_program(session), run_of_model(model, function="compress")
    counted = evaluate is None and truth is not None
    seen = side_by_side(
        ours,
        theirs,
        seen_data,
        truth if counted else None,
        function="compress",
        scores=(output or program.outputs[0].name) if counted or min_agreement is not None else None,
        top=top,
        progress=progress,
    )
    float_score, score = seen.float_top, seen.top
    if evaluate is not None:
        float_score, score = (number("compress", "what evaluate returns", evaluate(run)) for run in (theirs, ours))
    fed, rows = first_feed("compress", session, seen_data), list[Gate]()
    if limits.max_drop is not None and evaluate is not None:
        assert float_score is not None
        assert score is not None
        told = f"{_shown(float_score)} in float, {_shown(score)} here, by evaluate"
        rows.append(Gate("max_drop", "score lost", limits.max_drop, float_score - score, told))
        rows += gates_of_answers("compress", Limits(None, limits.min_sqnr_db, limits.min_agreement), seen, top)
    else:
        rows += gates_of_answers("compress", limits, seen, top)
    rows += gates_of_costs(limits, session, fed, runs=runs or 100, grown_bytes=None)
    timed = next(((row.measured, row.source) for row in rows if row.name == "max_latency_ms"), (None, ""))
    latency, measured_on = latency_ms(session, fed, runs) if runs and timed[0] is None else timed
    outputs = [OutputRow(name, s.sqnr_db, s.cosine, s.max_error) for name, s in seen.outputs.items()]
    report = CompressReport(
        float_bytes=_bytes_of(model),
        program_bytes=program.nbytes,
        memory_bytes=session.arena_bytes,
        method=ranges.method,
        products=plan_of(qdq).counts(),
        samples=seen.samples,
        held_out=held_out is not None,
        outputs=tuple(sorted(outputs, key=lambda row: worst_first(row.sqnr_db))),
        rows=compare(model, program, _few(seen_data)).worst(_WORST),
        float_score=float_score,
        score=score,
        latency_ms=latency,
        measured_on=measured_on,
        gates=Validation(tuple(rows)) if rows else None,
    )
    return Compressed(program, qdq, ranges, report)


def _require_sizes(model: ModelLike, shapes: Shapes | None) -> None:
    """What compile would say at the end, before anything is run."""
    opened = fix_dimensions(open_model(model, function="compress"), shapes, function="compress")
    for value in opened.inputs:
        sides = value.type.tensor_type.shape.dim
        if any(not side.dim_value for side in sides[1:]):
            shown = ", ".join(str(side.dim_value or side.dim_param or "?") for side in sides)
            raise ArgumentValueError(
                f"compress: input {value.name!r} must have sizes but for its first, got ({shown}); give them with "
                f"shapes={{{value.name!r}: ...}} (--shape {value.name}=...)"
            )


def _require_whole_batches(data: Any, batch: object) -> None:
    """What running the program would say at the end, as far as it can be known before."""
    if not isinstance(batch, int) or batch < 2:
        return
    feeds = data if isinstance(data, Sequence) else [next(iter(data), {})] if isinstance(data, Samples) else []
    counts = {len(array) for feed in feeds for array in list(feed.values())[:1] if getattr(array, "ndim", 0)}
    counts |= {data.num_samples} if isinstance(data, Samples) else set()
    for count in sorted(counts):
        if count % batch:
            raise ArgumentValueError(
                f"compress: batch must divide the rows of each feed, got batch={batch} and {count} rows; give feeds of "
                f"so many (edgekern.samples(batch={batch})), leave out some (--samples), or take batch=1"
            )


def _few(data: Any) -> list[Mapping[str, Any]]:
    """Feeds of 16 samples: compare keeps what is in them."""
    found, count = list[Mapping[str, Any]](), 0
    for numbers, feeds in numbered("compress", data):
        found.append(feeds)
        count += len(numbers)
        if count >= _COMPARED:
            break
    return found


def _bytes_of(model: ModelLike) -> int:
    """Of the files of a model, or of its encoding."""
    if isinstance(model, (str, os.PathLike)):
        return sum(Path(file).stat().st_size for file in model_files(model, function="compress"))
    return len(model) if isinstance(model, bytes) else load_model(model, function="compress").ByteSize()


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"
