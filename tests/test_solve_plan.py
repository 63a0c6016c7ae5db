"""Plans under a budget: the integer program finds the best one there is, greedy one that is within the budget."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern.analysis.solve_plan import Border, Follower, Option, Problem, by_greedy, by_ilp, solve
from edgekern.errors import MissingExtraError

HELD = ("8 bits", "16 bits", "float32")
loss = st.floats(1e-9, 0.5) | st.just(0.0)
cost = st.floats(0, 4)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 5))
    layers = []
    for _ in range(count):
        held = draw(st.lists(st.sampled_from(HELD), min_size=1, max_size=3))
        layers.append(tuple(Option(f"r{at}", draw(loss), draw(cost), how) for at, how in enumerate(held)))
    pairs = list(itertools.combinations(range(count), 2))
    borders = [Border(*pair, draw(cost)) for pair in pairs if draw(st.booleans())]
    followers = [Follower(pair, draw(loss)) for pair in pairs if draw(st.booleans())]
    return Problem(tuple(layers), tuple(borders), tuple(followers), draw(cost))


def plans(problem):
    return itertools.product(*(range(len(options)) for options in problem.layers))


@given(problems(), st.floats(0, 1))
def test_the_integer_program_finds_the_best_plan_that_there_is(problem, share):
    costs = sorted(problem.cost(picks) for picks in plans(problem))
    budget = costs[0] + share * (costs[-1] - costs[0])
    within = [picks for picks in plans(problem) if problem.cost(picks) <= budget * (1 + 1e-9) + 1e-9]
    best = min(problem.loss(picks) for picks in within)
    found = by_ilp(problem, budget)
    assert found is not None
    assert problem.cost(found) <= budget + 1e-6 * max(1.0, budget)
    assert problem.loss(found) == pytest.approx(best, rel=1e-5, abs=1e-6 * max(best, 0.5))


@given(problems(), st.floats(0, 1))
def test_greedy_keeps_the_budget_and_is_never_better(problem, share):
    costs = sorted(problem.cost(picks) for picks in plans(problem))
    budget = costs[0] + share * (costs[-1] - costs[0])
    found, best = by_greedy(problem, budget), by_ilp(problem, budget)
    if found is not None:
        assert problem.cost(found) <= budget * (1 + 1e-9) + 1e-9
        assert problem.loss(found) >= problem.loss(best) - 1e-6


@given(problems())
def test_no_plan_is_cheaper_than_nothing(problem):
    least = min(problem.cost(picks) for picks in plans(problem))
    below = least - 0.01 * max(least, 1.0)
    assert by_ilp(problem, below) is None
    assert by_greedy(problem, below) is None
    assert problem.cost(problem.cheapest()) >= least


def test_greedy_takes_the_best_gain_for_its_cost():
    def layer(gain, price):
        return (Option("low", gain, 0.0, "8 bits"), Option("high", 0.0, price, "8 bits"))

    problem = Problem((layer(0.5, 10.0), layer(0.4, 1.0), layer(0.3, 1.0)))
    assert by_greedy(problem, 2.0) == (0, 1, 1)
    assert by_greedy(problem, 10.0) == (0, 1, 1)  # what is left does not suffice for the first
    assert by_ilp(problem, 10.0) == (0, 1, 1)
    assert by_ilp(problem, 11.0) == (1, 1, 0)  # which greedy, having paid for two, does not see
    assert by_greedy(problem, 11.0) == (0, 1, 1)
    assert by_greedy(problem, 12.0) == by_ilp(problem, 12.0) == (1, 1, 1)


def test_a_border_costs_where_two_layers_hold_numbers_in_other_ways():
    options = (Option("low", 0.1, 0.0, "8 bits"), Option("high", 0.0, 1.0, "float32"))
    problem = Problem((options, options), (Border(0, 1, 5.0),))
    assert problem.cost((0, 1)) == 6.0
    assert by_ilp(problem, 5.9) == (1, 1)
    follower = Problem((options, options), (), (Follower((0, 1), 0.3),))
    assert follower.loss((0, 1)) == pytest.approx(0.4)
    assert follower.loss((1, 1)) == 0.0


def test_a_hundred_layers_are_solved_at_once():
    rng = np.random.default_rng(0)
    layers = tuple(
        tuple(
            Option(f"r{at}", float(10 ** rng.uniform(-6, -1)), float(rng.random()), how) for at, how in enumerate(HELD)
        )
        for _ in range(100)
    )
    problem = Problem(layers, tuple(Border(at, at + 1, 0.2) for at in range(99)))
    budget = 1.2 * problem.cost(problem.cheapest())
    best, greedy = by_ilp(problem, budget), by_greedy(problem, budget)
    assert problem.cost(best) <= budget
    assert problem.loss(best) <= problem.loss(greedy)


def test_without_scipy_greedy_is_left(monkeypatch):
    problem = Problem(((Option("low", 0.1, 1.0, "8 bits"),),))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekern\[search\]', or take 'greedy'"):
        solve(problem, 1.0, "ilp")
    assert solve(problem, 1.0, "greedy") == (0,)
