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
GOLDEN = "982985cd45876e17"


def codes(seed, k, n):
    return np.random.Generator(np.random.PCG64(seed)).integers(-127, 128, (k, n), dtype=np.int8)


def linear(x, w, scale, bias, result=np.float32, addend=None, **ending):
    rows, k = x.shape
    n = w.shape[1]
    blobs = [_core.pack_weights_blob(np.ascontiguousarray(w.T)[None, :, None]), padded(scale), padded(bias)]
    inputs = [x] if addend is None else [x, addend]
    sizes = {"rows": rows, "k": k, "columns": n}
    return one_step(StepKind.GEMM_DYNAMIC, inputs, ((rows, n), result), blobs, **sizes, **(ending or NO_CLAMP))


@given(
    rows=st.integers(1, 70),
    k=st.integers(1, 90),
    n=st.integers(1, 80),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, ending, addend, result, seed):
    x, w = floats(seed, rows, k), codes(seed, k, n)
    scale, bias = np.abs(floats(seed + 1, n)) / 100, floats(seed + 2, n)
    added = None if addend is None else floats(seed + 3, rows, n)
    program = linear(x, w, scale, bias, result, added, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1030, 200), (200, 384, 210), (97, 515, 1), (300, 64, 1536)])
def test_parts_and_blocks_give_what_linear_gives(rows, k, n):
    x, w, scale, bias = floats(1, rows, k), codes(2, k, n), np.abs(floats(3, n)) / 100, floats(4, n)
    found = assert_equals_reference(linear(x, w, scale, bias), [x])
    assert np.array_equal(found, ek.linear(x, ek.pack_weights(w, scale=scale), bias=bias))


def test_rows_of_zeros_infinities_and_nans_go_their_way():
    x, w, scale = floats(1, 7, 20), codes(2, 20, 33), np.full(33, 0.01, np.float32)
    x[0], x[1, 4], x[2, 5], x[3, 6] = 0, np.nan, -np.inf, np.inf
    for ending in (NO_CLAMP, {**NO_CLAMP, "lo": 0.0, "hi": 6.0}, {**NO_CLAMP, "activation": 3}):
        result = assert_equals_reference(linear(x, w, scale, floats(3, 33), **ending), [x])
        assert np.isfinite(result[4:]).all()


def golden_program():
    x, scale = floats(5, 13, 300), np.abs(floats(6, 37)) / 100
    return linear(x, codes(7, 300, 37), scale, floats(8, 37), activation=1, addend_first=False, lo=0.0, hi=0.0)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": floats(5, 13, 300)})
    assert digest(result) == GOLDEN


def test_a_sum_that_could_pass_an_int32_is_refused():
    x, w = floats(1, 1, 1 << 17), np.ones((1 << 17, 1), np.int8)
    with pytest.raises(ek.errors.ArtifactError, match=r"sums can pass 2\^31"):
        linear(x, w, np.ones(1, np.float32), np.zeros(1, np.float32))
