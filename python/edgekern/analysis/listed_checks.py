"""The list of checks that articles give for a quantized model, each line checked, failed, or why it cannot be.

docs/validate.md says where the list comes from, and where it was wrong.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekern._arrays import Lent
from edgekern._core import StepKind
from edgekern._reports import Chart, Report, table
from edgekern.analysis.figures import LEAST_COSINE, WATCH_DB
from edgekern.analysis.gates import first_feed
from edgekern.analysis.runs import run_of_model, run_of_program
from edgekern.analysis.side_by_side import Seen, labels_of, side_by_side
from edgekern.artifact import Program
from edgekern.calibration import Ranges, coverage
from edgekern.runtime import InferenceSession, stress
from edgekern.runtime.profile import positive

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]

_LEAST_SAMPLES, _MOST_LOST, _LEAST_RUNS, _TOP = 200, 0.01, 1000, 10
_PRODUCTS = frozenset({StepKind.CONV, StepKind.DEPTHWISE, StepKind.GEMM})


@dataclass(frozen=True)
class Check:
    """One line.

    Attributes
    ----------
    section, check : as the list has them
    verdict : "ok", "FAILED", or "not checked"
    told : the figure, or why there is none; and what is wrong with the line, where something is
    """

    section: str
    check: str
    verdict: str
    told: str


@dataclass(frozen=True, repr=False)
class Checklist(Report):
    """Rows of :func:`checklist`; ``str()`` is the table."""

    rows: tuple[Check, ...]

    _derived: ClassVar[tuple[str, ...]] = ()

    @property
    def passed(self) -> bool:
        """Whether no line failed; lines that could not be checked do not count."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(row.check for row in self.rows if row.verdict == "FAILED")

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **super().to_dict()}

    def __str__(self) -> str:
        columns = {"": "<", "check": "<", "verdict": "<", "what was seen": "<"}
        shown = table(columns, [(r.section, r.check, r.verdict, r.told) for r in self.rows])
        count = [sum(row.verdict == verdict for row in self.rows) for verdict in ("ok", "FAILED", "not checked")]
        return f"{shown}\n{count[0]} ok, {count[1]} failed, {count[2]} cannot be checked here"

    def __repr__(self) -> str:
        return f"Checklist({len(self.rows)} lines, failures={self.failures!r})"

    def _chart(self) -> Chart:
        height = {"ok": 1.0, "FAILED": 0.0, "not checked": math.nan}
        return Chart("Checks", "1 is ok", [(row.check, height[row.verdict]) for row in self.rows], {})


def checklist(
    program: InferenceSession | Program | str | os.PathLike[str],
    data: Iterable[Mapping[str, Lent]] | None = None,
    labels: Sequence[int] | Array | None = None,
    *,
    float_model: ModelLike | None = None,
    ranges: Ranges | None = None,
    runs: int = _LEAST_RUNS,
    output: str | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> Checklist:
    """Go through the list with all that is given; what a line lacks is named in it.

    Parameters
    ----------
    program : Program, path of an .ekm, or InferenceSession
    data, labels, float_model, output, num_threads, progress : as of :func:`edgekern.validate`
    ranges : those that the program was quantized with
    runs : of the test for stability; the list wants 1000

    Returns
    -------
    Checklist

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, CalibrationError
        When something that is given does not fit the rest.
    """
    truth = labels_of("checklist", data, labels)
    positive("checklist", "runs", runs)
    session = program if isinstance(program, InferenceSession) else InferenceSession(program, num_threads=num_threads)
    rows = _deployment(session, runs)  # first: the float model below takes memory of this process, too
    rows = [*_performance(session, first_feed("checklist", session, data)), *rows]
    seen = None
    if data is not None and float_model is not None:
        seen = side_by_side(
            run_of_program(session),
            run_of_model(float_model, function="checklist"),
            data,
            truth,
            function="checklist",
            scores=None if truth is None else output or session.program.outputs[0].name,
            progress=progress,
        )
    rows = [*_accuracy(seen), *rows]
    rows = [*_data(float_model, ranges, data), *_configuration(session.program), *rows]
    return Checklist(tuple(rows))


def _line(section: str, check: str, well: bool | None, told: str) -> Check:
    return Check(section, check, "not checked" if well is None else "ok" if well else "FAILED", told)


def _data(model: ModelLike | None, ranges: Ranges | None, data: Any) -> list[Check]:
    at = "calibration data"
    count = None if ranges is None or model is None else _samples_of(model, ranges)
    missing = "give the ranges and the float model (--ranges, --float)"
    rows = [
        _line(
            at,
            f"at least {_LEAST_SAMPLES} samples",
            None if count is None else count >= _LEAST_SAMPLES,
            missing if count is None else f"{count:,}; what counts more is that they vary",
        )
    ]
    covers = "covers what is met in use"
    if ranges is None or model is None or data is None:
        rows.append(_line(at, covers, None, f"{missing}, and data that did not calibrate"))
    else:
        found = coverage(model, ranges, data)
        told = f"{len(found.outside)} of {len(found.rows)} tensors have 0.1 % more outside their range than at "
        told += f"calibration on {found.samples} samples; other data than that of calibration tells more"
        rows.append(_line(at, covers, not found.outside, told))
    edge = "no program knows which they are: put them into data, and the line above counts them"
    return [*rows, _line(at, "has the edge cases", None, edge)]


def _samples_of(model: ModelLike, ranges: Ranges) -> int | None:
    """By the numbers that a float input had, where the size of a sample is known."""
    from edgekern.graph.model import open_model

    for value in open_model(model, function="checklist").inputs:
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim[1:]]
        if value.name in ranges and all(sides):
            return int(ranges[value.name].count // math.prod(sides))
    return None


def _configuration(program: Program) -> list[Check]:
    at = "quantization"
    channels = [_has_channel_scales(program, step) for step in program.index.steps if step.kind in _PRODUCTS]
    rows = [
        _line(
            at,
            "a scale for each channel of weights",
            all(channels) if channels else None,
            f"{sum(channels)} of {len(channels)} int8 products have several" if channels else "it has no int8 product",
        )
    ]
    told = json.loads(program.manifest.quantization or "{}")
    method, activations = told.get("ranges", {}).get("method"), told.get("config", {}).get("activations")
    other = "another tool wrote the QDQ model, which does not say how"
    rows.append(
        _line(
            at,
            "a fitting observer for activations",
            None,
            f"ranges by {method!r}; whether they fit is what accuracy and coverage tell" if method else other,
        )
    )
    told_of = (
        f"weights symmetric, activations {activations}; behind a ReLU u8 has a quarter of the squared error, not half"
    )
    asymmetric = None if activations is None else activations == "u8"
    return [
        *rows,
        _line(at, "symmetric weights, asymmetric activations", asymmetric, told_of if activations else other),
    ]


def _has_channel_scales(program: Program, step: Any) -> bool:
    """Whether the factors of its channels differ; of a single channel there is one."""
    blob = program.index.blobs[step.blobs[2]]
    multipliers = bytes(program.container.checked(blob.name)[: blob.bytes])
    channels = step.arguments.get("out_channels") or step.arguments.get("columns") or step.arguments["channels"]
    found = np.frombuffer(multipliers, np.float32)[:channels]
    return channels == 1 or bool((found != found[0]).any())


def _accuracy(seen: Seen | None) -> list[Check]:
    at = "accuracy"
    if seen is None:
        lacks = "give data and the float model (--float)"
        names = (f"cosine above {LEAST_COSINE}", f"SQNR above {WATCH_DB:g} dB", "task metric loses less than 1 %")
        return [_line(at, name, None, lacks) for name in names]
    rows = _of_outputs(seen)
    if seen.top is None:
        return [*rows, _line(at, "task metric loses less than 1 %", None, "give labels (--labels)")]
    told = f"top-1 {seen.top:.2%}, float {seen.float_top:.2%}, {seen.samples} samples; neither figure above says this"
    return [*rows, _line(at, "task metric loses less than 1 %", seen.drop < _MOST_LOST, told)]


def _of_outputs(seen: Seen) -> list[Check]:
    at, names = "accuracy", (f"cosine above {LEAST_COSINE}", f"SQNR above {WATCH_DB:g} dB")
    if not seen.outputs:
        return [_line(at, name, None, "no output is of floats") for name in names]
    name, sums = seen.worst
    cosine = float(np.min([each.cosine for each in seen.outputs.values()]))  # NaN is the least
    return [
        _line(
            at,
            names[0],
            cosine > LEAST_COSINE,
            f"{cosine:.6f}, worst output; it is a weaker gate than the next by 10 dB, and blind to a wrong gain",
        ),
        _line(
            at,
            names[1],
            sums.sqnr_db > WATCH_DB,
            f"{sums.sqnr_db:.2f} dB, output {name!r}; of logits 20 dB can lose nothing: the task decides",
        ),
    ]


def _performance(session: InferenceSession, fed: Mapping[str, Any]) -> list[Check]:
    at, program = "performance", session.program
    profile = session.profile(fed)
    top = profile.top(_TOP)
    share = sum(step.share for step in top)
    moves = [step for step in profile.steps if step.kind in ("TRANSPOSE", "PERMUTE")]
    images = f"images lie as NHWC inside, whatever the model has; {len(moves)} transpositions, "
    images += f"{sum(step.share for step in moves):.1%} of the time"
    hosts = "; ".join(f"{step.name}: {step}" for step in program.host_steps)
    plan = program.memory_plan
    return [
        _line(
            at,
            f"the {_TOP} slowest layers are known",
            True,
            f"{len(top)} of {len(profile.steps)} steps take {share:.0%}, first {top[0].name!r}, "
            f"{top[0].p50_us:.1f} us; edgekern profile shows all",
        ),
        _line(at, "no operator falls back", not program.host_steps, hosts or "every step has a kernel of edgekern's"),
        _line(
            at,
            "VTCM used by more than 70 %",
            None,
            f"a CPU has none; of the arena's {plan.arena_bytes:,} bytes {plan.lower_bound:,} are alive at the peak",
        ),
        _line(at, "inputs lie as NHWC", True, images),
    ]


def _deployment(session: InferenceSession, runs: int) -> list[Check]:
    at = "before it is shipped"
    found = stress(session, concurrency=1, runs=runs)
    steady = "outputs" not in found.failures and "memory growth" not in found.failures
    ran = f"{runs} runs on this machine: {found.drifted} differ, memory grew by {max(found.growth_bytes, 0):,} bytes"
    few = None if steady and runs < _LEAST_RUNS else steady
    peak = found.peak_bytes / found.budget_bytes * 0.6
    change = found.last_p50_ms / found.first_p50_ms - 1
    return [
        _line(
            at,
            f"{_LEAST_RUNS} runs on the device are stable",
            few,
            ran + ("; run it on the device, too" if few else ""),
        ),
        _line(
            at,
            "memory peaks below 60 % of what there is",
            "peak memory" not in found.failures,
            f"{peak:.1%}, this process with all that it had loaded",
        ),
        _line(
            at,
            "no slower once it is warm",
            None,
            f"no temperature is read here, and {found.seconds:.1f} s warm no device up; the last tenth of them was "
            f"{change:+.1%} of the first: edgekern stress runs for longer",
        ),
    ]
