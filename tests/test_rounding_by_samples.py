"""GPTQ and AdaRound within quantize: what a layer gives comes nearer, by whatever recipe."""

import numpy as np
import pytest
from onnx import helper

import edgekern as ek
from edgekern.errors import ArgumentValueError, CalibrationError
from edgekern.quantization import Encoding, compute_encodings, weights
from edgekern.quantization.methods import methods_of, needs_samples
from edgekern.quantization.methods.adaround import adaround
from edgekern.quantization.methods.gptq import output_error
from edgekern.quantization.weights import INPUT_MEANS, SECOND_MOMENTS, WeightLayout, quantize_weights
from test_gptq import correlated

from float_models import build, f32, ranges_of, samples, small_cnn, sqnr_db
from graphs import onnxruntime_session, results_everywhere

RNG = np.random.default_rng(11)
ROUNDINGS = ["gptq", "adaround"]
node = helper.make_node


# ---- AdaRound on plain matrices ----


@pytest.mark.parametrize(("columns", "k", "highest"), [(30, 9, 7), (12, 40, 7), (20, 90, 127)])
def test_adaround_goes_to_neighbours_that_are_better_together(columns, k, highest):
    w, moments = f32(RNG.normal(size=(columns, k))), correlated(k, 2)
    step = f32(np.abs(w).max(axis=1, keepdims=True) / highest)
    codes = adaround(w / step, step, moments, lowest=-highest, highest=highest)
    assert np.array_equal(codes, np.rint(codes))
    assert np.abs(codes).max() <= highest
    plain, found = (output_error(w, f32(each * step), moments).sum() for each in (np.rint(w / step), codes))
    assert found < 0.6 * plain


def test_adaround_of_many_matrices_is_that_of_each():
    w = f32(RNG.normal(size=(5, 2, 9)))
    step = f32(np.abs(w).max(axis=2, keepdims=True) / 7)
    moments = np.array([correlated(9, seed) for seed in range(5)])
    together = adaround(w / step, step, moments, lowest=-7, highest=7)
    errors, alone = [], []
    for i in range(5):
        codes = adaround(w[i] / step[i], step[i], moments[i], lowest=-7, highest=7)
        errors.append(output_error(w[i], f32(together[i] * step[i]), moments[i]).sum())
        alone.append(output_error(w[i], f32(codes * step[i]), moments[i]).sum())
    np.testing.assert_allclose(errors, alone, rtol=0.3)
    assert sum(errors) == pytest.approx(sum(alone), rel=0.1)


def test_adaround_makes_up_for_weights_beyond_the_last_code():
    """Inputs that are nearly the same: what a weight of 9 lacks at 7, the others get."""
    ratio, one = f32(np.array([[9.0, 0.0, 0.0]])), np.ones((1, 1), np.float32)
    codes = adaround(ratio, one, np.ones((3, 3)) + 0.01 * np.eye(3), lowest=-7, highest=7)
    assert codes.tolist() == [[7, 1, 1]]


@pytest.mark.parametrize("moments", [np.zeros((6, 6)), np.diag([1.0, 0, 2, 0, 0, 3])])
def test_adaround_leaves_weights_nearest_whose_inputs_have_nothing_in_common(moments):
    ratio = f32(RNG.uniform(-7, 7, (4, 6)))
    assert np.array_equal(adaround(ratio, np.ones((4, 1), np.float32), moments, lowest=-7, highest=7), np.rint(ratio))


# ---- on rows ----


def layer(rounding, bits, *, mended=True, **given):
    methods = methods_of(ek.QuantConfig(rounding=rounding, bias_correction=mended))
    w, moments, means = given["w"], given["moments"], given["means"]
    shown = {SECOND_MOMENTS: moments, INPUT_MEANS: means}
    layout = WeightLayout(0, 1, groups=len(moments))
    inputs = Encoding(0.02, signed=False)
    return quantize_weights(w, layout, inputs, methods=methods, bits=bits, statistics=shown, bias=given.get("bias"))


def given_layer(groups=1, rows=6, inputs=5, taps=(3, 3)):
    w = f32(RNG.normal(size=(rows * groups, inputs, *taps)))
    k = w[0].size
    means = RNG.normal(size=(groups, k))
    moments = np.array([correlated(k, seed) + np.outer(m, m) for seed, m in enumerate(means)])
    return {"w": w, "moments": moments, "means": means}


def squared_error(made, w, moments, means):
    """Of results, biases included."""
    scale = made.encoding.scale.reshape(-1, 1)
    off = w.reshape(len(w), -1) - made.values.reshape(len(w), -1) * scale.astype(np.float64)
    shift = np.zeros(len(w)) if made.bias is None else made.bias * made.bias_scale.astype(np.float64)
    total = 0.0
    for row, e in enumerate(off):
        group = row * len(moments) // len(w)
        total += e @ moments[group] @ e - 2 * shift[row] * (e @ means[group]) + shift[row] ** 2
    return total


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("mended", [True, False])
def test_results_come_nearer(rounding, bits, groups, mended):
    given = given_layer(groups)
    plain, found = (layer(way, bits, mended=mended, **given) for way in ("nearest", rounding))
    assert found.encoding.bits == bits
    assert squared_error(found, **given) < 0.6 * squared_error(plain, **given)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_layer_in_pieces_is_the_layer(rounding, monkeypatch):
    """Rows may come in any number at a time."""
    given = given_layer(2)
    whole = layer(rounding, 4, **given)
    monkeypatch.setattr(weights, "BLOCK", 2 * given["w"][0].size)
    pieces = layer(rounding, 4, **given)
    assert (whole.values == pieces.values).mean() > 0.99  # BLAS sums in another order: a tie may fall either way
    np.testing.assert_array_equal(whole.encoding.scale, pieces.encoding.scale)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_scales_that_must_grow_do(rounding):
    given = given_layer() | {"bias": np.full(6, 1e8)}
    made = layer(rounding, 4, **given)
    assert made.widened
    assert (
        np.abs(made.bias.astype(np.int64)) + 255 * np.abs(made.values.astype(int)).sum(axis=(1, 2, 3)) < 2**31
    ).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_layer_that_samples_say_nothing_of_is_nearest(rounding):
    w, inputs = f32(RNG.normal(size=(4, 5))), Encoding(0.02, signed=False)
    plain, found = (
        quantize_weights(w, WeightLayout(0, 1), inputs, methods=methods_of(ek.QuantConfig(rounding=way)))
        for way in ("nearest", rounding)
    )
    assert np.array_equal(plain.values, found.values)


# ---- on models ----


def one_matrix():
    """Inputs that depend on each other, as those behind a layer do."""
    basis = RNG.normal(size=(12, 64))
    x = [f32(RNG.normal(size=(40, 12)) @ basis + 0.2 * RNG.normal(size=(40, 64))) for _ in range(8)]
    model = build([node("MatMul", ["x", "w"], ["y"])], {"w": f32(RNG.normal(size=(64, 24)))}, ["N", 64])
    return model, x


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("recipe", ["w8a8", "w4a8", "w8a8-dynamic", "w4a8-g32", "w4a16-g32"])
def test_every_recipe_gains_on_samples_that_it_has_not_seen(rounding, recipe):
    model, x = one_matrix()
    ranges = ranges_of(model, np.concatenate(x[:6]))
    exact = onnxruntime_session(model, optimized=False).run(None, {"x": x[7]})[0]
    found = []
    for way in ("nearest", rounding):
        config = ek.QuantConfig(recipe=recipe, rounding=way)
        qdq = ek.quantize(model, ranges, config, samples=[{"x": each} for each in x[:6]])
        # The file in floats: what weights alone cost.
        restored = onnxruntime_session(qdq, optimized=False).run(None, {"x": x[7]})[0]
        found.append(sqnr_db(exact, restored))
        results_everywhere(ek.compile(qdq, batch=40, allow_host=False), {"x": x[7]})
    assert found[1] > found[0] + (0.3 if recipe == "w8a8" else 2.0)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_net_by_the_samples_of_its_calibrator_comes_out_the_same_twice(rounding):
    model, x = small_cnn(), samples(RNG, 8)
    calibrator = ek.Calibrator(model).collect({"x": x})
    config = ek.QuantConfig(recipe="w4a8", rounding=rounding)
    first, second = (ek.quantize(model, calibrator.compute_ranges(), config, samples=calibrator) for _ in range(2))
    assert first == second
    encodings = compute_encodings(model, calibrator.compute_ranges(), config, samples=calibrator)
    assert encodings["w3"].bits == 4
    exact = onnxruntime_session(model, optimized=False).run(None, {"x": x})[0]
    plain = ek.quantize(model, calibrator.compute_ranges(), ek.QuantConfig(recipe="w4a8", rounding="nearest"))
    db = [sqnr_db(exact, onnxruntime_session(qdq, optimized=False).run(None, {"x": x})[0]) for qdq in (plain, first)]
    assert db[1] > db[0]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_without_samples_is_refused(rounding):
    model = small_cnn()
    ranges = ranges_of(model, samples(RNG, 2))
    config = ek.QuantConfig(rounding=rounding)
    assert needs_samples(config)
    for function in (ek.quantize, compute_encodings):
        with pytest.raises(ArgumentValueError, match="samples must be given where rounding is"):
            function(model, ranges, config)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_ranges_are_chosen_by_a_rounding_that_needs_no_samples(rounding):
    model = small_cnn()
    calibrator = ek.Calibrator(model).collect({"x": samples(RNG, 4)})
    config = ek.QuantConfig(recipe="w8a8", rounding=rounding)
    assert ek.choose_ranges(calibrator, model, config) == ek.choose_ranges(
        calibrator, model, ek.QuantConfig(recipe="w8a8")
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("spoilt", [np.nan, np.inf, None])
def test_samples_that_say_nothing_are_refused(rounding, spoilt):
    model, x = small_cnn(), samples(RNG, 4)
    ranges = ranges_of(model, x)
    given = x[:0] if spoilt is None else x.copy()
    given[:1] = 0 if spoilt is None else spoilt
    with pytest.raises(CalibrationError, match="no number, or NaN or infinity"):
        ek.quantize(model, ranges, ek.QuantConfig(rounding=rounding), samples=[{"x": given}])
