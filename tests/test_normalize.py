"""Rows around their mean, or around zero, over their spread: one result on all ISAs and threads, close to float64."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step

GOLDEN = "b1e44262e74dd90b"


def program_of(x, blobs=(), epsilon=1e-5, centered=True):
    rows, columns = x.shape
    arguments = {"rows": rows, "columns": columns, "epsilon": epsilon, "centered": int(centered)}
    return one_step(StepKind.NORMALIZE, [x], (x.shape, np.float32), blobs, **arguments)


def normalized(x, blobs, epsilon, centered):
    wide = x.astype(np.float64)
    wide = wide - wide.mean(axis=1, keepdims=True) if centered else wide
    y = wide / np.sqrt((wide * wide).mean(axis=1, keepdims=True) + epsilon)
    for blob, apply in zip(blobs, (np.multiply, np.add), strict=False):
        y = apply(y, blob)
    return y


@given(
    shape=st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 15, 16, 17, 64, 100, 384, 1001])),
    blobs=st.integers(0, 2),
    epsilon=st.sampled_from([1e-5, 1e-12, 0.5]),
    centered=st.booleans(),
    offset=st.sampled_from([0.0, 1.0, -30.0]),
    seed=st.integers(0, 99),
)
def test_any_rows_equal_the_reference_and_are_close_to_float64(shape, blobs, epsilon, centered, offset, seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) + offset).astype(np.float32)
    arrays = [rng.normal(size=shape[1]).astype(np.float32) for _ in range(blobs)]
    found = assert_equals_reference(program_of(x, arrays, epsilon, centered), [x])
    if shape[1] > 2:
        truth = normalized(x, arrays, epsilon, centered)
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=3e-6 * (1 + abs(offset)))


def test_rows_without_a_spread_and_with_a_nan():
    x = np.ones((4, 33), np.float32)
    x[1, 4] = np.nan
    x[2, 5] = np.inf
    found = assert_equals_reference(program_of(x), [x])
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    assert_equals_reference(program_of(x, epsilon=0.0), [x])


def test_what_is_shared_among_threads():
    x = np.random.default_rng(4).normal(size=(1000, 384)).astype(np.float32)
    scale = np.random.default_rng(5).normal(size=384).astype(np.float32)
    assert_equals_reference(program_of(x, [scale, scale]), [x])


def test_scales_that_are_not_as_long_as_rows_are_refused():
    x = np.zeros((2, 33), np.float32)
    for blobs in ([np.zeros(16, np.float32)], [np.zeros(33, np.float32), np.zeros(49, np.float32)]):
        with pytest.raises(ArtifactError, match="damaged arguments"):
            ek.InferenceSession(program_of(x, blobs))
    with pytest.raises(ArtifactError, match="wrong number of operands"):
        ek.InferenceSession(program_of(x, [np.zeros(33, np.float32)] * 3))
    sizes = {"rows": 3, "columns": 33, "epsilon": 0.1, "centered": 1}
    with pytest.raises(ArtifactError, match="sizes"):
        ek.InferenceSession(one_step(StepKind.NORMALIZE, [x], ((2, 33), np.float32), **sizes))


def golden_program():
    scale = np.linspace(-1, 1, 133, dtype=np.float32)
    return program_of(np.zeros((9, 133), np.float32), [scale, scale])


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(28)).normal(size=(9, 133)).astype(np.float32)
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
