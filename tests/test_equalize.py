"""Equalization: the same float function, with channels that one scale holds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import onnx

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, QuantizationError
from edgekern.quantization import Encoding, plan_of
from edgekern.quantization.weights import WeightLayout, quantize_tensor

from float_models import Array, build, f32, helper, ranges_of, run, samples, small_cnn, sqnr_db

node = helper.make_node


def uneven(rng: np.random.Generator, *shape: int) -> Array:
    """Weights whose channels, in and out, differ by powers of ten."""
    weights = rng.normal(size=shape)
    weights *= 10 ** rng.uniform(-2, 2, (shape[0], *[1] * (len(shape) - 1)))
    return f32(weights * 10 ** rng.uniform(-1, 1, (1, shape[1], *[1] * (len(shape) - 2))))


ACTIVATIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "": ([], {}),
    "Relu": ([], {}),
    "LeakyRelu": ([], {"alpha": 0.2}),
    "PRelu": (["slope"], {}),
    "Clip": (["zero", "six"], {}),
    "HardTanh": (["minus", "six"], {}),
    "Floor": (["minus", ""], {}),
    "Sigmoid": ([], {}),
}


@st.composite
def nets(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """Conv or depthwise triples, with activations, pools and sums between, down to a Gemm."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.integers(1, 6))
    weights: dict[str, Array] = {
        "zero": np.float32(0),
        "six": np.float32(draw(st.sampled_from([0.5, 6.0]))),
        "minus": np.float32(-1),
        "slope": f32(rng.normal(size=(channels, 1, 1))),
        "pads": np.int64([0, 0, 1, 0, 0, 0, 0, 1]),
    }
    nodes, last = [], "x"
    for at in range(draw(st.integers(1, 4))):
        depthwise = at and draw(st.booleans())
        side, groups = draw(st.sampled_from([1, 3])), channels if depthwise else 1
        weights[f"w{at}"] = uneven(rng, channels, 1 if depthwise else channels, side, side)
        weights[f"b{at}"] = f32(rng.normal(size=channels))
        bias = [f"b{at}"] if draw(st.booleans()) else []
        pads = [side // 2] * 4
        nodes.append(node("Conv", [last, f"w{at}", *bias], [f"c{at}"], group=groups, pads=pads))
        before, last = last, f"c{at}"
        kind = draw(st.sampled_from(sorted(ACTIVATIONS)))
        if kind:
            inputs, attributes = ACTIVATIONS[kind]
            op = "Clip" if kind in ("HardTanh", "Floor") else kind
            nodes.append(node(op, [last, *inputs], [f"a{at}"], **attributes))
            last = f"a{at}"
        extra = draw(st.sampled_from(["", "Add", "MaxPool", "AveragePool", "Pad"]))
        if extra == "Add" and before != "x":
            nodes.append(node("Add", [last, before], [f"s{at}"]))
            last = f"s{at}"
        elif "Pool" in extra:
            nodes.append(node(extra, [last], [f"p{at}"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]))
            last = f"p{at}"
        elif extra == "Pad" and before == "x":
            nodes.append(node("Pad", [last, "pads"], [f"p{at}"]))
            last = f"p{at}"
    outputs = ("y", last) if draw(st.booleans()) else ("y",)
    if draw(st.booleans()):
        nodes.append(node("GlobalAveragePool", [last], ["g"]))
        nodes.append(node("Flatten", ["g"], ["f"]))
        weights["w"] = uneven(rng, 3, channels)
        nodes.append(node("Gemm", ["f", "w"], ["y"], transB=1))
    else:
        weights["w"] = uneven(rng, 2, channels, 1, 1)
        nodes.append(node("Conv", [last, "w"], ["y"]))
    x = f32(rng.normal(size=(2, channels, 5, 4)) * 3)
    return build(nodes, weights, [2, channels, 5, 4], outputs), x


@given(nets(), st.booleans())
def test_the_function_stays_the_same(drawn: tuple[onnx.ModelProto, Array], look: bool) -> None:
    model, x = drawn
    equal = ek.equalize(model, [{"x": x / 2}] if look else None)
    onnx.checker.check_model(equal, full_check=True)
    for wanted, found in zip(run(model, x), run(equal, x), strict=True):
        assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(np.abs(wanted).max(), 1e-6))


def test_channels_of_two_layers_get_the_same_range(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 6, 3, 3, 3), "w1": uneven(rng, 4, 6, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["y"])]
    found = constants(ek.equalize(build(nodes, weights, [1, 3, 5, 5])))
    made, read = np.abs(found["w0"]).max(axis=(1, 2, 3)), np.abs(found["w1"]).max(axis=(0, 2, 3))
    assert_allclose(made, read, rtol=1e-2)
    before = np.abs(weights["w0"]).max(axis=(1, 2, 3)) * np.abs(weights["w1"]).max(axis=(0, 2, 3))
    assert_allclose(made * read, before, rtol=1e-4)


def test_triples_through_a_depthwise_layer_are_balanced_together(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 5, 2, 1, 1), "w1": uneven(rng, 5, 1, 3, 3), "w2": uneven(rng, 3, 5, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["c"], group=5)]
    found = constants(ek.equalize(build([*nodes, node("Conv", ["c", "w2"], ["y"])], weights, [1, 2, 6, 6])))
    made = np.abs(found["w0"]).max(axis=(1, 2, 3))
    for other in (np.abs(found["w1"]).max(axis=(1, 2, 3)), np.abs(found["w2"]).max(axis=(0, 2, 3))):
        assert_allclose(other, made, rtol=2e-2)


@pytest.mark.parametrize("reader", ["Softmax", "an output", "Sigmoid"])
def test_what_others_read_stays(reader: str, rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 6, 3, 1, 1), "w1": uneven(rng, 4, 6, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Conv", ["a", "w1"], ["y"])]
    outputs: tuple[str, ...] = ("y", "a")
    if reader != "an output":
        nodes.append(node(reader, ["a"], ["z"]))
        outputs = ("y", "z")
    found = constants(ek.equalize(build(nodes, weights, [1, 3, 5, 5], outputs)))
    assert_array_equal(found["w0"], weights["w0"])
    assert_array_equal(found["w1"], weights["w1"])


def test_sums_share_factors_with_all_that_is_added(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 6, 3, 1, 1), "w1": uneven(rng, 6, 6, 1, 1), "w2": uneven(rng, 2, 6, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Conv", ["a", "w1"], ["b"])]
    model = build([*nodes, node("Add", ["a", "b"], ["c"]), node("Conv", ["c", "w2"], ["y"])], weights, [1, 3, 4, 4])
    found = constants(ek.equalize(model))
    factors = [weights[name] / found[name] for name in ("w0", "w1", "w2")]
    once, both, read = (of.max(axis=(2, 3)) for of in factors)
    assert_allclose(once, once[:, :1] * np.ones((1, 3)), rtol=1e-4)
    assert_allclose(read, 1 / once[:, 0] * np.ones((2, 1)), rtol=1e-4)
    assert_allclose(both, once[:, :1] / once[:, 0], rtol=1e-4)


def test_a_clip_gets_a_limit_for_each_channel(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 6, 3, 1, 1), "w1": uneven(rng, 4, 6, 1, 1), "lo": np.float32(0), "hi": np.float32(6)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Clip", ["a", "lo", "hi"], ["b"]), node("Conv", ["b", "w1"], ["y"])]
    model = build(nodes, weights, [1, 3, 4, 4], ("y",))
    equal = ek.equalize(model)
    assert [n.op_type for n in equal.graph.node] == ["Conv", "Relu", "Min", "Conv"]
    assert [n.output[0] for n in equal.graph.node if n.op_type == "Min"] == ["b"]
    x = f32(rng.normal(size=(1, 3, 4, 4)) * 50)
    assert (run(build(nodes[:2], weights, [1, 3, 4, 4], ("b",)), x)[0] == 6).any()
    assert_allclose(run(equal, x)[0], run(model, x)[0], rtol=1e-4)


def test_samples_keep_tensors_from_larger_values_than_they_had(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 8, 3, 1, 1), "w1": uneven(rng, 4, 8, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["y"])]
    x = f32(rng.normal(size=(1, 3, 6, 6)))
    inner = build(nodes[:2], {"w0": weights["w0"]}, [1, 3, 6, 6], ("b",))
    found = constants(ek.equalize(build(nodes, weights, [1, 3, 6, 6]), [{"x": x}]))
    after = build(nodes[:2], {"w0": found["w0"]}, [1, 3, 6, 6], ("b",))
    assert run(after, x)[0].max() <= run(inner, x)[0].max() * 1.001
    assert np.abs(found["w0"] / weights["w0"] - 1).max() > 1


@pytest.mark.parametrize("limits", [[], ["zero", "six"]])
def test_one_scale_a_layer_loses_less_once_layers_are_equalized(limits: list[str], rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 16, 3, 3, 3), "w1": uneven(rng, 8, 16, 1, 1)}
    weights |= {"zero": np.float32(0), "six": np.float32(6)}
    unit = node("Clip" if limits else "Relu", ["a", *limits], ["b"])
    nodes = [node("Conv", ["x", "w0"], ["a"]), unit, node("Conv", ["b", "w1"], ["y"])]
    model, x = build(nodes, weights, ["n", 3, 8, 8]), f32(rng.normal(size=(16, 3, 8, 8)))
    by_layer = ek.QuantConfig(recipe="w8a8", granularity="tensor")
    found = {}
    for name, given_model in (("plain", model), ("equal", ek.equalize(model, [{"x": x}]))):
        qdq = ek.quantize(given_model, ranges_of(given_model, x), by_layer)
        found[name] = sqnr_db(run(model, x)[0], run(qdq, x)[0])
        program = ek.InferenceSession(ek.compile(qdq, batch=16, allow_host=False))
        assert sqnr_db(run(qdq, x)[0], program.run(None, {"x": x})[0]) > 40
    assert found["equal"] > found["plain"] + 6


def test_batch_normalization_is_folded_first() -> None:
    model, x = small_cnn(), samples(np.random.default_rng(0))
    equal = ek.equalize(model, ek.Calibrator(model, progress=False).collect({"x": x}))
    assert "BatchNormalization" not in {n.op_type for n in equal.graph.node}
    assert_allclose(run(equal, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-5)
    assert "gamma" in {tensor.name for tensor in model.graph.initializer}  # the model given is what it was


def test_an_old_clip_has_its_limits_as_attributes(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 6, 3, 1, 1), "w1": uneven(rng, 4, 6, 1, 1)}
    clip = node("Clip", ["a"], ["b"], min=-1.0, max=6.0)
    nodes = [node("Conv", ["x", "w0"], ["a"]), clip, node("Conv", ["b", "w1"], ["y"])]
    model, x = build(nodes, weights, [1, 3, 4, 4], opset=7), f32(rng.normal(size=(1, 3, 4, 4)))
    equal = ek.equalize(model)
    assert [n.op_type for n in equal.graph.node] == ["Conv", "Max", "Min", "Conv"]
    assert_allclose(run(equal, x)[0], run(model, x)[0], rtol=1e-4)


def test_what_is_no_float_model_or_no_samples_is_refused(rng: np.random.Generator) -> None:
    model, x = small_cnn(), samples(rng)
    with pytest.raises(QuantizationError, match="equalize: model is quantized already"):
        ek.equalize(ek.quantize(model, ranges_of(model, x)))
    with pytest.raises(CalibrationError, match="equalize: samples are none"):
        ek.equalize(model, [])
    with pytest.raises(ArgumentTypeError, match="equalize: samples must be a Calibrator or an iterable of feeds"):
        ek.equalize(model, x)  # type: ignore[arg-type]
    broken = {"w0": np.full((2, 3, 1, 1), np.nan, np.float32), "w1": np.ones((2, 2, 1, 1), np.float32)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Conv", ["a", "w1"], ["y"])]
    with pytest.raises(QuantizationError, match="equalize: Conv 'a': its weights hold NaN or Inf"):
        ek.equalize(build(nodes, broken, [1, 3, 4, 4]))


# ---- one scale a layer ----


@pytest.mark.parametrize("recipe", ["w8a8", "w4a8"])
def test_quantize_writes_one_scale_for_every_layer(recipe: Any, rng: np.random.Generator) -> None:
    model, x = small_cnn(21), samples(rng)
    qdq = ek.quantize(model, ranges_of(model, x), ek.QuantConfig(recipe=recipe, granularity="tensor"))
    scales = {tensor.name: tensor.dims for tensor in qdq.graph.initializer if tensor.name.endswith("quantized_scale")}
    assert len(scales) == 8  # of the weights and biases of four layers
    assert not any(scales.values())
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > (15 if recipe == "w8a8" else 3)


def test_granularity_is_one_of_two() -> None:
    with pytest.raises(ArgumentValueError, match="QuantConfig: granularity must be one of"):
        ek.QuantConfig(granularity="row")  # type: ignore[arg-type]


def test_auto_sees_what_one_scale_a_layer_would_lose(rng: np.random.Generator) -> None:
    weights = {"w0": uneven(rng, 16, 3, 3, 3), "w1": uneven(rng, 8, 16, 1, 1)}
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["y"])]
    model, x = build(nodes, weights, ["n", 3, 8, 8]), f32(rng.normal(size=(16, 3, 8, 8)))
    ranges = ranges_of(model, x)
    found = {}
    for granularity in ("channel", "tensor"):
        config = ek.QuantConfig(granularity=granularity)  # type: ignore[arg-type]
        found[granularity] = [choice.w8a8_db for choice in plan_of(ek.quantize(model, ranges, config)).choices]
    for by_channel, by_layer in zip(found["channel"], found["tensor"], strict=True):
        assert by_channel is not None
        assert by_layer is not None
        assert by_layer < by_channel


@pytest.mark.parametrize("bits", [8, 4])
def test_one_scale_holds_the_largest_weight(bits: int, rng: np.random.Generator) -> None:
    weights, highest = f32(rng.normal(size=(6, 4, 3, 3))), 2 ** (bits - 1) - 1
    bias = f32(rng.normal(size=6))
    result = quantize_tensor(
        weights, WeightLayout(0, 1), Encoding(0.02, signed=False), methods=(), bias=bias, bits=bits
    )
    assert result.encoding.scale.shape == result.bias_scale.shape == ()
    assert result.encoding.axis is None
    assert_allclose(result.encoding.scale, np.abs(weights).max() / highest, rtol=1e-6)
    assert np.abs(weights - result.values * result.encoding.scale).max() <= 0.501 * result.encoding.scale
    assert result.bias is not None
    assert_allclose(result.bias * result.bias_scale, bias, atol=float(result.bias_scale))


def test_the_scale_grows_for_all_where_one_channel_could_overflow() -> None:
    weights = np.full((2, 80_000), 1.0, np.float32)
    weights[1] = 1e-3
    result = quantize_tensor(weights, WeightLayout(0, 1), Encoding(0.02, signed=False), methods=())
    assert result.widened == (0, 1)
    assert 255 * np.abs(result.values.astype(np.int64)).sum(axis=1).max() <= 2**31 - 1


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_layer_of_zeros_keeps_its_bias(bias: float) -> None:
    given_bias = np.array([bias, -bias / 2], np.float32)
    inputs = Encoding(0.02, signed=False)
    result = quantize_tensor(np.zeros((2, 3), np.float32), WeightLayout(0, 1), inputs, methods=(), bias=given_bias)
    assert result.bias is not None
    assert_allclose(result.bias * result.bias_scale.astype(np.float64), given_bias, rtol=1e-6)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
