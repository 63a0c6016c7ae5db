"""Reductions over any axis: one order of addition on all ISAs and threads."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step
from reference.rows import MAX, MEAN, MIN, PROD, SUM, SUM_ABS, SUM_SQUARES

GOLDEN = "ff08db565125eda6"
SIDES = st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 33, 100, 700]), st.integers(1, 70))
WIDE = {
    SUM: lambda x, axis: x.sum(axis=axis),
    MEAN: lambda x, axis: x.mean(axis=axis),
    MAX: lambda x, axis: x.max(axis=axis),
    MIN: lambda x, axis: x.min(axis=axis),
    PROD: lambda x, axis: x.prod(axis=axis),
    SUM_ABS: lambda x, axis: np.abs(x).sum(axis=axis),
    SUM_SQUARES: lambda x, axis: (x * x).sum(axis=axis),
}


def program_of(x, op):
    outer, n, inner = x.shape
    return one_step(StepKind.REDUCE, [x], ((outer, inner), x.dtype), outer=outer, n=n, inner=inner, op=op)


@given(SIDES, st.sampled_from(list(WIDE)), st.sampled_from([0.0, 0.02]), st.booleans(), st.integers(0, 99))
def test_any_shape_equals_the_reference_and_is_close_to_float64(shape, op, odd, along_rows, seed):
    shape = (shape[0] * shape[2], shape[1], 1) if along_rows else shape
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.9, 1.1, shape) if op == PROD else rng.normal(size=shape)
    x = np.where(rng.random(shape) < odd, rng.choice([np.nan, np.inf, -np.inf, -0.0], shape), x).astype(np.float32)
    found = assert_equals_reference(program_of(x, op), [x])
    with np.errstate(all="ignore"):
        truth = WIDE[op](x.astype(np.float64), 1)
        size = WIDE[op](np.abs(x.astype(np.float64)), 1)
    if odd == 0:
        rounding = max(1e-6, shape[1] * 2.0**-24)  # n additions round n times at most
        assert (np.abs(found - truth) <= rounding * np.maximum(size, 1)).all()
    else:
        assert (np.isnan(found) == np.isnan(truth)).all()


@given(SIDES, st.sampled_from([SUM, MAX, MIN, PROD]), st.integers(0, 99))
def test_whole_numbers_are_exact_and_wrap(shape, op, seed):
    x = np.random.default_rng(seed).integers(-(2**63), 2**63, shape)
    assert_equals_reference(program_of(x, op), [x])


@pytest.mark.parametrize("shape", [(1, 5000, 96), (1, 49, 3000), (3, 70_001, 1), (20_000, 7, 1), (2, 3, 5000)])
def test_what_is_shared_among_threads(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for op in (MEAN, MAX):
        assert_equals_reference(program_of(x, op), [x])


@pytest.mark.parametrize("op", [MEAN, SUM_ABS, SUM_SQUARES, 7])
def test_whole_numbers_have_no_mean(op):
    with pytest.raises(ArtifactError, match="damaged arguments"):
        ek.InferenceSession(program_of(np.zeros((2, 3, 4), np.int64), op))


def test_sizes_that_are_not_the_tensors_are_refused():
    x = np.zeros((2, 3, 4), np.float32)
    sizes = [{"outer": 3, "n": 3, "inner": 4}, {"outer": 2, "n": 3, "inner": 5}, {"outer": 2, "n": 0, "inner": 4}]
    for wrong in sizes:
        with pytest.raises(ArtifactError, match="step"):
            ek.InferenceSession(one_step(StepKind.REDUCE, [x], ((2, 4), np.float32), op=SUM, **wrong))
    with pytest.raises(ArtifactError, match="damaged arguments"):
        ek.InferenceSession(one_step(StepKind.REDUCE, [x], ((2, 4), np.int64), outer=2, n=3, inner=4, op=SUM))


def golden_program():
    return program_of(np.zeros((3, 1234, 21), np.float32), MEAN)


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(26)).normal(size=(3, 1234, 21)).astype(np.float32)
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
