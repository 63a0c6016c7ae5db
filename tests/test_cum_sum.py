"""Running sums along any axis, both ways: one result on all ISAs and threads."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step

GOLDEN = "52ae9599c5665d26"


def program_of(x, exclusive, reverse):
    outer, n, inner = x.shape
    arguments = {"outer": outer, "n": n, "inner": inner, "exclusive": int(exclusive), "reverse": int(reverse)}
    return one_step(StepKind.CUM_SUM, [x], (x.shape, x.dtype), **arguments)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 50), st.sampled_from([1, 1, 2, 17, 70])),
    exclusive=st.booleans(),
    reverse=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_the_reference_and_is_close_to_float64(shape, exclusive, reverse, whole, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**62), 2**62, shape) if whole else rng.normal(size=shape).astype(np.float32)
    found = assert_equals_reference(program_of(x, exclusive, reverse), [x])
    if not whole:
        wide = x[:, ::-1].astype(np.float64) if reverse else x.astype(np.float64)
        sums = wide.cumsum(axis=1) - (wide if exclusive else 0)
        np.testing.assert_allclose(found, sums[:, ::-1] if reverse else sums, rtol=1e-5, atol=2e-5)


def test_what_is_shared_among_threads():
    x = np.random.default_rng(4).normal(size=(40, 300, 33)).astype(np.float32)
    assert_equals_reference(program_of(x, False, True), [x])


def test_types_and_sizes_that_do_not_fit_are_refused():
    x = np.zeros((2, 3, 4), np.float32)
    arguments = {"outer": 2, "n": 3, "inner": 4, "exclusive": 0, "reverse": 0}
    for y, changes in [
        (((2, 3, 4), np.int64), {}),
        (((2, 4), np.float32), {}),
        (((2, 3, 4), np.float32), {"n": 4}),
        (((2, 3, 4), np.float32), {"reverse": 2}),
    ]:
        with pytest.raises(ArtifactError, match="step"):
            ek.InferenceSession(one_step(StepKind.CUM_SUM, [x], y, **{**arguments, **changes}))


def golden_program():
    return program_of(np.zeros((3, 50, 9), np.float32), True, False)


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(29)).normal(size=(3, 50, 9)).astype(np.float32)
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
