"""GEMM_DYNAMIC: rows quantized as they come, times int8 weights; one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats, padded

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "5a7cd9af4503b404"


def codes(seed, k, n):
    return np.random.Generator(np.random.PCG64(seed)).integers(-127, 128, (k, n), dtype=np.int8)


def linear(x, w, scale, bias, result=np.float32, addend=None, zero_points=True, **ending):
    rows, k = x.shape
    n = w.shape[1]
    blobs = [_core.pack_weights_blob(np.ascontiguousarray(w.T)[None, :, None]), padded(scale), padded(bias)]
    inputs = [x] if addend is None else [x, addend]
    sizes = {"rows": rows, "k": k, "columns": n, "zero_points": zero_points}
    return one_step(StepKind.GEMM_DYNAMIC, inputs, ((rows, n), result), blobs, **sizes, **(ending or NO_CLAMP))


@given(
    rows=st.integers(1, 70),
    k=st.integers(1, 90),
    n=st.integers(1, 80),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    shift=st.sampled_from([0, 0.5, -3, 1e4]),
    zero_points=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, ending, addend, result, shift, zero_points, seed):
    x, w = floats(seed, rows, k) + np.float32(shift), codes(seed, k, n)
    scale, bias = np.abs(floats(seed + 1, n)) / 100, floats(seed + 2, n)
    added = None if addend is None else floats(seed + 3, rows, n)
    program = linear(x, w, scale, bias, result, added, zero_points, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1030, 200), (200, 384, 210), (97, 515, 1), (300, 64, 1536)])
def test_parts_and_blocks_give_what_linear_gives(rows, k, n):
    x, w, scale, bias = floats(1, rows, k), codes(2, k, n), np.abs(floats(3, n)) / 100, floats(4, n)
    assert_equals_reference(linear(x, w, scale, bias), [x])
    found = assert_equals_reference(linear(x, w, scale, bias, zero_points=False), [x])
    assert np.array_equal(found, ek.linear(x, ek.pack_weights(w, scale=scale), bias=bias))


@pytest.mark.parametrize("zero_points", [False, True])
def test_rows_of_zeros_infinities_and_nans_go_their_way(zero_points):
    x, w, scale = floats(1, 9, 20), codes(2, 20, 33), np.full(33, 0.01, np.float32)
    x[0], x[1, 4], x[2, 5], x[3, 6] = 0, np.nan, -np.inf, np.inf
    x[4, :2], x[5, 1] = (3e38, -3e38), -np.nan  # so wide that the width is infinite
    for ending in (NO_CLAMP, {**NO_CLAMP, "lo": 0.0, "hi": 6.0}, {**NO_CLAMP, "activation": 3}):
        result = assert_equals_reference(linear(x, w, scale, floats(3, 33), zero_points=zero_points, **ending), [x])
        assert np.isfinite(result[6:]).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.17, 3), (-4, 0), (5, 6), (-1, 1)])
def test_zero_points_are_never_coarser_and_nearly_twice_as_fine_for_one_sign(low, high):
    """The error of rows times the identity, which is that of their codes."""
    x = np.random.default_rng(0).uniform(low, high, (50, 96)).astype(np.float32)
    w, scale, bias = np.eye(96, dtype=np.int8), np.ones(96, np.float32), np.zeros(96, np.float32)
    error = [
        np.abs(assert_equals_reference(linear(x, w, scale, bias, zero_points=given), [x]) - x).max(axis=1)
        for given in (False, True)
    ]
    assert error[1].max() <= error[0].max() * 1.001
    assert (error[1].max() < error[0].max() * 0.6) == (low * high >= 0 or abs(low * 10) < high)


def golden_program():
    x, scale = floats(5, 13, 300), np.abs(floats(6, 37)) / 100
    return linear(x, codes(7, 300, 37), scale, floats(8, 37), activation=1, addend_first=False, lo=0.0, hi=0.0)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": floats(5, 13, 300)})
    assert digest(result) == GOLDEN


@pytest.mark.parametrize(("zero_points", "deepest"), [(False, (1 << 17) - 1), (True, 65793)])
def test_a_sum_that_could_pass_an_int32_is_refused(zero_points, deepest):
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    x, w = floats(1, 1, deepest + 1), np.full((deepest + 1, 1), -127, np.int8)
    assert_equals_reference(linear(x[:, 1:], w[1:], one, none, zero_points=zero_points), [x[:, 1:]])
    with pytest.raises(ek.errors.ArtifactError, match=r"sums can pass 2\^31"):
        linear(x, w, one, none, zero_points=zero_points)
