"""GEMM_SCALED: an integer product times a scale that comes at run time, and its ending; one result on all ISAs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats, padded
from test_gemm_integer import codes, packed

from one_step import assert_equals_reference, one_step
from reference.gemm import matmul_integer

# SHA-256 of what every machine makes of fixed codes; tests/reference computed it.
GOLDEN = "ba6ebc249feb9225"


def scaled(inputs, w, bias, result=np.float32, **ending):
    (rows, k), n = inputs[0].shape, w.shape[1]
    sizes = {"rows": rows, "k": k, "columns": n}
    blobs = [packed(w), padded(bias)]
    return one_step(StepKind.GEMM_SCALED, inputs, ((rows, n), result), blobs, **sizes, **(ending or NO_CLAMP))


@given(
    rows=st.integers(1, 70),
    k=st.integers(1, 90),
    n=st.integers(1, 80),
    each=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.int8]),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, each, dtype, ending, addend, result, seed):
    scale = np.abs(floats(seed + 3, n if each else 1)) / 1000
    inputs = [codes(seed, rows, k, dtype=dtype), codes(seed + 2, dtype=dtype), scale]
    inputs += [] if addend is None else [floats(seed + 4, rows, n)]
    w, bias = codes(seed + 1, k, n, dtype=np.int8), floats(seed + 5, n)
    program = scaled(inputs, w, bias, result, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, inputs)


@pytest.mark.parametrize("each", [False, True])
def test_it_is_what_onnx_writes_with_four_nodes(each):
    x, w, zero, bias = codes(1, 9, 50), codes(2, 50, 70, dtype=np.int8), np.asarray(77, np.uint8), floats(3, 70)
    scale = np.abs(floats(4, 70)) if each else np.asarray(0.01, np.float32)
    found = assert_equals_reference(scaled([x, zero, scale], w, bias), [x, zero, scale])
    assert np.array_equal(found, matmul_integer(x, w, 77).astype(np.float32) * scale + bias)


def golden_inputs():
    return [codes(5, 13, 300), np.asarray(99, np.uint8), np.abs(floats(6, 37)) / 1000]


def golden_program():
    ending = {"activation": 1, "addend_first": False, "lo": 0.0, "hi": 0.0}
    return scaled(golden_inputs(), codes(7, 300, 37, dtype=np.int8), floats(8, 37), **ending)


def test_golden_bytes(isa):
    feeds = {f"x{at}": x for at, x in enumerate(golden_inputs())}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert digest(result) == GOLDEN


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ([codes(1, 7, 20), np.zeros((), np.uint8), np.ones(2, np.float32)], "one float32 scale, or one a column"),
        ([codes(1, 7, 20), np.zeros((), np.uint8)], "number of operands"),
        ([codes(1, 7, 20), np.zeros((), np.uint8), np.ones((), np.float32), np.ones((7, 32), np.float32)], "addend"),
        ([codes(1, 1, 40000), np.zeros((), np.uint8), np.ones((), np.float32)], r"sums can pass 2\^31"),
    ],
)
def test_a_step_that_does_not_fit_its_tensors_is_refused(inputs, wrong):
    w = codes(2, inputs[0].shape[1], 33, dtype=np.int8)
    with pytest.raises(ek.errors.ArtifactError, match=wrong):
        scaled(inputs, w, np.zeros(33, np.float32))


def test_an_addend_that_there_is_not_cannot_come_first():
    inputs = [codes(1, 7, 20), np.zeros((), np.uint8), np.ones((), np.float32)]
    with pytest.raises(ek.errors.ArtifactError, match="cannot come first"):
        scaled(inputs, codes(2, 20, 33, dtype=np.int8), floats(3, 33), **{**NO_CLAMP, "addend_first": True})
