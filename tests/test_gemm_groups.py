"""GEMM_GROUPS: rows quantized as they come, times 4-bit weights in groups; one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats, padded

from one_step import assert_equals_reference, one_step
from reference import int4

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = {8: "480ad69ecee49ef8", 16: "9edfd8629a9c71ee"}


def weights(seed, k, n, group, *, asymmetric=False):
    rng = np.random.Generator(np.random.PCG64(seed))
    groups = -(-k // group)
    values = rng.integers(-8, 8, (k, n), dtype=np.int8)
    scale = rng.uniform(-0.02, 0.02, (groups, n)).astype(np.float32)
    zero = rng.integers(-8, 8, (groups, n)).astype(np.float32)
    return values, scale, zero if asymmetric else None


def product(x, w, bias, group, result=np.float32, addend=None, bits=8, **ending):
    values, scale, zero = w
    (rows, k), n = x.shape, values.shape[1]
    packed, unit = _core.pack_weights4_blob(values, scale, zero, group)
    inputs = [x] if addend is None else [x, addend]
    sizes = {"rows": rows, "k": k, "columns": n, "group": group, "zero_points": zero is not None, "unit": unit}
    sizes["activation_bits"] = bits
    ending = ending or NO_CLAMP
    return one_step(StepKind.GEMM_GROUPS, inputs, ((rows, n), result), [packed, padded(bias)], **sizes, **ending)


@given(
    rows=st.integers(1, 40),
    k=st.integers(1, 300),
    n=st.integers(1, 150),
    group=st.sampled_from([32, 64, 128]),
    asymmetric=st.booleans(),
    bits=st.sampled_from([8, 16]),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(rows, k, n, group, asymmetric, bits, ending, addend, result, seed):
    x, w = floats(seed, rows, k), weights(seed, k, n, group, asymmetric=asymmetric)
    added = None if addend is None else floats(seed + 3, rows, n)
    ending = {**ending, "addend_first": bool(addend)}
    program = product(x, w, floats(seed + 2, n), group, result, added, bits, **ending)
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group", [32, 128])
def test_it_gives_what_linear_gives(group, asymmetric):
    x, bias = floats(1, 17, 515), floats(4, 200)
    values, scale, zero = weights(2, 515, 200, group, asymmetric=asymmetric)
    found = assert_equals_reference(product(x, (values, np.abs(scale), zero), bias, group), [x])
    packed = ek.pack_weights(values, bits=4, scale=np.abs(scale), zero_point=zero, group_size=group)
    assert np.array_equal(found, ek.linear(x, packed, bias=bias))


def test_weights_come_back_from_their_bytes():
    values, scale, zero = weights(3, 77, 70, 32, asymmetric=True)
    packed, unit = _core.pack_weights4_blob(values, scale, zero, 32)
    found = int4.unpack(np.frombuffer(packed, np.uint8), 70, 77, 32, asymmetric=True)
    halves = (scale / np.float32(unit)).astype(np.float16)
    assert all(np.array_equal(got, want) for got, want in zip(found, (values, halves, zero), strict=True))


@pytest.mark.parametrize("bits", [8, 16])
def test_rows_of_zeros_infinities_and_nans_go_their_way(bits):
    x, w = floats(1, 9, 200), weights(2, 200, 33, 64)
    x[0], x[1, 4], x[2, 5], x[3, 6], x[4, :2] = 0, np.nan, -np.inf, np.inf, (3e38, -3e38)
    for ending in (NO_CLAMP, {**NO_CLAMP, "lo": 0.0, "hi": 6.0}, {**NO_CLAMP, "activation": 3}):
        result = assert_equals_reference(product(x, w, floats(3, 33), 64, bits=bits, **ending), [x])
        assert np.isfinite(result[5:]).all()


def test_sixteen_bits_are_two_signed_bytes_and_the_products_of_both_are_exact():
    """The largest values and weights that there are, of one sign: the sum of a group is the largest of all."""
    values = np.full((128, 70), -8, np.int8)
    w = values, np.full((1, 70), 2.0**-10, np.float32), None
    x = np.full((7, 128), 127, np.float32)
    x[3], x[4, ::2] = -127, 0.25
    [found] = ek.InferenceSession(product(x, w, np.zeros(70, np.float32), 128, bits=16)).run(None, {"x0": x})
    assert np.array_equal(found, x @ values.astype(np.float32) * np.float32(2.0**-10))


def test_rows_of_sixteen_bits_lose_a_hundredth_of_what_eight_lose():
    x, w, none = floats(1, 9, 512), weights(2, 512, 70, 32), np.zeros(70, np.float32)
    packed, unit = _core.pack_weights4_blob(*w, 32)
    _, halves, _ = int4.unpack(np.frombuffer(packed, np.uint8), 70, 512, 32, asymmetric=False)
    exact = x.astype(np.float64) @ (w[0] * np.repeat(halves.astype(np.float64) * unit, 32, axis=0))
    errors = []
    for bits in (8, 16):
        [found] = ek.InferenceSession(product(x, w, none, 32, bits=bits)).run(None, {"x0": x})
        errors.append(float(np.square(found - exact).sum()))
    assert errors[1] < errors[0] / 1e4


def golden_program(bits=8):
    w = weights(7, 300, 37, 32, asymmetric=True)
    return product(
        floats(5, 13, 300), w, floats(8, 37), 32, bits=bits, activation=1, addend_first=False, lo=0.0, hi=0.0
    )


@pytest.mark.parametrize(("bits", "golden"), GOLDEN.items())
def test_golden_bytes(isa, bits, golden):
    [result] = ek.InferenceSession(golden_program(bits), isa=isa).run(None, {"x0": floats(5, 13, 300)})
    assert digest(result) == golden


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"group": 16}, "groups are 32, 64 or 128"),
        ({"group": 64}, "wrong size"),
        ({"activation_bits": 4}, "rows have 8 or 16 bits"),
        ({"zero_points": True}, "wrong size"),
        ({"unit": 0.0}, "damaged unit"),
        ({"unit": np.inf}, "damaged unit"),
        ({"columns": 34}, "do not match"),
        ({"k": 1 << 62}, "damaged k"),
    ],
)
def test_damaged_arguments_are_refused(wrong, what):
    x, (values, scale, zero) = floats(1, 3, 96), weights(2, 96, 33, 32)
    packed, unit = _core.pack_weights4_blob(values, scale, zero, 32)
    sizes = {"rows": 3, "k": 96, "columns": 33, "group": 32, "zero_points": False, "unit": unit, **NO_CLAMP}
    sizes["activation_bits"] = 8
    with pytest.raises(ek.errors.ArtifactError, match=what):
        one_step(StepKind.GEMM_GROUPS, [x], ((3, 33), np.float32), [packed, padded(floats(3, 33))], **sizes | wrong)
