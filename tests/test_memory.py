"""The arena planner: valid plans for anything, honest about how far from the lower bound they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bench_planner import read_problem
from edgekern import _core
from edgekern.errors import ArgumentValueError

from reference.memory import least_peak

Problem = tuple[list[int], list[int], list[int]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Half-open lifetimes and sizes of up to 30 buffers."""
    buffers = draw(st.lists(st.tuples(st.integers(-9, 40), st.integers(1, 12), st.integers(0, 5000)), max_size=30))
    return [b[0] for b in buffers], [b[0] + b[1] for b in buffers], [b[2] for b in buffers]


def _first_overlap(lower: list[int], upper: list[int], size: list[int], offsets: list[int]) -> tuple[int, int] | None:
    """Every pair, the slow way."""
    for i in range(len(lower)):
        for j in range(i):
            alive = lower[i] < upper[j] and lower[j] < upper[i]
            shared = offsets[i] < offsets[j] + size[j] and offsets[j] < offsets[i] + size[i]
            if alive and shared and size[i] and size[j]:
                return j, i
    return None


def _most_alive(lower: list[int], upper: list[int], size: list[int]) -> int:
    """The lower bound, the slow way: bytes alive at each start."""
    lives = list(zip(lower, upper, size, strict=True))
    return max((sum(n for lo, up, n in lives if lo <= t < up) for t in lower), default=0)


@given(problem=problems(), alignment=st.sampled_from([1, 8, 64]))
def test_plans_are_valid_and_their_lower_bound_is_the_most_bytes_alive(problem, alignment):
    lower, upper, size = problem
    plan = _core.plan_memory(lower, upper, size, alignment)
    padded = [-(-n // alignment) * alignment for n in size]
    assert all(offset % alignment == 0 for offset in plan.offsets)
    assert _first_overlap(lower, upper, padded, plan.offsets) is None
    assert plan.peak == max((o + n for o, n in zip(plan.offsets, padded, strict=True)), default=0)
    assert plan.peak >= plan.lower_bound == _most_alive(lower, upper, padded)
    _core.check_plan(lower, upper, size, plan.offsets, alignment, plan.peak)


@given(problem=problems(), data=st.data())
def test_the_checker_agrees_with_looking_at_every_pair(problem, data):
    lower, upper, size = problem
    offsets = [64 * data.draw(st.integers(0, 200)) for _ in size]
    pair = _first_overlap(lower, upper, size, offsets)
    if pair is None:
        _core.check_plan(lower, upper, size, offsets, 64, 1 << 20)
    else:
        with pytest.raises(ArgumentValueError, match="overlap in space and time"):
            _core.check_plan(lower, upper, size, offsets, 64, 1 << 20)


@given(sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
def test_a_chain_of_layers_is_planned_at_its_lower_bound(sizes):
    steps = list(range(len(sizes)))
    plan = _core.plan_memory(steps, [t + 2 for t in steps], sizes)
    assert plan.peak == plan.lower_bound


def test_plan_message_names_the_buffer_and_the_rule():
    with pytest.raises(ArgumentValueError, match=r"buffer 1 lives in \[4, 4\); upper must be greater than lower"):
        _core.plan_memory([0, 4], [2, 4], [64, 64])
    with pytest.raises(ArgumentValueError, match="same length, got 1, 2 and 1"):
        _core.plan_memory([0], [2, 4], [64])
    with pytest.raises(ArgumentValueError, match="alignment"):
        _core.plan_memory([0], [2], [64], alignment=0)
    with pytest.raises(ArgumentValueError, match=r"buffer 0 .* leaves the arena of 64 bytes"):
        _core.check_plan([0], [1], [100], [0], 64, 64)


SMALL = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=7)


@given(buffers=SMALL)
def test_small_problems_get_the_best_plan_of_all_orders_and_know_it(buffers):
    lower, upper, size = [b[0] for b in buffers], [b[0] + b[1] for b in buffers], [b[2] for b in buffers]
    plan = _core.plan_memory(lower, upper, size, 1)
    assert plan.peak == plan.least_peak == least_peak(lower, upper, size)
    assert plan.proved


@pytest.mark.parametrize(
    ("lower", "upper", "size", "least"),
    [
        (
            [5, 5, 6, 1, 1, 2, 0, 1, 0, 2, 3, 4, 5],
            [7, 7, 7, 2, 2, 5, 3, 4, 1, 3, 4, 5, 6],
            [1, 4, 6, 4, 3, 2, 1, 3, 10, 5, 6, 9, 6],
            12,
        ),
        (
            [0, 3, 1, 1, 4, 5, 0, 2, 4, 2, 0, 1, 3, 4, 5],
            [2, 6, 4, 4, 6, 6, 1, 5, 5, 3, 1, 2, 4, 5, 6],
            [2, 3, 5, 4, 4, 5, 3, 1, 2, 4, 9, 3, 1, 4, 2],
            15,
        ),
    ],
)
def test_a_bound_that_no_plan_reaches_is_proved_to_be_out_of_reach(lower, upper, size, least):
    plan = _core.plan_memory(lower, upper, size, 1)
    assert plan.lower_bound == least - 1
    assert plan.peak == plan.least_peak == least
    assert plan.proved
    unsure = _core.plan_memory(lower, upper, size, 1, most_nodes=2)
    assert 0 < unsure.nodes <= 2
    assert unsure.least_peak == least - 1
    assert not unsure.proved


@given(problem=problems())
def test_a_larger_limit_never_gives_a_larger_plan(problem):
    lower, upper, size = problem
    none, few, many = (_core.plan_memory(lower, upper, size, 1, most_nodes=n) for n in (0, 50, 2000))
    assert none.peak == none.greedy_peak >= few.peak
    assert none.greedy_peak >= many.peak >= many.least_peak >= many.lower_bound
    assert (none.nodes, few.nodes <= 50, many.nodes <= 2000) == (0, True, True)
    for plan in (none, few, many):
        _core.check_plan(lower, upper, size, plan.offsets, 1, plan.peak)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_seconds_must_be_positive(seconds):
    with pytest.raises(ArgumentValueError, match="seconds must be greater than 0"):
        _core.plan_memory([0], [1], [1], seconds=seconds)


@pytest.mark.parametrize("name", ["C.1048576", "G.1048576", "input.12"])
def test_hard_published_problems_are_planned_at_their_bound(test_data, name):
    """Those that take little time; ``python -m bench planner`` has them all."""
    lower, upper, size = read_problem(test_data / "memplan" / f"{name}.csv")
    plan = _core.plan_memory(lower, upper, size, 1, most_nodes=1_000_000)
    assert _first_overlap(lower, upper, size, plan.offsets) is None
    assert plan.peak == plan.lower_bound <= int(name.split(".")[1])
    assert plan.proved


def test_plans_do_not_depend_on_the_run(rng):
    lower = rng.integers(0, 100, 200)
    upper = lower + rng.integers(1, 20, 200)
    size = rng.integers(1, 10_000, 200)
    plans = [_core.plan_memory(lower.tolist(), upper.tolist(), size.tolist()) for _ in range(2)]
    np.testing.assert_array_equal(plans[0].offsets, plans[1].offsets)
    assert plans[0].method == plans[1].method
