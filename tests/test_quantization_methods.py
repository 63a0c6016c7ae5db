"""Methods of quantization: each makes the integers of a layer better than the nearest ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from reference.rounding import round_keeping_sum

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from edgekern.calibration import Ranges
from edgekern.errors import EdgekernWarning
from edgekern.quantization import Encoding, QuantConfig, quantize
from edgekern.quantization.methods import Rows, methods_of
from edgekern.quantization.methods.bias_correction import correct_bias
from edgekern.quantization.methods.rounding import keep_filter_sums, round_keeping_sums
from edgekern.quantization.weights import WeightLayout, quantize_weights

from float_models import build, f32, helper, ranges_of, run, samples, small_cnn

CONV = WeightLayout(0, 1)
U8 = Encoding(0.02, signed=False)


# ---- one signature ----


def test_a_method_of_ones_own_plugs_in(rng: np.random.Generator) -> None:
    def upwards(rows: Rows) -> Rows:
        return rows.with_codes(np.ceil(rows.weights / rows.step))

    weights = rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    result = quantize_weights(weights, CONV, U8, methods=(upwards,))
    scale = result.encoding.scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert_array_equal(result.values, np.clip(np.ceil(weights / scale), -127, 127))


def test_a_method_may_choose_scales_and_they_do_not_count_as_widened(rng: np.random.Generator) -> None:
    def half(rows: Rows) -> Rows:
        return rows.with_scale(rows.wanted_scale / 2)

    weights = rng.normal(size=(6, 4, 1, 1)).astype(np.float32)
    plain, halved = (quantize_weights(weights, CONV, U8, methods=methods) for methods in ((), (half,)))
    assert_array_equal(halved.encoding.scale, plain.encoding.scale / 2)
    assert halved.widened == ()
    assert np.abs(halved.values.astype(int)).max() == 127  # clamped to what a weight can be


def test_methods_see_each_row_once_with_what_was_kept_of_its_group(rng: np.random.Generator) -> None:
    weights, means = rng.normal(size=(6, 2, 1, 1)).astype(np.float32), np.arange(6.0)
    seen: list[int] = []

    def look(rows: Rows) -> Rows:
        seen.extend(rows.group)
        assert rows.statistics["channel_means"] is means
        return rows

    grouped = WeightLayout(0, 1, groups=3)
    quantize_weights(weights, grouped, U8, methods=(look,), statistics={"channel_means": means})
    assert seen == [0, 0, 1, 1, 2, 2]


def test_a_configuration_names_the_methods_that_run() -> None:
    assert methods_of(QuantConfig()) == (keep_filter_sums, correct_bias)
    assert methods_of(QuantConfig(rounding="nearest", bias_correction=False)) == ()


# ---- rounding ----


@given(st.lists(st.floats(-126, 126), min_size=1, max_size=7))
def test_rounding_together_keeps_the_sum_at_the_least_error(values: list[float]) -> None:
    ratio = np.array(values)
    wanted, least = round_keeping_sum(ratio)
    rounded = round_keeping_sums(ratio[None])[0]
    assert rounded.sum() == wanted
    assert ((rounded - ratio) ** 2).sum() <= least + 1e-9


def test_rounding_together_leaves_single_taps_alone(rng: np.random.Generator) -> None:
    ratio = rng.uniform(-126, 126, (5, 4, 1))
    assert_array_equal(round_keeping_sums(ratio), np.rint(ratio))


# ---- bias correction ----


def test_bias_correction_makes_no_bias_where_none_can_stand(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(4, 6)).astype(np.float32)
    matmul, means = WeightLayout(1, 0, taps_are_summed=False), {"channel_means": np.ones(4)}
    given_means = {"methods": (correct_bias,), "statistics": means}
    assert quantize_weights(weights, matmul, U8, takes_bias=False, **given_means).bias is None
    assert quantize_weights(weights, matmul, U8, **given_means).bias is not None


@pytest.mark.parametrize("bias", [False, True])
def test_bias_correction_takes_the_mean_error_of_the_weights_back(bias: bool, rng: np.random.Generator) -> None:
    weights = {"w": f32(rng.normal(size=(8, 32, 1, 1)))} | ({"b": f32(rng.normal(size=8))} if bias else {})
    model = build([helper.make_node("Conv", ["x", *weights], ["y"])], weights, ["n", 32, 6, 6])
    x = f32(rng.uniform(2, 3, (16, 32, 6, 6)))
    ranges = ranges_of(model, x, method="max")

    def mean_error(qdq: Any) -> float:
        return float(np.abs((run(qdq, x)[0] - run(model, x)[0]).mean(axis=(0, 2, 3))).max())

    plain, corrected = quantize(model, ranges, QuantConfig(bias_correction=False)), quantize(model, ranges)
    assert mean_error(corrected) < mean_error(plain) / 5


def test_bias_correction_needs_means_and_survives_nan(rng: np.random.Generator) -> None:
    model, x = small_cnn(), samples(rng)
    ranges = ranges_of(model, x)
    without = Ranges({n: replace(r, channel_means=None) for n, r in ranges.items()}, ranges.model_hash, ranges.method)
    off = QuantConfig(bias_correction=False)
    assert quantize(model, without).graph == quantize(model, ranges, off).graph
    assert quantize(model, ranges).graph != quantize(model, ranges, off).graph
    odd = x.copy()
    odd[0, 0, 0, 0] = np.nan
    with pytest.warns(EdgekernWarning, match="NaN"):
        ranges = ranges_of(model, odd)
    assert np.isfinite(run(quantize(model, ranges), x)[0]).all()
