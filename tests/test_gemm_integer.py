"""GEMM_INTEGER: codes less a zero point that comes at run time, times int8 weights: int32 on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import digest

from one_step import assert_equals_reference, one_step
from reference.gemm import matmul_integer

# SHA-256 of what every machine makes of fixed codes; tests/reference computed it.
GOLDEN = "122c4f761439a09e"


def codes(seed, *shape, dtype=np.uint8):
    info = np.iinfo(dtype)
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.asarray(generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True))


def packed(w):
    return _core.pack_weights_blob(np.ascontiguousarray(w.T)[None, :, None])


def sums(x, zero, w):
    (rows, k), n = x.shape, w.shape[1]
    inputs = [x, np.asarray(zero, x.dtype)]
    return one_step(StepKind.GEMM_INTEGER, inputs, ((rows, n), np.int32), [packed(w)], rows=rows, k=k, columns=n)


@given(
    rows=st.integers(1, 70),
    k=st.integers(1, 90),
    n=st.integers(1, 80),
    dtype=st.sampled_from([np.uint8, np.int8]),
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, dtype, seed):
    x, w, zero = codes(seed, rows, k, dtype=dtype), codes(seed + 1, k, n, dtype=np.int8), codes(seed + 2, dtype=dtype)
    found = assert_equals_reference(sums(x, zero, w), [x, zero])
    assert np.array_equal(found, matmul_integer(x, w, int(zero)))


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1030, 600), (200, 384, 210), (97, 515, 1)])
def test_one_row_many_rows_and_one_column_are_exact(rows, k, n):
    x, w, zero = codes(1, rows, k), codes(2, k, n, dtype=np.int8), np.asarray(200, np.uint8)
    assert_equals_reference(sums(x, zero, w), [x, zero])


def test_a_session_takes_another_zero_point_in_each_run():
    x, w = codes(1, 7, 20), codes(2, 20, 33, dtype=np.int8)
    session = ek.InferenceSession(sums(x, 0, w))
    for zero in (0, 255, 3):
        [found] = session.run(None, {"x0": x, "x1": np.asarray(zero, np.uint8)})
        assert np.array_equal(found, matmul_integer(x, w, zero))


def golden_program():
    return sums(codes(5, 13, 300), 0, codes(7, 300, 37, dtype=np.int8))


def test_golden_bytes(isa):
    feeds = {"x0": codes(5, 13, 300), "x1": np.asarray(99, np.uint8)}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert digest(result) == GOLDEN


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ([codes(1, 7, 20), np.zeros((), np.int8)], "its zero point must be 8-bit"),
        ([codes(1, 7, 20), np.zeros(2, np.uint8)], "needs one zero point"),
        ([codes(1, 7, 21), np.zeros((), np.uint8)], "shapes do not match"),
        ([codes(1, 7, 20)], "number of operands"),
    ],
)
def test_a_step_that_does_not_fit_its_tensors_is_refused(inputs, wrong):
    w = packed(codes(2, 20, 33, dtype=np.int8))
    with pytest.raises(ek.errors.ArtifactError, match=wrong):
        one_step(StepKind.GEMM_INTEGER, inputs, ((7, 33), np.int32), [w], rows=7, k=20, columns=33)
