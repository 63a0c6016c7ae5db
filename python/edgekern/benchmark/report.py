"""What was measured, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgekern.benchmark import others
from edgekern.benchmark.answers import Difference
from edgekern.benchmark.fresh import Fresh
from edgekern.benchmark.rounds import RULE, Ratio, Timing
from edgekern.benchmark.text import aligned, megabytes, milliseconds, plural, wrapped
from edgekern.benchmark.work import PRODUCTS, told


@dataclass(frozen=True)
class Row:
    """One contender on so many threads: its times, multiply-adds a second, and their share of this machine's peak.

    Multiply-adds are those of the model, however many a contender really does; the peak is that of their precision.
    """

    who: str
    num_threads: int
    timing: Timing
    macs_per_s: float
    peak_share: float


@dataclass(frozen=True)
class Gain:
    """How many times as fast ``who`` is as ``than``."""

    num_threads: int
    who: str
    than: str
    ratio: Ratio


@dataclass(frozen=True)
class Work:
    """What the time of a run goes to.

    Attributes
    ----------
    kinds : microseconds by kind of work, of each program
    causes : of :class:`~edgekern.runtime.Profile`
    peaks : multiply-adds a second on registers, by precision
    quantized : whether the model is
    """

    num_threads: int
    kinds: Mapping[str, Mapping[str, float]]
    causes: tuple[str, ...]
    peaks: Mapping[str, float]
    quantized: bool


@dataclass(frozen=True)
class Cost:
    """What a contender costs a process of its own; ``file_bytes`` with external data, no arena where none is known."""

    who: str
    num_threads: int
    file_bytes: int
    arena_bytes: int | None
    fresh: Fresh


@dataclass(frozen=True)
class ModelReport:
    """What :func:`edgekern.benchmark.bench_model` has measured; ``str()`` is all of it as text.

    Attributes
    ----------
    model, versus : paths
    multiply_adds : of a run, by precision
    inputs : shapes by name; ``data`` says what was in them
    cpu, isa, versions : what it ran on
    compile_ms : by contender, where a model was compiled
    differences : outputs of each contender from what ONNX defines, as onnxruntime computes it with all rewrites off
    from_float : outputs of the model from those of the float model, where there is one
    left_out : contenders that were not timed, with the reason
    others_busy : CPUs that other processes kept busy meanwhile; None where the system does not say
    rows, gains, work, costs
    """

    model: str
    versus: str | None
    multiply_adds: Mapping[str, int]
    inputs: Mapping[str, list[int]]
    data: str
    cpu: str
    isa: str
    versions: Mapping[str, str]
    compile_ms: Mapping[str, float]
    differences: Mapping[str, Difference]
    from_float: Difference | None
    left_out: Mapping[str, str]
    others_busy: float | None
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    work: tuple[Work, ...]
    costs: tuple[Cost, ...]

    def to_json(self) -> str:
        """All figures. An infinite ratio, where outputs are the same, is null."""
        text = json.dumps(asdict(self) | {"rule": RULE.format(rounds=self._rounds)})
        return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Everything, for people."""
        parts = [self.head(), self._answers(), self._latencies(), self._gains(), self._costs()]
        parts += [self._work(work) for work in self.work]
        return "\n\n".join("\n".join(part) for part in [*parts, wrapped(RULE.format(rounds=self._rounds))] if part)

    @property
    def _rounds(self) -> int:
        return len(self.rows[0].timing.medians_us)

    def head(self) -> list[str]:
        """The model, and what it ran on."""
        total = sum(self.multiply_adds.values())
        shares = ", ".join(f"{count / total:.1%} in {what}" for what, count in self.multiply_adds.items() if count)
        on_host = shares.replace("in host", "on the host")
        count = f"{total / 1e6:,.1f} million" if total >= 1e6 else f"{total:,}"
        shapes = ", ".join(f"{name}{shape}" for name, shape in self.inputs.items())
        lines = [
            f"{self.model}: {count} multiply-adds{f', {on_host}' if total else ''}",
            *([f"beside {self.versus}"] if self.versus else []),
            f"on {shapes}, {self.data}",
            f"{self.cpu}, {self.isa}; {', '.join(f'{name} {version}' for name, version in self.versions.items())}",
        ]
        took = [f"{who} in {ms / 1e3:.1f} s" for who, ms in self.compile_ms.items()]
        return [*lines, *([f"compiled {' and '.join(took)}"] if took else [])]

    def _answers(self) -> list[str]:
        lines = [f"  {who}: {found}" for who, found in self.differences.items()]
        if lines:
            lines = ["outputs, from what ONNX defines (onnxruntime without rewrites)", *lines]
        if self.from_float is not None:
            lines.append(f"  edgekern from the float model: {self.from_float}")
        if not lines:
            lines.append("outputs are compared with nothing")
        return [*lines, *(f"  {who} is not timed: {why}" for who, why in self.left_out.items())]

    def _latencies(self) -> list[str]:
        rows = [("threads", "", "p50 ms", "p95 ms", "p99 ms", "runs/s", "GMAC/s", "of peak", "runs")]
        for row in self.rows:
            times = (milliseconds(us) for us in (row.timing.p50_us, row.timing.p95_us, row.timing.p99_us))
            rate = f"{row.timing.runs_per_s:,.0f}" if row.timing.runs_per_s >= 100 else f"{row.timing.runs_per_s:.1f}"
            macs = (f"{row.macs_per_s / 1e9:.1f}", f"{row.peak_share:.0%}") if row.macs_per_s else ("", "")
            rows.append((str(row.num_threads), row.who, *times, rate, *macs, f"{row.timing.runs:,}"))  # type: ignore[arg-type]
        above = any(row.peak_share > 1 for row in self.rows)
        note = (
            "of peak above 100%: fewer bits or multiply-adds than the model has, or a machine that was busy meanwhile"
        )
        return [*aligned(rows, "><>>>>>>>"), *([note] if above else []), *self.busy()]

    def busy(self) -> list[str]:
        """What other processes did meanwhile."""
        return others.told(self.others_busy)

    def _gains(self) -> list[str]:
        slower = list(dict.fromkeys(gain.than for gain in self.gains))
        if not slower:
            return []
        rows = [(f"{self.gains[0].who} is so many times as fast as", *slower)]
        for threads in dict.fromkeys(gain.num_threads for gain in self.gains):
            found = {gain.than: str(gain.ratio) for gain in self.gains if gain.num_threads == threads}
            rows.append((plural(threads, "thread"), *(found[other] for other in slower)))
        return aligned(rows, "<" + ">" * len(slower))

    def _costs(self) -> list[str]:
        threads = plural(self.costs[0].num_threads, "thread")
        rows = [
            (f"a new process, {threads}", "open ms", "first run ms", "file MB", "arena MB", "peak MB", "imports MB")
        ]
        for cost in self.costs:
            arena = "" if cost.arena_bytes is None else megabytes(cost.arena_bytes)
            times = (f"{cost.fresh.open_ms:.1f}", milliseconds(cost.fresh.first_run_ms * 1e3))
            memory = (megabytes(cost.fresh.peak_bytes), megabytes(cost.fresh.import_bytes))
            rows.append((cost.who, *times, megabytes(cost.file_bytes), arena, *memory))
        return aligned(rows, "<>>>>>>")

    def _work(self, work: Work) -> list[str]:
        own, *rest = work.kinds
        other = rest[0] if rest else None
        head = (
            f"what the time goes to, {plural(work.num_threads, 'thread')}",
            f"{own} us",
            f"{other} us",
            "times as fast",
        )
        rows = [head, *told(work.kinds[own], work.kinds[other] if other else None)]
        rows = rows if other else [row[:2] for row in rows]  # type: ignore[misc]
        causes = [line for cause in work.causes for line in wrapped(cause, bullet="- ")]
        return [*aligned(rows, "<>>>"), "", *self._expected(work), *causes]

    def _expected(self, work: Work) -> list[str]:
        """What 8 or 16 bits gain, beside what they could, by the run's own figures."""
        gains = [g for g in self.gains if g.num_threads == work.num_threads and g.than.endswith(" float")]
        if not gains or not work.quantized:
            return []
        gain = min(gains, key=lambda found: found.ratio.median)
        bits = max(("8 bits", "16 bits"), key=lambda one: self.multiply_adds.get(one, 0))
        most = work.peaks[bits] / work.peaks["float32"]
        own, other = (work.kinds[who] for who in (gain.who, "edgekern float"))
        text = f"{bits} are {gain.ratio.median:.2f} times as fast as {gain.than}. On registers this machine does "
        text += f"{most:.1f} times as many multiply-adds in {bits} as in float32"
        if own[PRODUCTS] and other[PRODUCTS]:
            rest = 1 - own[PRODUCTS] / sum(own.values())
            text += (
                f"; here products are {other[PRODUCTS] / own[PRODUCTS]:.1f} times as fast as edgekern's in float32, "
            )
            text += f"and {rest:.0%} of the time is no product"
        return wrapped(f"{text}. What it goes to:")
