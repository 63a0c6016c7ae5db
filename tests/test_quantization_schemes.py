"""Ranges become encodings, weights and biases integers: quantization on arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

for toolkit in ("onnx", "onnx_ir", "onnxruntime"):
    pytest.importorskip(toolkit, reason="needs edgekern[toolkit]")

from edgekern.quantization import Encoding  # noqa: E402
from edgekern.quantization.methods.rounding import keep_filter_sums  # noqa: E402
from edgekern.quantization.schemes import affine_signed, affine_unsigned  # noqa: E402
from edgekern.quantization.weights import WeightLayout, channel_scales, quantize_weights  # noqa: E402

CONV = WeightLayout(0, 1)
U8 = Encoding(0.02, signed=False)
TOGETHER = (keep_filter_sums,)


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_asymmetric_range_keeps_zero_exact_and_both_ends_in_reach(a: float, b: float) -> None:
    lo, hi = min(a, b, 0.0), max(a, b, 0.0)
    affine = affine_unsigned(lo, hi)
    assert np.isfinite(affine.scale)
    assert affine.scale >= np.finfo(np.float32).tiny
    assert 0 <= affine.zero_point <= 255
    scale = float(affine.scale)
    assert -affine.zero_point * scale <= lo + 0.501 * scale
    assert (255 - affine.zero_point) * scale >= hi - 0.501 * scale


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_symmetric_range_has_zero_point_zero(a: float, b: float) -> None:
    affine = affine_signed(min(a, b), max(a, b))
    assert affine.zero_point == 0
    assert np.isfinite(affine.scale)
    assert affine.scale > 0


def test_range_of_zeros_has_scale_one() -> None:
    assert affine_unsigned(0.0, 0.0).scale == 1
    assert affine_signed(0.0, 0.0).scale == 1


def test_range_away_from_zero_is_extended_to_it() -> None:
    assert affine_unsigned(2.0, 5.1) == affine_unsigned(0.0, 5.1)
    assert affine_unsigned(0.0, 5.1).zero_point == 0
    assert affine_unsigned(-5.1, -2.0).zero_point == 255


def test_weight_scale_is_the_largest_magnitude_over_127_and_one_for_a_zero_channel() -> None:
    weights = np.array([[1.0, -2.54], [0.0, 0.0]], np.float32)
    assert_allclose(channel_scales(weights, 0), [0.02, 1.0], rtol=1e-6)


def test_nearest_rounding_errs_by_half_a_step_at_most(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    result = quantize_weights(weights, CONV, U8, methods=())
    step = result.encoding.scale[:, None, None, None]
    assert np.abs(weights - result.values * step).max() <= 0.5001 * step.max()
    assert_array_equal(np.abs(result.values).reshape(6, -1).max(axis=1), 127)


@pytest.mark.parametrize("layout", [WeightLayout(0, 1), WeightLayout(1, 0), WeightLayout(3, 2)])
def test_what_is_written_by_channel_lies_where_the_weights_do(layout: WeightLayout, rng: np.random.Generator) -> None:
    values = rng.integers(-127, 128, (4, 3, 2, 5), dtype=np.int8)
    stored = np.empty_like(values)
    layout.by_channel(stored)[...] = layout.by_channel(values)
    assert_array_equal(stored, values)


def test_channel_that_could_overflow_is_widened_and_no_other() -> None:
    weights = np.full((3, 2, 1, 1), 0.5, np.float32)
    weights[1] = 1e-12  # a dead channel: its bias alone would pass 2**31
    result = quantize_weights(weights, CONV, U8, methods=TOGETHER, bias=np.array([1.0, 1.0, -1.0], np.float32))
    assert result.widened == (1,)
    assert result.bias is not None
    reach = np.abs(result.bias.astype(np.int64)) + 255 * np.abs(result.values.astype(np.int64)).sum(axis=(1, 2, 3))
    assert reach.max() <= 2**31 - 1
    assert_allclose(result.bias * result.bias_scale.astype(np.float64), [1, 1, -1], rtol=1e-6)


def test_deep_sum_that_could_overflow_is_widened() -> None:
    weights = np.full((1, 80_000), 1.0, np.float32)
    result = quantize_weights(weights, CONV, U8, methods=TOGETHER)
    assert result.widened == (0,)
    assert 255 * np.abs(result.values.astype(np.int64)).sum() <= 2**31 - 1
    independent = WeightLayout(2, 1, taps_are_summed=False)
    assert quantize_weights(np.ones((3, 40_000, 1), np.float32), independent, U8, methods=TOGETHER).widened == ()
