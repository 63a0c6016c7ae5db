"""The recipe "w8a8-dynamic": 8-bit weights, and rows of activations that get their scales as they come."""

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern.errors import QuantizationError
from test_float_nets import feeds_of, kinds, net, transformer

from float_models import f32, small_cnn
from graphs import onnxruntime_session, results_everywhere
from reference.linear import quantize_spans

DYNAMIC = ek.QuantConfig(recipe="w8a8-dynamic")
RNG = np.random.default_rng(8)


def noise(found, want):
    """Of the signal, in dB."""
    return 10 * np.log10(float((want.astype(np.float64) ** 2).sum() / ((found - want.astype(np.float64)) ** 2).sum()))


def gemm(*, trans_b=0, alpha=1.0, trans_a=0, bias=True):
    weights = {"w": f32(RNG.normal(size=(24, 40) if not trans_b else (40, 24)))}
    weights |= {"c": f32(RNG.normal(size=40))} if bias else {}
    names = ["x", "w", "c"] if bias else ["x", "w"]
    node = helper.make_node("Gemm", names, ["y"], transB=trans_b, alpha=alpha, transA=trans_a)
    return net([node], weights, {"x": (24, 7) if trans_a else (7, 24)}, ["y"])


@pytest.mark.parametrize("arguments", [{}, {"trans_b": 1}, {"alpha": 0.5}, {"bias": False}])
def test_a_gemm_multiplies_rows_that_span_what_they_hold(arguments):
    model = gemm(**arguments)
    program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False)
    assert kinds(program) == ["GEMM_DYNAMIC"]
    feeds = feeds_of(model)
    [found] = results_everywhere(program, feeds)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    w = stored["w"].T if arguments.get("trans_b") else stored["w"]
    scale = np.abs(w).max(axis=0) / np.float32(127)
    x = feeds["x"]
    q, steps, zero_points = quantize_spans(x)
    products = (q.astype(np.int64) - zero_points[:, None]) @ np.rint(w / scale).astype(np.int64)
    want = products * steps[:, None] * scale * arguments.get("alpha", 1) + stored.get("c", 0)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert noise(found, x @ w * arguments.get("alpha", 1) + stored.get("c", 0)) > 38


def test_a_transformer_layer_multiplies_on_8_bits_and_stays_close():
    model = transformer(tokens=16, width=64, heads=4)
    program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False)
    assert kinds(program).count("GEMM_DYNAMIC") == 6
    assert "GEMM_F32" not in kinds(program)
    feeds = feeds_of(model)
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert noise(found, want) > 30


def test_rows_of_very_different_size_keep_their_accuracy():
    """What one scale for the whole tensor would lose."""
    model = net(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": f32(RNG.normal(size=(32, 16)))}, {"x": (2, 32)}, ["y"]
    )
    x = f32(RNG.normal(size=(2, 32)) * [[1000.0], [0.001]])
    [want] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = results_everywhere(ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False), {"x": x})
    assert min(noise(found[row], want[row]) for row in range(2)) > 30


def test_onnxruntime_runs_the_file_with_float_rows():
    model = transformer(tokens=16, width=64, heads=4)
    qdq = ek.quantize(model, None, DYNAMIC)
    onnx.checker.check_model(qdq, full_check=True)
    feeds = feeds_of(model)
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [found] = onnxruntime_session(qdq, optimized=False).run(None, feeds)
    assert noise(found, want) > 35


def test_what_a_product_finishes_stays_with_it():
    weights = {"w": f32(RNG.normal(size=(24, 40))), "c": f32(RNG.normal(size=40))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    program = ek.compile(ek.quantize(net(nodes, weights, {"x": (7, 24)}, ["y"]), None, DYNAMIC), allow_host=False)
    assert kinds(program) == ["GEMM_DYNAMIC"]


def test_a_product_that_has_no_such_step_stays_float_and_is_named():
    model = small_cnn()
    with pytest.warns(ek.errors.EdgekernWarning, match=r"2 products stay float32.*Conv .*another recipe"):
        program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False, batch=2)
    assert kinds(program).count("GEMM_DYNAMIC") == 2
    assert "CONV_F32" in kinds(program)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("image", "kernel"),
    [
        ((2, 7, 5, 6), (1, 1)),
        ((2, 3, 8, 6), (4, 2)),
        ((1, 5, 9), (1,)),
        ((1, 2, 12), (3,)),
        ((1, 2, 4, 6, 2), (2, 3, 1)),
    ],
)
def test_a_conv_whose_windows_lie_side_by_side_multiplies_them_as_rows(image, kernel, bias):
    weights = {"w": f32(RNG.normal(size=(11, image[1], *kernel)))} | ({"c": f32(RNG.normal(size=11))} if bias else {})
    nodes = [
        helper.make_node("Conv", ["x", *weights], ["conv"], strides=kernel),
        helper.make_node("Relu", ["conv"], ["y"]),
    ]
    model = net(nodes, weights, {"x": image}, ["y"])
    program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False)
    assert kinds(program).count("GEMM_DYNAMIC") == 1
    assert not {"CONV_F32", "MAP"} & set(kinds(program))
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds_of(model))
    [found] = results_everywhere(program, feeds_of(model))
    assert (found.shape, noise(found, want) > 35) == (want.shape, True)


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [1, 1]}, {"strides": [2, 2], "pads": [0, 0, 2, 2]}, {"strides": [2, 2], "dilations": [2, 2]}],
)
def test_a_conv_that_reads_a_number_twice_or_not_at_all_stays_float(attributes):
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    model = net([node], {"w": f32(RNG.normal(size=(4, 3, 2, 2)))}, {"x": (1, 3, 6, 6)}, ["y"])
    odd = net(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])],
        {"w": f32(RNG.normal(size=(4, 3, 2, 2)))},
        {"x": (1, 3, 7, 6)},
        ["y"],
    )
    for one in (model, odd):
        with pytest.raises(QuantizationError, match="1 product stays float32"):
            ek.quantize(one, None, DYNAMIC)


def test_a_model_that_has_nothing_for_the_recipe_is_refused():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    batched = net(nodes, {"w": f32(RNG.normal(size=(3, 24, 5)))}, {"x": (3, 7, 24)}, ["y"])
    for model in (gemm(trans_a=1), batched):
        with pytest.raises(QuantizationError, match=r"no Gemm, MatMul or Conv by a constant matrix.*1 product stays"):
            ek.quantize(model, None, DYNAMIC)
    relu = net([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": (2, 3)}, ["y"])
    with pytest.raises(QuantizationError, match=r"no Gemm, MatMul or Conv by a constant .* no LSTM, .* is for$"):
        ek.quantize(relu, None, DYNAMIC)


def test_recipes_mix_in_one_model_and_only_the_static_part_needs_ranges():
    model, config = small_cnn(), ek.QuantConfig(overrides={"Gemm": "w8a8-dynamic"})
    with pytest.raises(QuantizationError, match=r"tensors become 8-bit.*choose the recipe 'w8a8-dynamic'"):
        ek.quantize(model, None, config)
    calibrator = ek.Calibrator(model)
    feeds = feeds_of(model)
    calibrator.collect(feeds)
    program = ek.compile(ek.quantize(model, calibrator.compute_ranges(), config), batch=2, allow_host=False)
    assert {"CONV", "GEMM"} <= set(kinds(program))  # what it reads is 8-bit already: nothing is left to round
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert noise(results_everywhere(program, feeds)[0], want) > 20


def test_weights_that_are_no_numbers_are_refused_by_name():
    model = gemm()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((24, 40), np.nan, np.float32), "w"))
    with pytest.raises(QuantizationError, match="Gemm 'y': 'w' holds NaN"):
        ek.quantize(model, None, DYNAMIC)
