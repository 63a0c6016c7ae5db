"""Factors of channels that move from activations to weights: SmoothQuant, and AWQ on a model."""

import warnings

import numpy as np
import onnx
import pytest

pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
import transformers
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning, QuantizationError
from edgekern.quantization.methods.channel_takers import places_of
from edgekern.quantization.methods.float_model import opened_float, written_float
from test_float_nets import transformer

from float_models import f32, sqnr_db
from graphs import feeds_of, onnxruntime_session

pytestmark = pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
RNG = np.random.default_rng(241)
NETS = {
    "vision": transformers.vision_transformer,
    "swin": transformers.swin_stage,
    "llama": transformers.llama_layer,
    "llama by Div": lambda: transformers.llama_layer("Div"),
    "bert": transformer,
}
SPELLINGS = {spelling.__name__: spelling for spelling in transformers.SPELLINGS}


def results(model, feeds):
    return onnxruntime_session(model).run(None, feeds)


def fed(model, count=4, first=0):
    """Samples; numbers of words are those that nets have."""
    given = [feeds_of(model, seed) for seed in range(first, first + count)]
    return [{name: array % 9 if array.dtype == np.int64 else array for name, array in feeds.items()} for feeds in given]


def same(model, other):
    """The signal to noise of the worst output, in dB."""
    [feeds] = fed(model, 1, 77)
    return min(sqnr_db(*pair) for pair in zip(results(model, feeds), results(other, feeds), strict=True))


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def behind_a_norm(spelling):
    """A way to write attention behind a LayerNormalization, so that its projections have somebody who scales."""
    net = transformers.Net()
    x = net.norm(net.input("x", (transformers.B, transformers.N, transformers.E)), transformers.E)
    return net.model(net.op("MatMul", spelling(net, x), net.weights(transformers.E, transformers.E)))


# ---- the same function ----


@pytest.mark.parametrize("method", ["smooth", "auto", "awq"])
@pytest.mark.parametrize("name", NETS)
def test_a_model_computes_what_it_did(name, method):
    model = NETS[name]()
    samples = fed(model)
    made = {
        "smooth": lambda: ek.smooth(model, samples),
        "auto": lambda: ek.smooth(model, samples, alpha="auto", insert=True),
        "awq": lambda: ek.awq(model, samples, insert=True),
    }[method]()
    onnx.checker.check_model(made, full_check=True)
    assert same(model, made) > 110
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]


@pytest.mark.parametrize("name", SPELLINGS)
def test_attention_takes_factors_in_all_its_spellings(name):
    model = behind_a_norm(SPELLINGS[name])
    opened = opened_float(model, function="smooth")
    places, left = places_of(opened.graph)
    for place in places:
        place.move(RNG.uniform(0.25, 4, place.channels))  # queries and keys of packed projections have none to take
    assert same(model, written_float(opened)) > 110
    read_by = {len(place.layers) for place in places}
    # Three projections, or one that is packed, and what comes behind attention but for an equation's.
    assert max(read_by) == (1 if any(word in name for word in ("packed", "chosen")) else 3)
    assert len(left) == (1 if name == "by_equations" else 0)


def test_values_that_somebody_else_reads_keep_their_channels():
    """Keys and values of a decoder go out to the caller, who gives the old ones."""
    places, left = places_of(opened_float(transformers.decoder(), function="smooth").graph)
    assert [len(place.layers) for place in places] == [3]  # the table of words takes factors
    assert "takes no factors" in str(list(left.values()))


def values_given_out():
    """Attention whose values the caller gets, too."""
    net = transformers.Net(2)
    x = net.norm(net.input("x", (transformers.B, transformers.N, transformers.E)), transformers.E)
    q, k, v = transformers.projected(net, x)
    mixed = transformers.mix(net, net.op("MatMul", q, k), v)
    return net.model(net.op("MatMul", mixed, net.weights(transformers.E, transformers.E)), v)


def test_values_that_the_caller_gets_keep_their_channels():
    model = values_given_out()
    places, left = places_of(opened_float(model, function="smooth").graph)
    assert [len(place.layers) for place in places] == [3]
    assert len(left) == 1
    assert same(model, ek.smooth(model, fed(model), alpha=0.9)) > 110


# ---- what it is for ----


def outlying(factor=60.0, opset=17):
    """Two layers behind norms, and a norm's gain that makes one channel large."""
    net = transformers.Net(5)
    x = net.input("x", (2, 6, 16))
    gain = np.ones(16)
    gain[3] = factor
    y = net.op("LayerNormalization", x, net.const(gain), net.const(net.rng.normal(0, 0.1, 16)))
    h = net.op("Relu", net.dense(y, 16, 32))
    return net.model(net.dense(h, 32, 8), opset=opset)


@pytest.mark.parametrize("alpha", [0.5, "auto"])
def test_a_channel_that_is_far_out_costs_others_less_when_it_is_smoothed(alpha):
    model = outlying()
    samples, feeds = fed(model, 8), feeds_of(model, 99)
    found = {}
    for name, given in (("plain", model), ("smooth", ek.smooth(model, samples, alpha=alpha))):
        ranges = ek.Calibrator(given).collect_many(samples).compute_ranges(method="max")
        qdq = ek.quantize(given, ranges, ek.QuantConfig(recipe="w8a8"))
        found[name] = sqnr_db(results(model, feeds)[0], ek.InferenceSession(ek.compile(qdq)).run(None, feeds)[0])
    assert found["smooth"] > found["plain"] + 3


def test_factors_are_those_of_the_paper():
    model = outlying()
    samples = fed(model)
    made = ek.smooth(model, samples, alpha=0.25)
    before, after = constants(model), constants(made)
    x = np.concatenate([results_of(model, "v0_0", feeds).reshape(-1, 16) for feeds in samples])
    [weights] = [name for name, array in before.items() if array.shape == (16, 32)]
    wanted = np.abs(x).max(axis=0) ** 0.25 / np.abs(before[weights]).max(axis=1) ** 0.75
    assert np.allclose(before["c0"] / after["c0"], wanted, rtol=1e-4)
    assert np.allclose(before["c1"] / after["c1"], wanted, rtol=1e-4)


def results_of(model, name, feeds):
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return onnxruntime_session(tapped, optimized=False).run([name], feeds)[0]


@pytest.mark.parametrize("scales", ["max", "mse"])
def test_awq_leaves_less_error_of_4_bit_weights(scales):
    model = outlying(20)
    samples, feeds = fed(model, 8), feeds_of(model, 99)
    config = ek.QuantConfig(recipe="w4a16-g32", group_scales=scales)
    found = [
        sqnr_db(results(model, feeds)[0], results(ek.quantize(given, None, config), feeds)[0])
        for given in (model, ek.awq(model, samples, config))
    ]
    assert found[1] > found[0] + 1


def test_weights_that_two_layers_share_change_for_one():
    net = transformers.Net(1)
    x = net.input("x", (2, 3, 16))
    shared = net.weights(16, 16)
    first = net.op("MatMul", net.norm(x, 16), shared)
    model = net.model(net.op("MatMul", net.op("Sigmoid", first), shared))
    assert same(model, ek.smooth(model, fed(model), alpha=0.9)) > 110


# ---- what is said ----


def test_layers_whose_activation_nobody_scales_are_named():
    model = transformers.vision_transformer()
    with pytest.warns(EdgekernWarning, match=r"smooth: 2 layers keep their activations: .*Mul .* takes no factors"):
        ek.smooth(model, fed(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ek.smooth(model, fed(model), insert=True)


def test_a_calibrator_lends_the_samples_that_it_kept():
    model = outlying()
    calibrator = ek.Calibrator(model).collect_many(fed(model))
    assert ek.smooth(model, calibrator) == ek.smooth(model, calibrator.kept_feeds)


def test_what_cannot_be_done_is_refused():
    net = transformers.Net()
    net_model = net.model(net.dense(net.input("x", (2, 16)), 16, 4))
    with pytest.raises(QuantizationError, match=r"comes from outside.*; insert=True"):
        ek.smooth(net_model, fed(net_model))
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))],
        [helper.make_empty_tensor_value_info("y")],
    )
    with pytest.raises(QuantizationError, match="awq: model has no MatMul or Gemm"):
        ek.awq(helper.make_model(relu, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), [{}])
    model = outlying()
    with pytest.raises(CalibrationError, match="samples are none"):
        ek.smooth(model, [])
    spoilt = [{name: np.full_like(array, np.nan) for name, array in feeds.items()} for feeds in fed(model)]
    for function in (ek.smooth, ek.awq):
        with pytest.raises(CalibrationError, match="NaN or infinity; leave such samples out"):
            function(model, spoilt)
    with pytest.raises(ArgumentTypeError, match="smooth: samples must be a Calibrator or an iterable of feeds"):
        ek.smooth(model, feeds_of(model))
    with pytest.raises(ArgumentValueError, match=r"smooth: alpha must be between 0 and 1, or 'auto', got 1.5"):
        ek.smooth(model, fed(model), alpha=1.5)
    with pytest.raises(ArgumentTypeError, match="smooth: alpha must be a number"):
        ek.smooth(model, fed(model), alpha="most")
    with pytest.raises(ArgumentValueError, match="awq: config must have a recipe of 4-bit weights"):
        ek.awq(model, fed(model), ek.QuantConfig())
    with pytest.raises(QuantizationError, match="smooth: model is quantized already"):
        ek.smooth(ek.quantize(model, None, ek.QuantConfig(recipe="w8a8-dynamic")), fed(model))


def test_channels_of_zeros_stay_what_they_are():
    model = outlying()
    weights = constants(model)
    for tensor in model.graph.initializer:
        if tensor.name == "c0":
            gain = weights["c0"].copy()
            gain[5] = 0
            tensor.CopyFrom(numpy_helper.from_array(f32(gain), "c0"))
        if tensor.name == "c1":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(16, np.float32), "c1"))
    made = ek.smooth(model, fed(model), alpha=1.0)
    assert same(model, made) > 110
    assert all(np.isfinite(array).all() for array in constants(made).values())
