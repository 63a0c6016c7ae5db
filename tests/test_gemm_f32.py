"""GEMM_F32: float32 rows times packed weights, one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, assert_close, digest, floats, padded

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "a35a7866e8315f1b"


def gemm(x, w, bias, result=np.float32, addend=None, **ending):
    rows, k = x.shape
    blobs = [_core.pack_f32_blob(w.T[None]), padded(bias)]
    inputs = [x] if addend is None else [x, addend]
    sizes = {"rows": rows, "k": k, "columns": w.shape[1]}
    return one_step(StepKind.GEMM_F32, inputs, ((rows, w.shape[1]), result), blobs, **sizes, **(ending or NO_CLAMP))


@given(
    rows=st.integers(1, 40),
    k=st.integers(0, 70),
    n=st.integers(1, 70),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, ending, addend, result, seed):
    x, w, bias = floats(seed, rows, k), floats(seed + 1, k, n), floats(seed + 2, n)
    added = None if addend is None else floats(seed + 3, rows, n)
    program = gemm(x, w, bias, result, added, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [2, 5, 16, 64])
def test_pieces_of_one_tile_go_down_all_of_k(isa, threads):
    x, w, bias = floats(1, 200, 300), floats(2, 300, 210), floats(3, 210)
    program = gemm(x, w, bias)
    [alone] = ek.InferenceSession(program, isa=isa, num_threads=1).run(None, {"x0": x})
    [found] = ek.InferenceSession(program, isa=isa, num_threads=threads).run(None, {"x0": x})
    assert found.tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("rows", "k", "n"), [(1, 1030, 200), (100, 1024, 50), (200, 300, 210), (5, 2000, 3), (97, 515, 16)]
)
def test_a_product_of_several_blocks_is_one_chain_and_close_to_float64(rows, k, n):
    x, w, bias = floats(1, rows, k), floats(2, k, n), floats(3, n)
    result = assert_equals_reference(gemm(x, w, bias), [x])
    x, w = x.astype(np.float64), w.astype(np.float64)
    assert_close(result, x @ w + bias, np.abs(x) @ np.abs(w) + np.abs(bias))


def test_infinities_and_nans_go_their_way():
    x, w = floats(1, 7, 20), floats(2, 20, 33)
    x[0, 3], x[1, 4], x[2, 5], w[6, 7] = np.inf, np.nan, -np.inf, np.inf
    for ending in (NO_CLAMP, {**NO_CLAMP, "lo": 0.0, "hi": 6.0}, {**NO_CLAMP, "activation": 3}):
        result = assert_equals_reference(gemm(x, w, floats(3, 33), **ending), [x])
        assert np.isnan(result[1]).all()


def golden_program():
    return gemm(floats(5, 13, 300), floats(6, 300, 37), floats(7, 37), activation=1, addend_first=False, lo=0.0, hi=0.0)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": floats(5, 13, 300)})
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("float",)
