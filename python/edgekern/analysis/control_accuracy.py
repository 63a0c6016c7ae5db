"""A model in 8 bits, and as many of its layers back in floats as a limit on what it may lose asks for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy.typing as npt

from edgekern._arguments import amount, flag, number
from edgekern._arrays import Lent
from edgekern._reports import Chart, Report, table
from edgekern._warn import warn_caller
from edgekern.analysis.evaluation import evaluate as count_right
from edgekern.analysis.gates import require_a_score, require_twice
from edgekern.analysis.price_layers import Prices, Quantizer, price_layers
from edgekern.analysis.runs import Run, run_of_model, run_of_program
from edgekern.analysis.search_plan import checked_config, few_samples, planned, told
from edgekern.analysis.side_by_side import labels_of
from edgekern.calibration import Calibrator, Ranges
from edgekern.calibration.progress import progress_bar
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.quantization import Plan, QuantConfig, choose_ranges, plan_of, quantize
from edgekern.quantization.config import Recipe
from edgekern.runtime import InferenceSession
from edgekern.runtime.profile import positive

if TYPE_CHECKING:
    import onnx

    from edgekern.artifact import Program
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Undo = Literal["float32", "w8a16"]
Score = Callable[[Any], float]  # of a session, or of the float model


@dataclass(frozen=True)
class ControlTrial:
    """One model that was evaluated.

    Attributes
    ----------
    what : what was tried
    undone : how many layers were not in the recipe
    score, drop : of the model, and what it scores less than the float model
    passed : whether the drop is within the limit
    left : how many trials there were still to come at most
    seconds : to quantize, compile and evaluate it
    """

    what: str
    undone: int
    score: float
    drop: float
    passed: bool
    left: int
    seconds: float


@dataclass(frozen=True, repr=False)
class Controlled(Report):
    """What :func:`quantize_to` made; ``str()`` is the table of trials.

    Attributes
    ----------
    model : the QDQ model; program : the same, compiled
    plan : :class:`~edgekern.Plan` of it, with what each layer loses alone, where that was looked for
    rows : a :class:`ControlTrial` of each model that was evaluated, the float one not among them
    float_score, score, max_drop : of the float model, of ``model``, and the limit
    """

    model: onnx.ModelProto
    program: Program
    plan: Plan
    rows: tuple[ControlTrial, ...]
    float_score: float
    score: float
    max_drop: float

    _derived: ClassVar[tuple[str, ...]] = ()

    @property
    def drop(self) -> float:
        """What ``model`` scores less than the float model."""
        return self.float_score - self.score

    @property
    def passed(self) -> bool:
        """Whether that is within the limit."""
        return self.drop <= self.max_drop

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("float_score", "score", "drop", "max_drop", "passed")}
        return {**own, "layers": self.plan.counts(), "rows": [self._written(row) for row in self.rows]}

    def __str__(self) -> str:
        columns = {"tried": "<", "undone": "d", "score": ".4f", "drop": "+.4f", "": "<", "left": "d", "s": ".1f"}
        rows = [
            (r.what, r.undone, r.score, r.drop, "ok" if r.passed else "too much", r.left, r.seconds) for r in self.rows
        ]
        verdict = "within" if self.passed else "OVER"
        return (
            f"{table(columns, rows)}\n{told(self.plan.counts())}; {self.float_score:.4f} in float, {self.score:.4f} "
            f"here, {verdict} the drop of {self.max_drop:g} that is allowed"
        )

    def __repr__(self) -> str:
        made = told(self.plan.counts())
        return f"Controlled({made}: drop {self.drop:.4f} of {self.max_drop:g}, {len(self.rows)} trials)"

    def _chart(self) -> Chart:
        bars = [(f"{row.undone} undone", row.drop) for row in self.rows]
        return Chart("What each trial loses", "score", bars, {"allowed": self.max_drop})


def quantize_to(
    model: ModelLike,
    ranges: Ranges | Calibrator | None,
    data: Iterable[Mapping[str, Lent]],
    *,
    max_drop: float,
    evaluate: Callable[[Run], float] | None = None,
    labels: Sequence[int] | Array | None = None,
    recipe: Recipe = "w8a8",
    undo: Undo = "float32",
    most_put_back: int = 16,
    config: QuantConfig | None = None,
    shapes: Shapes | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> Controlled:
    """Quantize all layers, and undo the worst ones until the model loses no more than it may.

    Where all layers lose too much, each is rounded alone once, to see what it does to the outputs. How many of the
    worst are undone is bisected; then those that lose least of them are put back one at a time, where that still
    passes. One model is in memory at a time.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto. In float32.
    ranges : Ranges, a Calibrator, of which :func:`edgekern.choose_ranges` makes some, or None
    data : feeds, as often as one likes: a list, or :func:`edgekern.samples`. Without ``evaluate``, right answers are
        counted on all of them; 16 of them tell the layers apart.
    max_drop : what the model may score less than the float one: of right answers 0.01 is one point in a hundred
    evaluate : a function that scores a model, the higher the better: it gets a function from feeds to a dict of
        outputs by name. None counts right labels.
    labels : class of each sample of ``data``; None takes those of the samples
    recipe : what all layers have at first
    undo : "float32" or "w8a16": what the worst have then. What is no product by constants gets floats.
    most_put_back : how many layers are tried to be put back, each an evaluation; 0 tries none
    config : QuantConfig, optional. How integers are made; recipes and rules are left to the search.
    shapes, num_threads : as for :func:`edgekern.compile` and :class:`~edgekern.InferenceSession`
    progress : bool. Show bars with the time left when standard error is a terminal.

    Returns
    -------
    Controlled
        ``passed`` tells whether the limit is kept: ``undo="w8a16"`` may not suffice.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        An argument has a value that it cannot have, there is nothing to score by, ``evaluate`` gives no number, or the
        float model scores so little that nothing could lose too much.
    QuantizationError, CompileError
        As :func:`edgekern.quantize` and :func:`edgekern.compile`.

    Warns
    -----
    EdgekernWarning
        When the limit is not kept, and as :func:`edgekern.quantize` of the model that is given.
    """
    function = "quantize_to"
    limit = _limit(max_drop)
    if recipe not in get_args(Recipe) or recipe == "float32":
        known = [name for name in get_args(Recipe) if name != "float32"]
        raise ArgumentValueError(f"{function}: recipe must be one of {known}, got {recipe!r}")
    if undo not in get_args(Undo):
        raise ArgumentValueError(f"{function}: undo must be one of {list(get_args(Undo))}, got {undo!r}")
    if most_put_back != 0 or isinstance(most_put_back, bool):
        positive(function, "most_put_back", most_put_back)
    require_twice(function, data)
    given = checked_config(function, config)
    score = _score(function, data, labels, evaluate, num_threads)
    shown = flag(function, "progress", progress)
    if isinstance(ranges, Calibrator):
        ranges = choose_ranges(ranges, model, given, shapes=shapes, progress=shown)
    float_score = score(model)
    if not math.isfinite(float_score):
        raise ArgumentValueError(
            f"{function}: what evaluate returns for the float model must be finite, got {float_score}; no loss is "
            "counted from there"
        )
    if evaluate is None:
        require_a_score(function, limit, float_score)
    quantizer = Quantizer(model, ranges, given, shapes, function)
    tried = _Trials(quantizer, score, float_score, limit, num_threads)
    if tried.passes(f"all in {recipe}", quantizer.by(recipe, {}), 0, 0):
        return tried.done(None, quantizer.by(recipe, {}), shapes)
    names = tuple(dict.fromkeys((recipe, undo, "float32")))
    samples = few_samples(function, data)
    prices = price_layers(quantizer, samples, names, timed=False, num_threads=num_threads, progress=shown)
    picks = _controlled(prices, tried, undo, most_put_back, shown)
    plan = planned(prices, picks, model)
    done = tried.done(plan, plan.config(**quantizer.carried()), shapes)
    if not done.passed:
        remedy = "take undo='float32'" if undo != "float32" else "allow more"
        warn_caller(
            f"{function}: the model loses {done.drop:.4g}, more than max_drop={limit:g}, with all layers in {undo}; "
            f"{remedy}"
        )
    return done


def _controlled(prices: Prices, tried: _Trials, undo: str, most_put_back: int, progress: bool) -> tuple[int, ...]:
    """The option of each unit."""
    worst = sorted(range(len(prices.units)), key=lambda at: -prices.options[at][0].loss)
    worst = [at for at in worst if len(prices.options[at]) > 1]

    def picked(undone: Sequence[int]) -> tuple[int, ...]:
        back = set(undone)
        return tuple(
            0 if at not in back else next((n for n, o in enumerate(options) if o.recipe == undo), len(options) - 1)
            for at, options in enumerate(prices.options)
        )

    def passes(what: str, undone: Sequence[int], left: int) -> bool:
        config = planned(prices, picked(undone), None).config(**tried.quantizer.carried())
        return tried.passes(what, config, len(undone), left)

    low, high = 0, len(worst)  # so many fail; so many pass, or are all
    steps = math.ceil(math.log2(max(high, 1))) + 1
    seen: dict[int, bool] = {}
    with progress_bar("bisecting", steps, enabled=progress) as step:
        while high - low > 1:
            middle = (low + high) // 2
            left = math.ceil(math.log2(high - low)) - 1 + (high not in seen) + min(high - 1, most_put_back)
            seen[middle] = passes(f"{middle} worst in {undo}", worst[:middle], left)
            low, high = (low, middle) if seen[middle] else (middle, high)
            step()
        if high not in seen:
            seen[high] = passes(f"{high} worst in {undo}", worst[:high], min(high - 1, most_put_back))
            step()
    undone = worst[:high]
    if not seen[high]:
        return picked(undone)
    again = undone[-2::-1][:most_put_back]  # the last one was needed, or fewer would have passed
    with progress_bar("putting back", len(again), enabled=progress) as step:
        for number_of, at in enumerate(again, 1):
            fewer = [each for each in undone if each != at]
            if passes(f"without {prices.units[at].name}", fewer, len(again) - number_of):
                undone = fewer
            step()
    return picked(undone)


class _Trials:
    """Evaluates one model after another, and keeps the figures alone."""

    def __init__(
        self, quantizer: Quantizer, score: Score, float_score: float, max_drop: float, num_threads: int | None
    ) -> None:
        self.quantizer, self._score, self._num_threads = quantizer, score, num_threads
        self._float_score, self._max_drop = float_score, max_drop
        self._rows: list[ControlTrial] = []

    def passes(self, what: str, config: QuantConfig, undone: int, left: int) -> bool:
        start = time.perf_counter()
        session = InferenceSession(self.quantizer.compiled(config), num_threads=self._num_threads)
        score = self._score(session)
        drop = self._float_score - score
        passed = drop <= self._max_drop
        self._rows.append(ControlTrial(what, undone, score, drop, passed, left, time.perf_counter() - start))
        return passed

    def done(self, plan: Plan | None, config: QuantConfig, shapes: Shapes | None) -> Controlled:
        """The model of the last plan that passed, or of the last one."""
        kept = next((row for row in reversed(self._rows) if row.passed), self._rows[-1])
        written = quantize(self.quantizer.model, self.quantizer.ranges, config, shapes=shapes)
        program = self.quantizer.compiled_of(written)
        rows = tuple(self._rows)
        return Controlled(
            written, program, plan or plan_of(written), rows, self._float_score, kept.score, self._max_drop
        )


def _score(
    function: str,
    data: Any,
    labels: Sequence[int] | Array | None,
    evaluate: Callable[[Run], float] | None,
    num_threads: int | None,
) -> Score:
    """A function of a session, or of the float model."""
    if evaluate is not None:
        if not callable(evaluate):
            raise ArgumentTypeError(f"{function}: evaluate must be a function, got {type(evaluate).__name__}")

        def scored(model: Any) -> float:
            session = isinstance(model, InferenceSession)
            run = run_of_program(model) if session else run_of_model(model, function=function)
            value = number(function, "what evaluate returns", evaluate(run))
            if math.isnan(value):
                raise ArgumentValueError(f"{function}: what evaluate returns must be a number, got NaN; look for 0 / 0")
            return value

        return scored
    truth = labels_of(function, data, labels)
    if truth is None:
        raise ArgumentValueError(f"{function}: evaluate or labels must be given, got neither; max_drop is of a score")
    return lambda model: count_right(model, data, truth, top=(1,), progress=False).top[1]


def _limit(given: object) -> float:
    value = amount("quantize_to", "max_drop", given)
    if not math.isfinite(value):
        raise ArgumentValueError(f"quantize_to: max_drop must be a finite number, got {given!r}")
    return value
