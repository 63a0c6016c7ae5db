"""Where the largest or smallest value of an axis stands: one answer on all ISAs and threads, which is NumPy's."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step

GOLDEN = "6f8bab336d898246"


def program_of(x, largest, last):
    outer, n, inner = x.shape
    arguments = {"outer": outer, "n": n, "inner": inner, "largest": int(largest), "last": int(last)}
    return one_step(StepKind.ARG_EXTREME, [x], ((outer, inner), np.int64), **arguments)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 50), st.sampled_from([1, 1, 2, 17, 70, 130])),
    largest=st.booleans(),
    last=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_with_many_ties_equals_the_reference(shape, largest, last, whole, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 3, shape)
    if not whole:
        odd = rng.choice([np.nan, np.inf, -np.inf, -0.0], shape)
        x = np.where(rng.random(shape) < 0.05, odd, x).astype(np.float32)
    assert_equals_reference(program_of(x, largest, last), [x])


def test_what_is_shared_among_threads():
    x = np.random.default_rng(4).normal(size=(40, 300, 33)).astype(np.float32)
    assert_equals_reference(program_of(x, True, False), [x])


def test_types_and_sizes_that_do_not_fit_are_refused():
    arguments = {"outer": 2, "n": 3, "inner": 4, "largest": 0, "last": 0}
    for x, y, changes in [
        (np.float32, ((2, 4), np.float32), {}),
        (np.int32, ((2, 4), np.int64), {}),
        (np.float32, ((2, 3), np.int64), {}),
        (np.float32, ((2, 4), np.int64), {"n": 0}),
    ]:
        with pytest.raises(ArtifactError, match="step"):
            ek.InferenceSession(one_step(StepKind.ARG_EXTREME, [np.zeros((2, 3, 4), x)], y, **{**arguments, **changes}))


def golden_program():
    return program_of(np.zeros((3, 50, 9), np.float32), True, False)


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(30)).integers(-9, 9, (3, 50, 9)).astype(np.float32)
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
