"""What accuracy costs: plans of a search along a curve, foretold and measured, beside each recipe everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekern._arguments import flag, number
from edgekern._arrays import Lent
from edgekern._reports import Drawn, table
from edgekern.analysis.figures import decibels
from edgekern.analysis.runs import Run, run_of_program
from edgekern.analysis.search_plan import CANDIDATES, Searched, checked_method, told
from edgekern.analysis.solve_plan import Method, solve
from edgekern.analysis.steady_times import steady_ms
from edgekern.calibration.progress import progress_bar
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.profile import positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edgekern.calibration import Calibrator, Ranges
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike
    from edgekern.quantization import Plan, QuantConfig
    from edgekern.quantization.config import Recipe

Over = Literal["ms", "bytes", "bits"]
_AXES = {"ms": "ms of a run, measured", "bytes": "bytes of weights", "bits": "mean bits of a weight"}
_EXACT_DB = 60.0  # above it nothing is lost that a picture could show


@dataclass(frozen=True)
class ParetoPoint:
    """One plan.

    Attributes
    ----------
    name : "searched", or the recipe that is everywhere
    is_searched : whether a search found it; of a recipe everywhere it may, too
    recipes : how many layers have each
    cost, db : what was foretold; measured, measured_db : what the compiled plan takes, and gives on the samples
    score : what ``evaluate`` makes of it; None without one
    """

    name: str
    recipes: Mapping[str, int] = field(hash=False)
    cost: float
    db: float
    measured: float
    measured_db: float
    score: float | None = None
    is_searched: bool = False


@dataclass(frozen=True, repr=False)
class Pareto(Drawn):
    """Rows of :func:`pareto`, by what they cost; ``str()`` is the table.

    Attributes
    ----------
    rows : a :class:`ParetoPoint` each
    over : the unit of costs, "ms", "bytes" or "bits"
    float_score : what ``evaluate`` makes of the float model; None without one
    plans : of each row, a :class:`~edgekern.quantization.Plan`
    """

    rows: tuple[ParetoPoint, ...]
    over: str
    float_score: float | None = None
    plans: tuple[Plan, ...] = field(default=(), repr=False)

    @property
    def front(self) -> tuple[ParetoPoint, ...]:
        """Rows that no other one beats in both measured cost and measured dB."""
        return tuple(row for row in self.rows if not any(_beats(other, row) for other in self.rows))

    def to_dict(self) -> dict[str, Any]:
        return {"over": self.over, "float_score": self.float_score, "rows": [self._written(row) for row in self.rows]}

    def __str__(self) -> str:
        columns = {"plan": "<", self.over: ".4g", "measured": ".4g", "dB": ".2f", "measured dB": ".2f"}
        scored = self.float_score is not None
        columns |= {"score": ".4f"} if scored else {}
        columns |= {"": "<", "layers": "<"}
        front = self.front
        rows = []
        for row in self.rows:
            score = [row.score] if scored else []
            mark = "*" if row in front else ""
            rows.append((row.name, row.cost, row.measured, row.db, row.measured_db, *score, mark, told(row.recipes)))
        last = f"\nfloat scores {self.float_score:.4f}" if scored else ""
        return f"{table(columns, rows)}\n* none is better in both what was measured of time and of dB{last}"

    def __repr__(self) -> str:
        return f"Pareto({len(self.rows)} plans over {self.over}, {len(self.front)} on the front)"

    def _figure(self, make: type[Figure]) -> Figure:
        """Measured dB, and the score where there is one, over measured cost."""
        score = self.float_score
        scored = score is not None
        figure = make(figsize=(9.6 if scored else 5.4, 4.0), layout="constrained")
        left = figure.add_subplot(1, 1 + scored, 1)
        self._draw(left, lambda row: min(row.measured_db, _EXACT_DB))
        left.set_ylabel(f"SQNR of the outputs, dB, at most {_EXACT_DB:.0f}", fontsize=8)
        if score is not None:
            right = figure.add_subplot(1, 2, 2)
            self._draw(right, lambda row: row.score)
            right.axhline(score, color="#444444", linewidth=0.8, linestyle="--", label="float")
            right.set_ylabel("score", fontsize=8)
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=len(labels))
        return figure

    def _draw(self, axes: Any, figure_of: Callable[[ParetoPoint], float | None]) -> None:
        searched = [row for row in self.rows if row.is_searched]
        axes.plot(
            *zip(*((r.measured, figure_of(r)) for r in searched), strict=True), marker="o", ms=4, lw=1, label="searched"
        )
        for number_of, row in enumerate(row for row in self.rows if row.name != "searched"):
            axes.plot([row.measured], [figure_of(row)], "sD^vPX*"[number_of % 7], ms=6, label=f"{row.name} everywhere")
        axes.set_xlabel(_AXES[self.over], fontsize=8)
        axes.set_ymargin(0.15)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3, linewidth=0.5)


def pareto(
    model: ModelLike,
    ranges: Ranges | Calibrator | None,
    data: Iterable[Mapping[str, Lent]] | Mapping[str, Lent] | Calibrator,
    *,
    over: Over = "ms",
    points: int = 8,
    evaluate: Callable[[Run], float] | None = None,
    candidates: Sequence[Recipe] | None = None,
    method: Method = "ilp",
    config: QuantConfig | None = None,
    shapes: Shapes | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> Pareto:
    """Search under several budgets, from the cheapest plan to the most exact one, and measure all plans in turns.

    Parameters
    ----------
    model, ranges, data, candidates, method, config, shapes, num_threads, progress : as for :func:`edgekern.search`
    over : "ms" of a run, "bytes" of weights, or mean "bits" of a weight
    points : how many budgets
    evaluate : scores a plan, the higher the better: it gets a function from feeds to a dict of outputs by name

    Returns
    -------
    Pareto

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, MissingExtraError, QuantizationError, CompileError
        As :func:`edgekern.search`.
    """
    if over not in _AXES:
        raise ArgumentValueError(f"pareto: over must be one of {list(_AXES)}, got {over!r}")
    positive("pareto", "points", points)
    checked_method("pareto", method)
    if evaluate is not None and not callable(evaluate):
        raise ArgumentTypeError(f"pareto: evaluate must be a function, got {type(evaluate).__name__}")
    shown = flag("pareto", "progress", progress)
    names = CANDIDATES[over] if candidates is None else candidates
    begun = Searched.begin(
        "pareto", model, ranges, data, config, names, shapes, num_threads, timed=over == "ms", progress=shown
    )
    problem = begun.prices.problem(over)
    named: dict[tuple[int, ...], str] = {}
    for recipe in dict.fromkeys(option.recipe for options in problem.layers for option in options):
        if recipe in names:
            named[begun.prices.uniform(recipe)] = recipe
    least = problem.cost(problem.cheapest())
    most = problem.cost(begun.prices.exact())
    searched: set[tuple[int, ...]] = set()
    for budget in np.geomspace(least, max(most, least), points) if least > 0 else np.linspace(least, most, points):
        picks = solve(problem, float(budget), method)
        searched |= set() if picks is None else {picks}
    rows = []
    found = [*named, *(searched - named.keys())]
    sessions = [begun.opened(picks) for picks in found]
    times = steady_ms(sessions, begun.fed(sessions[0])) if over == "ms" else [problem.cost(picks) for picks in found]
    with progress_bar("measuring plans", len(found), enabled=shown) as step:
        for picks, session, took in zip(found, sessions, times, strict=True):
            run = run_of_program(session)
            score = None if evaluate is None else number("pareto", "what evaluate returns", evaluate(run))
            db = decibels(1.0, problem.loss(picks))
            name, cost, seen_db = named.get(picks, "searched"), problem.cost(picks), begun.db(run)
            point = ParetoPoint(name, begun.counts(picks), cost, db, took, seen_db, score, picks in searched)
            seen = {over: took} | ({"db": point.measured_db} if math.isfinite(point.measured_db) else {})
            rows.append((point, begun.plan(picks, {}, seen, over)))
            step()
    rows.sort(key=lambda each: each[0].measured)
    real = None if evaluate is None else number("pareto", "what evaluate returns", evaluate(begun.float_run))
    return Pareto(tuple(row for row, _ in rows), over, real, tuple(plan for _, plan in rows))


def _beats(other: ParetoPoint, row: ParetoPoint) -> bool:
    better = other.measured < row.measured or other.measured_db > row.measured_db
    return better and other.measured <= row.measured and other.measured_db >= row.measured_db
