"""The arena planner: valid plans for anything, honest about how far from the lower bound they are."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern import _core
from edgekern.errors import ArgumentValueError

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


def _problem_files(test_data: Path) -> list[Path]:
    files = sorted((test_data / "memplan").glob("*.csv"))
    assert files
    return files


def test_challenging_problems_get_valid_plans(test_data, capsys):
    """google/minimalloc's problems; the ratio to the lower bound is printed, not promised."""
    with capsys.disabled():
        print()
        for path in _problem_files(test_data):
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            lower, upper, size = ([int(row[key]) for row in rows] for key in ("lower", "upper", "size"))
            plan = _core.plan_memory(lower, upper, size, alignment=1)
            _core.check_plan(lower, upper, size, plan.offsets, 1, plan.peak)
            assert _first_overlap(lower, upper, size, plan.offsets) is None
            assert plan.peak >= plan.lower_bound
            ratio = plan.peak / plan.lower_bound
            print(f"  {path.name:16s} {len(rows):4d} buffers  peak / lower bound {ratio:.3f}  {plan.method}")


def test_plans_do_not_depend_on_the_run(rng):
    lower = rng.integers(0, 100, 200)
    upper = lower + rng.integers(1, 20, 200)
    size = rng.integers(1, 10_000, 200)
    plans = [_core.plan_memory(lower.tolist(), upper.tolist(), size.tolist()) for _ in range(2)]
    np.testing.assert_array_equal(plans[0].offsets, plans[1].offsets)
    assert plans[0].method == plans[1].method
