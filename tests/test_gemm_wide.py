"""GEMM_WIDE: 16-bit activations by int8 weights, exact; one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.errors import ArtifactError
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats
from wide_steps import CODES, USUAL, by_group, weights_of

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "a92fa20359d1387c"


def gemm(x, w, codes=USUAL, result=np.float32, addend=None, **ending):
    (rows, k), n = x.shape, w.shape[1]
    packed = _core.pack_weights_blob(np.ascontiguousarray(w.T)[None, :, None])
    blobs = [packed, by_group(np.abs(floats(3, n)) * 1e-5), by_group(floats(4, n))]
    inputs = [x] if addend is None else [x, addend]
    arguments = {"rows": rows, "k": k, "columns": n, **codes, **(ending or NO_CLAMP)}
    return one_step(StepKind.GEMM_WIDE, inputs, ((rows, n), result), blobs, **arguments)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 70),
    k=st.integers(1, 90),
    n=st.integers(1, 80),
    codes=CODES,
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_matrix_product_equals_the_reference(rows, k, n, codes, ending, addend, result, seed):
    x, w = floats(seed, rows, k), weights_of(seed, k, n)
    added = None if addend is None else floats(seed + 1, rows, n)
    program = gemm(x, w, codes, result, added, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1030, 200), (230, 384, 210), (97, 515, 1), (300, 64, 700), (0, 8, 8)])
def test_parts_and_blocks_equal_the_reference(rows, k, n):
    x = floats(1, rows, k)
    assert_equals_reference(gemm(x, weights_of(2, k, n)), [x])


@pytest.mark.parametrize(
    "codes", [{"scale": 1.0, "zero_point": 0, "signed": 0}, {"scale": 1.0, "zero_point": -1, "signed": 1}]
)
def test_sums_that_int32_does_not_hold_are_exact(codes):
    """The largest codes by the largest weights: 2**40, of which float32 is the nearest."""
    k = 2048
    x, w = np.full((3, k), 1e9, np.float32), np.full((k, 17), -128, np.int8)
    x[1] = -1e9
    assert_equals_reference(gemm(x, w, codes), [x])


def test_what_is_no_number_becomes_the_least_code_and_infinities_the_ends():
    x = floats(1, 4, 20)
    x[0, 3], x[1, 4], x[2, 5], x[3] = np.nan, np.inf, -np.inf, 0
    result = assert_equals_reference(gemm(x, weights_of(2, 20, 33)), [x])
    assert np.isfinite(result).all()


def golden_step():
    x = floats(5, 13, 300)
    return gemm(x, weights_of(6, 300, 37), {"scale": 0.0002, "zero_point": -77, "signed": 1}), [x]


def golden_program():
    return golden_step()[0]


def test_golden_bytes(isa):
    program, inputs = golden_step()
    [result] = ek.InferenceSession(program, isa=isa).run(None, {f"x{at}": x for at, x in enumerate(inputs)})
    assert digest(result) == GOLDEN
    assert program.paths(isa=isa) == ("tile",)
    assert "100.0% in 16 bits" in program.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, "damaged quantization of its input"),
        ({"scale": np.inf}, "damaged quantization of its input"),
        ({"zero_point": 65536}, "damaged quantization of its input"),
        ({"zero_point": -1}, "damaged quantization of its input"),
        ({"zero_point": 32768, "signed": 1}, "damaged quantization of its input"),
    ],
)
def test_codes_that_there_are_not_are_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        gemm(floats(1, 2, 8), weights_of(2, 8, 8), {**USUAL, **changes})


def test_a_sum_that_could_pass_an_int32_is_refused():
    k = (2**31 - 1) // (255 * 128) + 1
    with pytest.raises(ArtifactError, match=r"sums can pass 2\^31"):
        gemm(floats(1, 1, k), np.ones((k, 1), np.int8))
