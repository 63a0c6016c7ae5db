"""Which recipe each layer gets under one budget: exactly, as an integer program, or by the best gain for its price.

What a plan loses is taken as the sum of what its layers lose alone, and what it costs as the sum of what they cost, of
the borders between layers that hold their numbers in other ways, and of what no recipe changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgekern._extras import install
from edgekern.errors import MissingExtraError

Method = Literal["ilp", "greedy"]
Held = Literal["8 bits", "16 bits", "float32"]
METHODS: tuple[str, ...] = get_args(Method)
_SLACK = 1e-9  # of a budget: sums of floats come out one bit over it


@dataclass(frozen=True)
class Option:
    """One recipe of a layer.

    Attributes
    ----------
    recipe : its name
    loss : power of the error that it makes at the outputs, in powers of the outputs
    cost : in the unit of the budget
    held : how what the layer reads and gives is held
    """

    recipe: str
    loss: float
    cost: float
    held: Held


@dataclass(frozen=True)
class Border:
    """What it costs where two layers, by their numbers, hold what they hand on in different ways."""

    first: int
    second: int
    cost: float


@dataclass(frozen=True)
class Follower:
    """A node that no recipe names, which reads integers where any of some layers does, and then makes this loss.

    It is that of 8 bits, and at most that of 16: what a range cuts off is the same in both.
    """

    of: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Problem:
    """Layers with their options; ``fixed`` is what any plan costs beside them."""

    layers: tuple[tuple[Option, ...], ...]
    borders: tuple[Border, ...] = ()
    followers: tuple[Follower, ...] = ()
    fixed: float = 0.0

    def loss(self, picks: Sequence[int]) -> float:
        """Of the option of each layer, by its number."""
        taken = [options[pick] for options, pick in zip(self.layers, picks, strict=True)]
        followed = (each.loss for each in self.followers if any(taken[at].held != "float32" for at in each.of))
        return sum(option.loss for option in taken) + sum(followed)

    def cost(self, picks: Sequence[int]) -> float:
        taken = [options[pick] for options, pick in zip(self.layers, picks, strict=True)]
        crossed = (each.cost for each in self.borders if taken[each.first].held != taken[each.second].held)
        return self.fixed + sum(option.cost for option in taken) + sum(crossed)

    def cheapest(self) -> tuple[int, ...]:
        """The plan of the least cost that a descent from each recipe's own plan finds."""
        return min(self.starts(), key=self.cost)

    def uniform(self, recipe: str) -> tuple[int, ...]:
        """A recipe wherever it can be, and the cheapest one elsewhere."""
        cheapest = [min(range(len(o)), key=lambda at, o=o: (o[at].cost, o[at].loss)) for o in self.layers]  # type: ignore[misc]
        named = [[at for at, option in enumerate(o) if option.recipe == recipe] for o in self.layers]
        return tuple(here[0] if here else least for here, least in zip(named, cheapest, strict=True))

    def starts(self) -> list[tuple[int, ...]]:
        """Plans to begin with: the cheapest option of each layer, each recipe's own, and what they descend to."""
        names = dict.fromkeys(option.recipe for options in self.layers for option in options)
        starts = [self.uniform(name) for name in ("", *names)]
        return [_descended(self, start) for start in starts] + starts


def solve(problem: Problem, budget: float, method: Method) -> tuple[int, ...] | None:
    """The number of the option of each layer that loses least within a budget; None where none is within it.

    Raises
    ------
    MissingExtraError
        When the method is "ilp" and scipy is not there.
    """
    return by_ilp(problem, budget) if method == "ilp" else by_greedy(problem, budget)


def by_ilp(problem: Problem, budget: float) -> tuple[int, ...] | None:
    """The best plan there is, by the integer program of HiGHS.

    A border is crossed, and a follower reads 8 bits, as soon as one of a few differences of options says so, and
    neither costs less than nothing: so these are continuous variables above each of those differences.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array
    except ImportError as error:
        raise MissingExtraError(
            f"search: method 'ilp' needs the module scipy; install it with: {install('search')}, or take 'greedy'"
        ) from error
    starts = np.concatenate([[0], np.cumsum([len(options) for options in problem.layers])]).astype(int)
    options = [option for layer in problem.layers for option in layer]
    borders = [border for border in problem.borders if border.cost > 0]
    followers = [follower for follower in problem.followers if follower.loss > 0]
    first_border, first_follower = len(options), len(options) + len(borders)
    count = first_follower + len(followers)
    rows: list[tuple[dict[int, float], float, float]] = []

    def held(layer: int, how: str, sign: float) -> dict[int, float]:
        """Whether a layer holds numbers so, as a sum of variables."""
        return {at: sign for at in range(starts[layer], starts[layer + 1]) if options[at].held == how}

    for at in range(len(problem.layers)):
        rows.append((dict.fromkeys(range(starts[at], starts[at + 1]), 1.0), 1.0, 1.0))
    for at, border in enumerate(borders, first_border):
        for how in get_args(Held):
            differs = held(border.first, how, -1.0) | held(border.second, how, 1.0)
            if differs:
                rows.append(({at: 1.0} | differs, 0.0, np.inf))
    for at, follower in enumerate(followers, first_follower):
        rows += [
            ({at: 1.0} | held(layer, how, -1.0), 0.0, np.inf) for layer in follower.of for how in get_args(Held)[:2]
        ]
    costs = {at: option.cost for at, option in enumerate(options)}
    costs |= {at: border.cost for at, border in enumerate(borders, first_border)}
    scale = max(map(abs, costs.values()), default=1.0) or 1.0
    most = (budget + _SLACK * max(1.0, abs(budget)) - problem.fixed) / scale
    rows.append(({at: cost / scale for at, cost in costs.items()}, -np.inf, most))
    losses = np.zeros(count)
    losses[: len(options)] = [option.loss for option in options]
    losses[first_follower:] = [follower.loss for follower in followers]
    entries = [(row, at, value) for row, (terms, _, _) in enumerate(rows) for at, value in terms.items()]
    at_rows, at_columns, values = (np.array(each) for each in zip(*entries, strict=True))
    matrix = coo_array((values, (at_rows, at_columns)), shape=(len(rows), count)).tocsr()
    limits = LinearConstraint(matrix, [row[1] for row in rows], [row[2] for row in rows])
    integral = np.zeros(count)
    integral[:] = 1  # borders come out so anyway; asked for, HiGHS solves no second program, of which it prints a line
    # Losses span powers of ten, and the solver's tolerances are of numbers near 1.
    worst = losses.max(initial=0.0) or 1.0
    found = milp(
        losses / worst * 1e3,
        integrality=integral,
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"time_limit": 30.0, "mip_rel_gap": 0.0},
    )
    return None if found.x is None else _picked(found.x, starts)


def _picked(x: npt.NDArray[np.float64], starts: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(np.argmax(x[start:stop])) for start, stop in pairwise(starts))


def by_greedy(problem: Problem, budget: float) -> tuple[int, ...] | None:
    """One layer after another gets the recipe that gains most for what it costs more, while the budget lasts.

    From the cheapest plan, and from each recipe's own that is within the budget; the best of what they lead to.
    """
    allowed = budget + _SLACK * max(1.0, abs(budget))
    found = [_climbed(problem, start, allowed) for start in problem.starts() if problem.cost(start) <= allowed]
    return min(found, key=problem.loss) if found else None


def _climbed(problem: Problem, picks: tuple[int, ...], allowed: float) -> tuple[int, ...]:
    near = _neighbours(problem)
    while True:
        best, step = 0.0, None
        left = allowed - problem.cost(picks)
        for layer, options in enumerate(problem.layers):
            for other in range(len(options)):
                gain, price = near.change(picks, layer, other)
                if gain <= 0 or price > left:
                    continue
                worth = np.inf if price <= 0 else gain / price
                if worth > best:
                    best, step = worth, (layer, other)
        if step is None:
            return picks
        picks = (*picks[: step[0]], step[1], *picks[step[0] + 1 :])


def _descended(problem: Problem, picks: tuple[int, ...]) -> tuple[int, ...]:
    """Cheaper, one layer at a time, until no layer makes it so."""
    near, moved = _neighbours(problem), True
    while moved:
        moved = False
        for layer, options in enumerate(problem.layers):
            prices = [(near.change(picks, layer, other)[1], other) for other in range(len(options))]
            price, other = min(prices)
            if price < 0:
                picks, moved = (*picks[:layer], other, *picks[layer + 1 :]), True
    return picks


@dataclass(frozen=True)
class _Neighbours:
    """Of each layer the borders and followers that it is part of, so that a change is counted without the rest."""

    problem: Problem
    borders: tuple[tuple[Border, ...], ...]
    followers: tuple[tuple[Follower, ...], ...]

    def change(self, picks: Sequence[int], layer: int, other: int) -> tuple[float, float]:
        """What another option of a layer loses less, and costs more."""
        layers = self.problem.layers
        old, new = layers[layer][picks[layer]], layers[layer][other]
        if old is new:
            return 0.0, 0.0
        gain, price = old.loss - new.loss, new.cost - old.cost
        for border in self.borders[layer]:
            beside = border.second if border.first == layer else border.first
            held = layers[beside][picks[beside]].held
            price += border.cost * (int(new.held != held) - int(old.held != held))
        for follower in self.followers[layer]:
            others = any(layers[at][picks[at]].held != "float32" for at in follower.of if at != layer)
            if not others:
                gain += follower.loss * (int(old.held != "float32") - int(new.held != "float32"))
        return gain, price


def _neighbours(problem: Problem) -> _Neighbours:
    numbers = range(len(problem.layers))
    return _Neighbours(
        problem,
        tuple(tuple(b for b in problem.borders if at in (b.first, b.second)) for at in numbers),
        tuple(tuple(f for f in problem.followers if at in f.of) for at in numbers),
    )
