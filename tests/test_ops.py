"""quantize_linear, dequantize_linear, dynamic_quantize: the ONNX definitions on every ISA."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from reference import quantize as reference
from strategies import float_arrays


@given(
    data=st.data(),
    n=st.integers(0, 200),
    dtype=st.sampled_from([np.uint8, np.int8]),
    scale=st.floats(2.0**-20, 2.0**10, width=32),
)
def test_quantize_has_one_definition_on_every_isa(data: st.DataObject, n: int, dtype: Any, scale: float) -> None:
    x = data.draw(float_arrays((n,), special=True))
    lo, hi = reference.bounds(dtype)
    zero = data.draw(st.integers(lo, hi))
    expected = reference.quantize_linear(x, scale, zero, dtype)
    back = reference.dequantize_linear(expected, scale, zero)
    scales, zeros = np.array([scale], np.float32), np.array([zero], np.int32)
    for isa in _core.available_isas():
        got = _core.quantize_linear(x, scales, zeros, None, dtype is np.int8, None, isa, 2)
        assert_array_equal(got, expected)
        assert_array_equal(_core.dequantize_linear(got, scales, zeros, None, None, isa, 2), back)


def test_ties_go_to_even_and_the_zero_point_is_added_after_rounding() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert_array_equal(ek.quantize_linear(x, 1.0, 1, dtype=np.int8), np.array([1, 3, 3, 1, -1], np.int8))


def test_division_is_a_division() -> None:
    scale = np.float32(0.1)
    x = (np.arange(-1270, 1270) * np.float32(0.05)).astype(np.float32)
    assert_array_equal(ek.quantize_linear(x, scale, np.int8(0)), reference.quantize_linear(x, scale, 0, np.int8))


@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from([np.uint8, np.int8]),
    threads=st.integers(1, 3),
)
def test_per_channel_runs_along_the_axis(data: st.DataObject, shape: tuple[int, ...], dtype: Any, threads: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    length = shape[axis]
    scale = (2.0 ** rng.uniform(-20, 10, length)).astype(np.float32)
    lo, hi = reference.bounds(dtype)
    zero = rng.integers(lo, hi + 1, length).astype(np.int32)
    along = [1] * len(shape)
    along[axis] = length
    scales, zeros = scale.reshape(along), zero.reshape(along)
    x = (rng.normal(0, 100, shape) * scales).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, 1e-40], np.float32)
    x = np.where(rng.random(shape) < 0.2, rng.choice(special, shape), x)
    expected = reference.quantize_linear(x, scales, zeros, dtype)
    back = reference.dequantize_linear(expected, scales, zeros)
    for isa in _core.available_isas():
        got = _core.quantize_linear(x, scale, zero, axis, dtype is np.int8, None, isa, threads)
        assert_array_equal(got, expected)
        assert_array_equal(_core.dequantize_linear(got, scale, zero, axis, None, isa, threads), back)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 40000), 0),
        ((700, 300), 1),
        ((4, 6, 20000), 1),
        ((9000, 5, 3), 1),
        ((70000,), 0),
        ((30000, 3), 0),
        ((2, 40000), 1),
        ((5, 40000, 1), 2),
    ],
)
def test_channels_that_many_tasks_share(shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=shape).astype(np.float32)
    scale = rng.uniform(0.01, 0.05, shape[axis]).astype(np.float32)
    zero = rng.integers(-20, 20, shape[axis]).astype(np.int8)
    along = [1] * len(shape)
    along[axis] = -1
    expected = reference.quantize_linear(x, scale.reshape(along), zero.reshape(along), np.int8)
    for threads in (1, 2, 3):
        got = ek.quantize_linear(x, scale, zero, axis=axis, num_threads=threads)
        assert_array_equal(got, expected)
        back = ek.dequantize_linear(got, scale, zero, axis=axis, num_threads=threads)
        assert_array_equal(back, reference.dequantize_linear(got, scale.reshape(along), zero.reshape(along)))


def test_dynamic_quantize_is_symmetric_per_row(rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 50)).astype(np.float32)
    x[2] = 0
    q, scale = ek.dynamic_quantize(x)
    assert scale[2] == 1.0
    assert not q[2].any()
    assert np.abs(q).max() == 127
    peak = np.abs(x).max(axis=1)
    assert_array_equal(scale[peak > 0], peak[peak > 0] / np.float32(127))
    assert_array_equal(q[peak > 0], np.rint(x[peak > 0] * (np.float32(127) / peak[peak > 0])[:, None]))


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ek.quantize_linear(X.astype(np.float64), 1.0), ArgumentTypeError, "x must be float32, got float64"),
        (lambda: ek.quantize_linear(X.T, 1.0), ArgumentValueError, "x must be C-contiguous"),
        (lambda: ek.quantize_linear(X, 0.0), ArgumentValueError, "scale must be positive and finite"),
        (lambda: ek.quantize_linear(X, 1.0, 300), ArgumentValueError, r"zero_point must lie in \[0, 255\], got 300"),
        (
            lambda: ek.quantize_linear(X, 1.0, 2**32 + 7),
            ArgumentValueError,
            "zero_point must lie in the 8 bits of dtype",
        ),
        (lambda: ek.quantize_linear(X, 1.0, 0.5), ArgumentTypeError, "zero_point must be integer, got float64"),
        (
            lambda: ek.quantize_linear(X, np.ones(3, np.float32)),
            ArgumentValueError,
            "scale has 3 values but axis is None",
        ),
        (
            lambda: ek.quantize_linear(X, np.ones(3, np.float32), axis=0),
            ArgumentValueError,
            "scale has 3 values but axis 0 has length 2",
        ),
        (
            lambda: ek.quantize_linear(X, np.ones(3, np.float32), axis=2),
            ArgumentValueError,
            r"axis 2 is outside shape \(2, 3\)",
        ),
        (
            lambda: ek.quantize_linear(X, 1.0, dtype=np.int16),
            ArgumentTypeError,
            "dtype must be uint8 or int8, got int16",
        ),
        (lambda: ek.quantize_linear(X, "a"), ArgumentTypeError, "scale must be a number"),
        (
            lambda: ek.quantize_linear(X, 1.0, out=np.zeros((2, 3), np.int8)),
            ArgumentTypeError,
            "out must be uint8, got int8",
        ),
        (lambda: ek.dequantize_linear(X, 1.0), ArgumentTypeError, "x must be uint8 or int8, got float32"),
        (lambda: ek.dynamic_quantize(X[0]), ArgumentValueError, r"x must have 2 axes, got shape \(3,\)"),
        (lambda: ek.set_num_threads(0), ArgumentValueError, "num_threads must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_cpu_info_and_threads() -> None:
    info = ek.cpu_info()
    assert info["isa"] in info["available"]  # type: ignore[operator]
    before = ek.get_num_threads()
    try:
        ek.set_num_threads(1)
        assert ek.get_num_threads() == 1
    finally:
        ek.set_num_threads(before)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_result_may_not_lie_on_what_it_is_made_of(shift: int) -> None:
    floats = np.zeros(40, np.float32)
    bytes_ = floats.view(np.uint8)
    with pytest.raises(ArgumentValueError, match="quantize_linear: out overlaps x"):
        ek.quantize_linear(floats[:32], 0.1, out=bytes_[shift : shift + 32])
    with pytest.raises(ArgumentValueError, match="dequantize_linear: out overlaps x"):
        ek.dequantize_linear(bytes_[shift : shift + 32], 0.1, out=floats[:32])
