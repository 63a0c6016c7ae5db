"""The plan that loses least under one budget: of bytes, of bits, of wide layers, or of measured milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy.typing as npt

from edgekern._arguments import amount, byte_count, flag, thread_count
from edgekern._arrays import Lent
from edgekern._reports import Chart, Report, table
from edgekern.analysis.figures import decibels, figures_of
from edgekern.analysis.gates import first_feed
from edgekern.analysis.price_layers import Kind, Prices, Quantizer, price_layers
from edgekern.analysis.runs import Run, run_of_model, run_of_program
from edgekern.analysis.side_by_side import numbered
from edgekern.analysis.solve_plan import METHODS, Method, solve
from edgekern.analysis.steady_times import steady_ms
from edgekern.calibration import Calibrator, Ranges
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError
from edgekern.graph.model import model_hash
from edgekern.quantization import Choice, Plan, QuantConfig, quantize
from edgekern.quantization.config import Recipe
from edgekern.quantization.methods import needs_samples
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    import onnx

    from edgekern.artifact import Program
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]

_FAST: tuple[str, ...] = ("w8a8", "w8a16", "w8a8-dynamic", "float32")
_SMALL: tuple[str, ...] = ("w8a8", "w4a8", "w4a8-g32", "float32")
CANDIDATES: Mapping[str, tuple[str, ...]] = {"ms": _FAST, "share": _FAST, "bytes": _SMALL, "bits": _SMALL}
SAMPLES = 16  # they tell layers apart
TRIES = 6  # plans that are measured until one takes what it may
NEAR = 0.05  # of a budget of milliseconds

_UNITS = {"ms": "ms of a run", "bytes": "bytes of weights", "bits": "bits a weight", "share": "share of wide layers"}


@dataclass(frozen=True)
class Trial:
    """A plan that was looked at.

    Attributes
    ----------
    recipes : how many layers have each
    cost, db : what was foretold, in the unit of the budget and as signal to noise of the outputs
    measured, measured_db : what a run takes, of the compiled plan, and what it gives on the samples; what is counted
        is the same in both
    """

    recipes: Mapping[str, int] = field(hash=False)
    cost: float
    db: float
    measured: float
    measured_db: float


@dataclass(frozen=True, repr=False)
class SearchResult(Report):
    """What :func:`search` found; ``str()`` is a table of what was tried.

    Attributes
    ----------
    plan : :class:`~edgekern.quantization.Plan`, to be saved, edited, and given to :func:`edgekern.quantize` by
        ``config=plan.config()``
    model : the QDQ model of that plan
    program : the same, compiled
    kind, budget : "ms", "bytes", "bits" or "share", and its limit
    method : how it was searched
    rows : a :class:`Trial` of each plan that was measured, that of ``plan`` at ``chosen``
    """

    plan: Plan
    model: onnx.ModelProto
    program: Program
    kind: str
    budget: float
    method: str
    rows: tuple[Trial, ...]
    chosen: int

    @property
    def cost(self) -> float:
        """What the plan costs, measured or counted, in the unit of the budget."""
        return self.rows[self.chosen].measured

    @property
    def db(self) -> float:
        """Signal to noise of the outputs, on the samples."""
        return self.rows[self.chosen].measured_db

    @property
    def is_within(self) -> bool:
        """Whether what was measured is at most the budget."""
        return self.cost <= self.budget * (1 + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("kind", "budget", "method", "chosen", "cost", "is_within")},
            "rows": [self._written(row) for row in self.rows],
        }

    def __str__(self) -> str:
        unit = _UNITS[self.kind]
        columns = {"plan": "<", unit: ".4g", "measured": ".4g", "dB": ".2f", "measured dB": ".2f", "": "<"}
        rows = [
            (told(row.recipes), row.cost, row.measured, row.db, row.measured_db, "<-" if at == self.chosen else "")
            for at, row in enumerate(self.rows)
        ]
        kept = "within" if self.is_within else "OVER"
        share = f", {self.cost / self.budget:.1%} of it" if self.budget else ""
        return (
            f"{table(columns, rows)}\nby {self.method!r}: {self.cost:.4g} {unit}, {kept} the budget of "
            f"{self.budget:.4g}{share}; {self.db:.2f} dB"
        )

    def __repr__(self) -> str:
        return f"SearchResult({told(self.plan.counts())}: {self.cost:.4g} of {self.budget:.4g} {self.kind})"

    def _chart(self) -> Chart:
        bars = [(choice.node, _db(choice.loss)) for choice in self.plan.choices if choice.loss]
        return Chart("What each layer loses in its recipe", "SQNR of the outputs, dB", sorted(bars, key=_figure), {})


@dataclass(frozen=True)
class Searched:
    """What a search starts from: prices, what writes the model, and the samples that plans are measured on."""

    prices: Prices
    quantizer: Quantizer
    samples: Sequence[Mapping[str, Any]] = field(repr=False)
    float_run: Run
    real: Sequence[Mapping[str, Array]] = field(repr=False)  # outputs of the float model
    num_threads: int | None

    @staticmethod
    def begin(
        function: str,
        model: ModelLike,
        ranges: Ranges | Calibrator | None,
        data: object,
        config: QuantConfig | None,
        candidates: Sequence[str],
        shapes: Shapes | None,
        num_threads: int | None,
        *,
        timed: bool,
        progress: bool,
    ) -> Searched:
        names = _candidates(function, candidates, ranges)
        thread_count(function, num_threads)
        given = checked_config(function, config)
        samples = few_samples(function, data)
        known = ranges.compute_ranges() if isinstance(ranges, Calibrator) else ranges
        quantizer = Quantizer(model, known, given, shapes, function)
        prices = price_layers(quantizer, samples, names, timed=timed, num_threads=num_threads, progress=progress)
        if not all(math.isfinite(option.loss) for options in prices.options for option in options):
            raise ArgumentValueError(
                f"{function}: data must tell layers apart, and the model gives NaN or infinity for some of it; leave "
                "such samples out"
            )
        run = run_of_model(model, function=function)
        return Searched(prices, quantizer, samples, run, [run(feeds) for feeds in samples], num_threads)

    def config(self, picks: Sequence[int]) -> QuantConfig:
        return planned(self.prices, picks, None).config(**self.quantizer.carried())

    def opened(self, picks: Sequence[int]) -> InferenceSession:
        """The compiled plan."""
        return InferenceSession(self.quantizer.compiled(self.config(picks)), num_threads=self.num_threads)

    def db(self, run: Run) -> float:
        """Signal to noise of the worst output, on the samples."""
        return figures_of(self.real, [run(feeds) for feeds in self.samples]).sqnr_db

    def fed(self, session: InferenceSession) -> dict[str, Any]:
        return first_feed(self.quantizer.function, session, self.samples)

    def plan(self, picks: Sequence[int], budget: Mapping[str, float], seen: Mapping[str, float], kind: Kind) -> Plan:
        plan = planned(self.prices, picks, self.quantizer.model, kind)
        return replace(plan, budget=budget, seen=seen)

    def trial(self, picks: Sequence[int], kind: Kind, session: InferenceSession) -> Trial:
        problem = self.prices.problem(kind)
        cost = problem.cost(picks)
        measured = steady_ms([session], self.fed(session))[0] if kind == "ms" else cost
        return Trial(
            self.counts(picks), cost, decibels(1.0, problem.loss(picks)), measured, self.db(run_of_program(session))
        )

    def counts(self, picks: Sequence[int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for options, pick in zip(self.prices.options, picks, strict=True):
            found[options[pick].recipe] = found.get(options[pick].recipe, 0) + 1
        return found


def search(
    model: ModelLike,
    ranges: Ranges | Calibrator | None,
    data: Iterable[Feeds] | Feeds | Calibrator,
    *,
    max_ms: float | None = None,
    max_bytes: int | str | None = None,
    max_bits: float | None = None,
    max_share: float | None = None,
    candidates: Sequence[Recipe] | None = None,
    method: Method = "ilp",
    config: QuantConfig | None = None,
    shapes: Shapes | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> SearchResult:
    """Give each layer the recipe with which the model loses least under one budget.

    What a layer loses in a recipe is measured at the outputs, with it alone rounded; errors add up as powers. What it
    costs is counted, or, of milliseconds, measured: the model is compiled by each recipe everywhere, and all programs
    are profiled in turns on this machine. The plan is then compiled and measured as a whole, and the budget corrected
    by what the sum of the parts has missed, until a run takes what it may.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto. In float32.
    ranges : Ranges, a Calibrator, or None where no candidate needs any
    data : feeds by input name, of which 16 samples are taken, or a Calibrator, whose kept samples are
    max_ms : milliseconds of a run of one feed on this machine
    max_bytes : of all weights with their scales; a number, or a size such as "4M"
    max_bits : mean bits of a weight, without scales
    max_share : share of the layers, 0 to 1, that may multiply more than 8 bits
    candidates : recipes that layers may have, of :class:`~edgekern.QuantConfig`; None is "w8a8" and "float32", beside
        "w8a16" and "w8a8-dynamic" for milliseconds and shares, or "w4a8" and "w4a8-g32" for bytes and bits
    method : "ilp" finds the best plan of the sums, by scipy; "greedy" takes the best gain for its cost, step by step
    config : QuantConfig, optional. How integers are made; recipes and rules are left to the search.
    shapes, num_threads : as for :func:`edgekern.compile` and :class:`~edgekern.InferenceSession`
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    SearchResult

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        Not exactly one budget is given, an argument has a value that it cannot have, or no plan is within the budget.
    MissingExtraError
        The method is "ilp", and scipy is not installed.
    QuantizationError, CompileError
        As :func:`edgekern.quantize` and :func:`edgekern.compile`.

    Warns
    -----
    EdgekernWarning
        As :func:`edgekern.quantize`, of the plan that was chosen.

    Examples
    --------
    >>> found = ek.search("model.onnx", ranges, samples, max_ms=3.2)     # doctest: +SKIP
    >>> found.plan.save("plan.json")                                      # doctest: +SKIP
    """
    kind, budget = _budget(max_ms=max_ms, max_bytes=max_bytes, max_bits=max_bits, max_share=max_share)
    checked_method("search", method)
    begun = Searched.begin(
        "search",
        model,
        ranges,
        data,
        config,
        CANDIDATES[kind] if candidates is None else candidates,
        shapes,
        num_threads,
        timed=kind == "ms",
        progress=flag("search", "progress", progress),
    )
    tried = _tried(begun, kind, budget, method)
    chosen = _best([trial for _, trial in tried], budget)
    picks, trial = tried[chosen]
    seen = {kind: trial.measured} | ({"db": trial.measured_db} if math.isfinite(trial.measured_db) else {})
    plan = begun.plan(picks, {f"max_{kind}": budget}, seen, kind)
    written = quantize(model, begun.quantizer.ranges, plan.config(**begun.quantizer.carried()), shapes=shapes)
    program = begun.quantizer.compiled_of(written)
    return SearchResult(plan, written, program, kind, budget, method, tuple(each for _, each in tried), chosen)


def planned(prices: Prices, picks: Sequence[int], model: ModelLike | None, kind: Kind | None = None) -> Plan:
    """A plan of options by their numbers, with costs of a kind, and the hash of a model."""
    choices: list[Choice] = []
    for unit, options, pick in zip(prices.units, prices.problem(kind or "bytes").layers, picks, strict=True):
        taken = options[pick]
        first: dict[str, Any] = {"loss": taken.loss, "cost": taken.cost if kind else None}
        for node in unit.nodes:
            choices.append(Choice(node, unit.op if node == unit.name else "", taken.recipe, **first))  # type: ignore[arg-type]
            first = {}
    return Plan(tuple(choices), prices.base, None if model is None else model_hash(model))  # type: ignore[arg-type]


def _tried(begun: Searched, kind: Kind, budget: float, method: Method) -> list[tuple[tuple[int, ...], Trial]]:
    """Plans with what they have shown: one where costs are counted, some until one is near where they are measured.

    ``low`` and ``high`` are budgets of the sum whose plans took less than they may, and more.
    """
    problem = begun.prices.problem(kind)
    least = problem.cost(problem.cheapest())
    tried: list[tuple[tuple[int, ...], Trial]] = []
    asked, low, high = budget, 0.0, math.inf
    for _ in range(TRIES if kind == "ms" else 1):
        picks = solve(problem, asked, method)
        if picks is None and kind == "ms":
            picks = problem.cheapest()
        if picks is None:
            raise ArgumentValueError(
                f"search: max_{kind} must be at least {least:.6g}, which the cheapest plan of the candidates takes, "
                f"got {budget:.6g}"
            )
        if any(picks == before for before, _ in tried):
            break
        trial = begun.trial(picks, kind, begun.opened(picks))
        tried.append((picks, trial))
        if kind != "ms" or (1 - NEAR / 2) * budget <= trial.measured <= budget:
            break
        if trial.measured <= budget:
            if problem.loss(picks) <= 0:
                break
            low = max(low, asked)
        else:
            high = min(high, trial.cost)
        asked = max(trial.cost, asked if trial.measured <= budget else 0.0) * 0.985 * budget / trial.measured
        if not low < asked < high:
            asked = (low + high) / 2 if math.isfinite(high) else low * 1.1
    if all(trial.measured > budget * (1 + 1e-9) for _, trial in tried):
        cheapest = begun.trial(problem.cheapest(), kind, begun.opened(problem.cheapest()))
        if cheapest.measured > budget * (1 + 1e-9):
            raise ArgumentValueError(
                f"search: max_{kind} must be at least {cheapest.measured:.4g}, which a run of the cheapest plan of the "
                f"candidates takes here, got {budget:.6g}"
            )
        tried.append((problem.cheapest(), cheapest))
    return tried


def _best(trials: Sequence[Trial], budget: float) -> int:
    """Of those within the budget the one that gives most, of two that do the one that takes less."""
    within = [at for at, trial in enumerate(trials) if trial.measured <= budget * (1 + 1e-9)]
    return max(within, key=lambda at: (trials[at].measured_db, -trials[at].measured))


def _budget(**given: Any) -> tuple[Kind, float]:
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ArgumentValueError(
            f"search: exactly one budget must be given, of {', '.join(given)}, got {', '.join(named) or 'none'}"
        )
    [(name, value)] = named.items()
    kind: Kind = name.removeprefix("max_")  # type: ignore[assignment]
    if kind == "bytes":
        return kind, float(byte_count("search", name, value))
    limit = amount("search", name, value)
    most = 1.0 if kind == "share" else math.inf
    if not math.isfinite(limit) or limit > most or (limit <= 0 and not (kind == "share" and limit == 0)):
        rule = "between 0 and 1, a share" if kind == "share" else "a positive number"
        raise ArgumentValueError(f"search: {name} must be {rule}, got {value!r}")
    return kind, limit + 0.0  # -0.0 is 0.0


def checked_method(function: str, method: object) -> None:
    if method not in METHODS:
        raise ArgumentValueError(f"{function}: method must be one of {list(METHODS)}, got {method!r}")


def checked_config(function: str, config: QuantConfig | None) -> QuantConfig:
    """One that leaves recipes to a search."""
    if config is None:
        return QuantConfig()
    if not isinstance(config, QuantConfig):
        raise ArgumentTypeError(f"{function}: config must be a QuantConfig, got {type(config).__name__}")
    for name in ("overrides", "keep_float", "first_layer", "last_layer"):
        if getattr(config, name):
            raise ArgumentValueError(
                f"{function}: config must leave recipes to the search, got {name}; edit the plan instead"
            )
    if needs_samples(config):
        raise ArgumentValueError(
            f"{function}: config must round without samples, got rounding={config.rounding!r}; search without it, and "
            f"quantize by plan.config(rounding={config.rounding!r})"
        )
    return config


def few_samples(function: str, data: object) -> list[Mapping[str, Any]]:
    """Feeds of some 16 samples."""
    if isinstance(data, Calibrator):
        kept = list(data.kept_feeds)[:SAMPLES]
        if not kept:
            raise ArgumentValueError(f"{function}: data must hold samples, and the calibrator kept none; give feeds")
        return list(kept)
    found, count = list[Mapping[str, Any]](), 0
    for numbers, feeds in numbered(function, data):
        found.append(feeds)
        count += len(numbers)
        if count >= SAMPLES:
            break
    return found


def told(recipes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(recipes.items()))


def _candidates(function: str, given: object, ranges: object) -> tuple[str, ...]:
    known = get_args(Recipe)
    if isinstance(given, str) or not isinstance(given, Sequence) or not given or not all(one in known for one in given):
        raise ArgumentValueError(f"{function}: candidates must be some of {list(known)}, got {given!r}")
    names = tuple(dict.fromkeys(given))
    if set(names) == {"float32"}:
        raise ArgumentValueError(f"{function}: candidates must hold a recipe that rounds, got 'float32' alone")
    if ranges is not None and not isinstance(ranges, (Ranges, Calibrator)):
        raise ArgumentTypeError(f"{function}: ranges must be Ranges or a Calibrator, got {type(ranges).__name__}")
    static = [name for name in names if name in ("w8a8", "w8a16", "w4a8")]
    if ranges is None and static:
        raise QuantizationError(
            f"{function}: ranges must be given for the candidates {static}, got None; collect them with "
            "edgekern.Calibrator, or leave these candidates out"
        )
    return names


def _db(loss: float | None) -> float:
    return decibels(1.0, loss or 0.0)


def _figure(bar: tuple[str, float]) -> float:
    return bar[1]
