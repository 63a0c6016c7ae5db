"""Softmax of float32 and its logarithm, over any axis: one result on all ISAs and threads, close to float64."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step

GOLDEN = "66c2fca86a380dfa"


def program_of(x, log):
    outer, n, inner = x.shape
    return one_step(StepKind.SOFTMAX_F32, [x], (x.shape, np.float32), outer=outer, n=n, inner=inner, log=int(log))


def softmax(x, log):
    with np.errstate(all="ignore"):
        less = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        e = np.exp(less)
        return less - np.log(e.sum(axis=1, keepdims=True)) if log else e / e.sum(axis=1, keepdims=True)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 80), st.sampled_from([1, 1, 2, 15, 16, 17, 70])),
    log=st.booleans(),
    spread=st.sampled_from([0.01, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_any_softmax_equals_the_reference_and_is_close_to_float64(shape, log, spread, seed):
    x = np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)
    found = assert_equals_reference(program_of(x, log), [x])
    # The difference to the largest is rounded: up to 104 matters, 2^-24 of it.
    np.testing.assert_allclose(found, softmax(x, log), rtol=1e-5, atol=1e-6 if log else 1e-37)


@pytest.mark.parametrize("inner", [1, 20])
@pytest.mark.parametrize("log", [False, True])
def test_infinities_and_nan(inner, log):
    x = np.random.default_rng(3).normal(size=(6, 40, inner)).astype(np.float32)
    x[0, 3:] = -np.inf  # behind a mask
    x[1] = -np.inf
    x[2, 5] = np.inf
    x[3, 7] = np.nan
    x[4] = 3.4e38
    found = assert_equals_reference(program_of(x, log), [x])
    truth = softmax(x, log)
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-6)  # a NaN where that has one
    assert np.isnan(found[1:4]).all()


@pytest.mark.parametrize("shape", [(1, 100_000, 1), (3000, 51, 1), (2, 40, 3000)])
def test_what_is_shared_among_threads(shape):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    assert_equals_reference(program_of(x, False), [x])


def test_sizes_and_types_that_are_not_the_tensors_are_refused():
    x = np.zeros((2, 3, 4), np.float32)
    for y, sizes in [
        (((2, 3, 4), np.float32), {"outer": 2, "n": 4, "inner": 4}),
        (((2, 4), np.float32), {"outer": 2, "n": 3, "inner": 4}),
        (((2, 3, 4), np.int32), {"outer": 2, "n": 3, "inner": 4}),
    ]:
        with pytest.raises(ArtifactError, match="step"):
            ek.InferenceSession(one_step(StepKind.SOFTMAX_F32, [x], y, log=0, **sizes))


def golden_program():
    return program_of(np.zeros((7, 61, 1), np.float32), False)


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(27)).normal(size=(7, 61, 1)).astype(np.float32)
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
