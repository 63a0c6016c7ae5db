"""Resizing along one axis by weighted neighbors: one result on all ISAs and threads, close to the truth."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step
from strategies import float_arrays

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "df42c72c9bc9ec90"


def resample(shape, index, weight, given=np.float32, result=np.float32, **changes):
    """x of (outer, n, inner) along n."""
    (outer, n, inner), (m, taps) = shape, index.shape
    sizes = {"outer": outer, "n": n, "m": m, "inner": inner, "taps": taps}
    tables = [index.astype(np.int32), weight.astype(np.float32)]
    y = ((outer, m, inner), result)
    return one_step(StepKind.RESAMPLE, [np.empty(shape, given)], y, tables, **(sizes | changes))


def linear(n, m):
    """Half-pixel linear interpolation."""
    at = ((np.arange(m) + 0.5) * n / m - 0.5).clip(0, n - 1)
    left = np.floor(at).astype(int)
    return np.stack([left, (left + 1).clip(0, n - 1)], axis=1), np.stack([left + 1 - at, at - left], axis=1)


@given(data=st.data(), special=st.booleans(), seed=st.integers(0, 99))
def test_any_weights_equal_the_reference(data, special, seed):
    outer, n, m = (data.draw(st.integers(1, most)) for most in (4, 9, 20))
    taps, inner = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 2, 3, 7, 15, 16, 17, 48, 64, 90]))
    rng = np.random.default_rng(seed)
    x = data.draw(float_arrays((outer, n, inner), special=special))
    assert_equals_reference(resample(x.shape, rng.integers(0, n, (m, taps)), rng.normal(size=(m, taps))), [x])


@given(data=st.data(), seed=st.integers(0, 99))
def test_bytes_are_read_and_stored_as_the_reference_does(data, seed):
    given_as, result = (data.draw(st.sampled_from([np.float32, np.uint8, np.int8])) for _ in range(2))
    outer, n, m = (data.draw(st.integers(1, most)) for most in (3, 6, 9))
    taps, inner = data.draw(st.integers(1, 16)), data.draw(st.sampled_from([16, 17, 64, 255, 256, 300]))
    rng = np.random.default_rng(seed)
    index, weight = rng.integers(0, n, (m, taps)), rng.normal(size=(m, taps))
    x = rng.uniform(-128, 256, (outer, n, inner)).astype(given_as)
    assert_equals_reference(resample(x.shape, index, weight, given_as, result), [x])


@pytest.mark.parametrize(("inner", "taps"), [(15, 2), (16, 17)])
def test_bytes_of_short_rows_or_of_many_neighbors_are_refused(inner, taps):
    with pytest.raises(ArtifactError, match="too short or too many neighbors for 8 bits"):
        resample((1, 4, inner), np.zeros((3, taps)), np.zeros((3, taps)), np.uint8)


@pytest.mark.parametrize("inner", [1, 3, 16, 100])
@pytest.mark.parametrize(("n", "m"), [(7, 14), (20, 9), (5, 5)])
def test_linear_interpolation_is_close_to_the_truth(n, m, inner):
    x = np.random.default_rng(3).normal(size=(3, n, inner)).astype(np.float32)
    index, weight = linear(n, m)
    result = assert_equals_reference(resample(x.shape, index, weight), [x])
    truth = np.einsum("mt,omti->omi", weight, x.astype(np.float64)[:, index])
    np.testing.assert_allclose(result, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 60, 3000), (300, 50, 1), (2, 40, 64)])
def test_large_images_are_shared_between_threads(shape):
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    assert_equals_reference(resample(shape, *linear(shape[1], 100)), [x])


@pytest.mark.parametrize("inner", [1, 20])
def test_what_a_damaged_table_says_stays_inside(inner):
    x = np.random.default_rng(3).normal(size=(2, 4, inner)).astype(np.float32)
    index = np.array([[-1, 4], [2**31 - 1, -(2**31)]])
    result = assert_equals_reference(resample(x.shape, index, np.array([[1, 0], [0, 1]])), [x])
    np.testing.assert_array_equal(result, np.stack([x[:, 0], x[:, 0]], axis=1))


def golden_program(inner=21):
    return resample((2, 9, inner), *linear(9, 14))


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(17)).normal(size=(2, 9, 21)).astype(np.float32)
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN
    assert golden_program().paths(isa=isa) == ("resample_row",)
    assert golden_program(5).paths(isa=isa) == ("resample_lanes",)


@pytest.mark.parametrize(
    ("name", "value"), [("outer", 3), ("n", 5), ("m", 40), ("inner", 2**31 - 1), ("taps", 30), ("taps", 2**31 - 1)]
)
def test_what_does_not_fit_is_refused(name, value):
    with pytest.raises(ArtifactError, match="do not match its sizes"):
        ek.InferenceSession(resample((2, 4, 5), *linear(4, 8), **{name: value}))
