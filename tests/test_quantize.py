"""Quantization: a float ONNX model and ranges become a QDQ model that onnxruntime runs on its integer kernels."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from edgekern.calibration import Calibrator, Ranges, TensorRange, model_hash, observed_tensors  # noqa: E402
from edgekern.compiler import compile as compile_program  # noqa: E402
from edgekern.errors import EdgekernWarning  # noqa: E402
from edgekern.quantization import QuantConfig, quantize  # noqa: E402
from edgekern.runtime import InferenceSession  # noqa: E402

from float_models import (  # noqa: E402
    STATIC,
    View,
    build,
    f32,
    fused_operators,
    helper,
    ranges_of,
    run,
    samples,
    small_cnn,
    sqnr_db,
)

# ---- the model that comes out ----


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize("rounding", ["filter_sum", "nearest"])
def test_qdq_model_is_close_to_the_float_model(activations: Any, rounding: Any, rng: np.random.Generator) -> None:
    model, x = small_cnn(), samples(rng)
    qdq = quantize(model, ranges_of(model, x), QuantConfig(activations=activations, rounding=rounding))
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > (30 if activations == "u8" else 26)


def test_onnxruntime_fuses_everything_into_integer_operators(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_cnn()
    fused = fused_operators(quantize(model, ranges_of(model, samples(rng))), tmp_path)
    expected = {"QLinearConv": 3, "QLinearAdd": 1, "QLinearConcat": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert {op: fused[op] for op in expected} == expected
    assert fused["QuantizeLinear"] == 1
    assert not set(fused) & {"Conv", "Gemm", "Add", "Relu", "Clip", "BatchNormalization", "DequantizeLinear"}


def test_nothing_is_logged_on_the_way_to_a_program(caplog: pytest.LogCaptureFixture, rng: np.random.Generator) -> None:
    """onnx_ir told of every 8-bit constant that it would not serialize its type, which then was not in the file."""
    weights = {"w": f32(rng.normal(0, 0.2, (8, 3, 3, 3))), "shift": f32(rng.normal(size=(1, 8, 10, 10)))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", "shift"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    model, x = build(nodes, weights, ["n", 3, 12, 12]), samples(rng)
    qdq = quantize(model, ranges_of(model, x))
    compile_program(qdq, batch=len(x))
    assert not caplog.records
    typed = {value.name: value.type.tensor_type.elem_type for value in qdq.graph.value_info}
    dequantized = [node.output[0] for node in qdq.graph.node if node.op_type == "DequantizeLinear"]
    outputs = {value.name for value in qdq.graph.output}
    assert {name for name in dequantized if typed.get(name) != onnx.TensorProto.FLOAT} <= outputs


def test_every_operand_of_a_weighted_operator_is_an_integer(rng: np.random.Generator) -> None:
    model = small_cnn()
    view = View(quantize(model, ranges_of(model, samples(rng))))
    assert not view.of("BatchNormalization")
    for node in view.of("Conv") + view.of("Gemm"):
        _, scale, zero, _ = view.integers(node.input[0])
        assert scale.shape == ()
        assert zero is not None
        assert zero.dtype == np.uint8
        weights, scale, zero, axis = view.integers(node.input[1])
        assert weights is not None
        assert weights.dtype == np.int8
        assert axis == 0
        assert scale.shape == (weights.shape[0],)
        assert zero is not None
        assert not zero.any()
        bias, bias_scale, _, axis = view.integers(node.input[2])
        assert bias is not None
        assert bias.dtype == np.int32
        assert axis == 0
        assert_allclose(bias_scale, scale * view.integers(node.input[0])[1], rtol=1e-6)


def test_activations_fold_moves_share_and_the_last_result_stays_float(rng: np.random.Generator) -> None:
    model = small_cnn()
    view = View(quantize(model, ranges_of(model, samples(rng), method="max")))
    quantized = {node.input[0] for node in view.of("QuantizeLinear")}
    # d0 feeds the Concat and a Conv, so it keeps a scale of its own; s0 takes the Concat's.
    assert quantized == {"x", "r0", "p0", "d0", "c2", "s0", "cat", "g0", "f0"}
    assert view.parameters("p0") == view.parameters("r0")
    assert view.parameters("f0") == view.parameters("g0")
    assert view.parameters("s0") == view.parameters("cat")
    assert view.parameters("d0") != view.parameters("cat")
    assert view.parameters("r0")[1] == 0
    assert view.producer["y"].op_type == "Gemm"


def test_names_inputs_and_outputs_stay(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    model = build(nodes, {}, [2, 3], ("y", "z"))
    x = f32(rng.normal(size=(2, 3)))
    qdq = quantize(model, ranges_of(model, x))
    assert [value.name for value in qdq.graph.output] == ["y", "z"]
    assert [value.name for value in qdq.graph.input] == ["x"]
    for expected, found in zip(run(model, x), run(qdq, x), strict=True):
        assert_allclose(found, expected, atol=np.abs(expected).max() / 64)


def test_given_model_is_not_changed(rng: np.random.Generator) -> None:
    model = small_cnn()
    before = model.SerializeToString()
    ranges = ranges_of(model, samples(rng))
    assert "w0" not in {t.name for t in quantize(model, ranges).graph.initializer}
    assert quantize(model, ranges).SerializeToString() == quantize(before, ranges).SerializeToString()
    assert model.SerializeToString() == before


def test_model_says_how_it_was_quantized(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_cnn()
    onnx.save(model, tmp_path / "model.onnx")
    qdq = quantize(tmp_path / "model.onnx", ranges_of(model, samples(rng), method="percentile"))
    [entry] = [p.value for p in qdq.metadata_props if p.key == "edgekern.quantization"]
    found = json.loads(entry)
    defaults = {"activations": "u8", "rounding": "filter_sum", "group_scales": "max", "bias_correction": True}
    defaults |= {
        "granularity": "channel",
        "recipe": "auto",
        "overrides": {},
        "keep_float": [],
        "first_layer": None,
        "last_layer": None,
        "inputs": "float32",
        "outputs": "float32",
    }
    assert found["config"] == defaults
    assert found["ranges"]["method"] == "percentile"
    assert found["widened"] == {}


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 21])
def test_opsets_below_13_are_upgraded(opset: int, rng: np.random.Generator) -> None:
    model, x = small_cnn(opset), samples(rng)
    qdq = quantize(model, ranges_of(model, x))
    assert qdq.opset_import[0].version >= 13
    assert len(View(qdq).of("QuantizeLinear")) == 9
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 30


def test_float_islands_stay_float(rng: np.random.Generator) -> None:
    weights = {"w": f32(rng.normal(size=(6, 4))), "v": f32(rng.normal(size=(6, 6)))}
    nodes = [
        helper.make_node("MatMul", ["f", "v"], ["a"]),
        helper.make_node("LogSoftmax", ["a"], ["p"]),
        helper.make_node("Mul", ["p", "p"], ["q"]),
        helper.make_node("Add", ["q", "p"], ["y"]),
    ]
    nodes.insert(0, helper.make_node("Gemm", ["x", "w"], ["f"], transB=1))
    model, x = build(nodes, weights, ["n", 4]), f32(rng.normal(size=(32, 4)))
    view = View(quantize(model, ranges_of(model, x), STATIC))
    assert {node.input[0] for node in view.of("QuantizeLinear")} == {"x", "f"}


def test_batch_normalization_of_an_image_becomes_a_depthwise_conv(rng: np.random.Generator) -> None:
    weights = {name: f32(rng.uniform(0.5, 2, 3)) for name in ("gamma", "beta", "mean", "var")}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *weights], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    model, x = build(nodes, weights, ["n", 3, 6, 6]), samples(rng, shape=(3, 6, 6))
    qdq = quantize(model, ranges_of(model, x))
    [conv] = View(qdq).of("Conv")
    assert next(a.i for a in conv.attribute if a.name == "group") == 3
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 35


def test_a_conv_with_computed_weights_stays_float_and_says_so(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["k"]),
        helper.make_node("Conv", ["k", "x"], ["y"]),
    ]
    model, x = build(nodes, {"v": f32(rng.normal(size=(3, 3, 1, 1)))}, [1, 3, 4, 4]), samples(rng, 1, (3, 4, 4))
    with pytest.warns(EdgekernWarning, match="quantize: Conv 'y' stays float32"):
        qdq = quantize(model, ranges_of(model, x))
    assert len(View(qdq).of("QuantizeLinear")) == 1


def test_names_of_the_model_may_look_like_ours(rng: np.random.Generator) -> None:
    weights = {"x_scale": f32(rng.normal(size=(3, 3, 1, 1)))}
    nodes = [
        helper.make_node("Conv", ["x", "x_scale"], ["x_quantized"]),
        helper.make_node("Relu", ["x_quantized"], ["x_dequantized"]),
        helper.make_node("Conv", ["x_dequantized", "x_scale"], ["y"]),
    ]
    model, x = build(nodes, weights, ["n", 3, 4, 4]), samples(rng, shape=(3, 4, 4))
    qdq = quantize(model, ranges_of(model, x))
    View(qdq)
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 30


@pytest.mark.parametrize("declared", [[3, 6], [4, 6, 1], [4, 7]])
def test_a_false_shape_of_an_output_is_not_written_on(
    declared: list[int], rng: np.random.Generator, capfd: Any
) -> None:
    """onnx_ir logged a traceback, and went on without shapes: onnxruntime runs such a model."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes.append(helper.make_node("MatMul", ["r", "w"], ["y"]))
    model, x = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [4, 6], ("r", "y")), f32(rng.normal(size=(4, 6)))
    expected = run(model, x)[1]
    for output, shape in zip(model.graph.output, ([4, 6], declared), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))
    qdq = quantize(model, ranges_of(model, x))
    assert [[side.dim_value for side in o.type.tensor_type.shape.dim] for o in qdq.graph.output] == [[4, 6], [4, 6]]
    assert sqnr_db(expected, run(qdq, x)[1]) > 30
    assert capfd.readouterr().err == ""


def test_matmul_takes_int8_on_both_sides(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = {"w": f32(rng.normal(size=(4, 6))), "b": f32(rng.normal(size=6))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["g"]),
        helper.make_node("Transpose", ["g"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["g", "t"], ["y"]),
    ]
    model, x = build(nodes, weights, [32, 4]), f32(rng.normal(size=(32, 4)))
    qdq = quantize(model, ranges_of(model, x), STATIC)
    view = View(qdq)
    [gemm] = view.of("Gemm")
    assert view.integers(gemm.input[1])[3] == 1  # weights are (K, N): channels on axis 1
    assert view.integers(gemm.input[2])[0] is not None
    for operand in view.of("MatMul")[0].input:
        view.integers(operand)
    assert view.parameters("t") == view.parameters("g")
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 30


def test_gemm_factors_are_folded(rng: np.random.Generator) -> None:
    weights = {"w": f32(rng.normal(size=(4, 6))), "b": np.float32(0.7)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=3.0)]
    model, x = build(nodes, weights, ["n", 4]), f32(rng.normal(size=(32, 4)))
    qdq = quantize(model, ranges_of(model, x))
    [gemm] = View(qdq).of("Gemm")
    assert not {a.name for a in gemm.attribute} & {"alpha", "beta"}
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 35


def test_constant_operand_of_add_becomes_8_bit(rng: np.random.Generator) -> None:
    weights = {"w": f32(rng.normal(size=(6, 3, 1, 1))), "c": f32(rng.normal(size=(1, 6, 5, 5)))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["k"]),
        helper.make_node("Add", ["k", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    model, x = build(nodes, weights, ["n", 3, 5, 5]), samples(rng, shape=(3, 5, 5))
    qdq = quantize(model, ranges_of(model, x))
    constant, *_ = View(qdq).integers(View(qdq).of("Add")[0].input[1])
    assert constant is not None
    assert constant.dtype == np.uint8
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 30


def test_bounds_of_an_activation_cap_its_range(rng: np.random.Generator) -> None:
    model = small_cnn()
    wide = {name: TensorRange(-50.0, 50.0) for name in observed_tensors(model)}
    view = View(quantize(model, Ranges(wide, model_hash(model), "max")))
    assert view.parameters("d0") == (float(np.float32(6 / 255)), 0)
    assert view.parameters("r0") == (float(np.float32(50 / 255)), 0)
    assert view.parameters("c2")[1] == 128


def test_all_zero_activations_and_weights_have_scale_one() -> None:
    weights = {
        "w": np.zeros((2, 3, 1, 1), np.float32),
        "b": np.zeros(2, np.float32),
        "v": np.ones((2, 2, 1, 1), np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["k"]), helper.make_node("Conv", ["k", "v"], ["y"])]
    model, x = build(nodes, weights, ["n", 3, 4, 4]), np.zeros((2, 3, 4, 4), np.float32)
    zeros = {name: TensorRange(0.0, 0.0) for name in observed_tensors(model)}
    qdq = quantize(model, Ranges(zeros, model_hash(model), "max"))
    view = View(qdq)
    assert view.parameters("x") == (1.0, 0)
    assert view.parameters("k") == (1.0, 0)
    assert_array_equal(view.integers(view.of("Conv")[0].input[1])[1], 1)
    assert_array_equal(run(qdq, x)[0], 0)


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e4])
def test_a_channel_of_zeros_keeps_its_bias(op: str, largest: float, rng: np.random.Generator) -> None:
    """Its scale is nobody's else, and the bias has steps of it times that of the input."""
    w, b = np.zeros((3, 3), np.float32), np.array([0.3, 2.7, 0.0], np.float32)
    w[2] = rng.standard_normal(3) / largest
    if op == "Conv":
        weights, nodes = {"w": w[..., None, None], "b": b}, [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    elif op == "Gemm":
        weights, nodes = {"w": w, "b": b}, [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    else:
        weights = {"w": w.T, "b": b}
        nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    shape = {"Conv": [2, 3, 1, 1], "Gemm": [2, 3], "MatMul": [1, 2, 3]}[op]
    model = build(nodes, weights, shape)
    ranges = Ranges({n: TensorRange(-largest, largest) for n in observed_tensors(model)}, model_hash(model), "max")
    qdq = quantize(model, ranges, QuantConfig(recipe="w8a8", bias_correction=False))
    x = (rng.standard_normal(shape) * largest / 4).astype(np.float32)
    [want], [found] = run(model, x), InferenceSession(compile_program(qdq)).run(None, {"x": x})
    assert_allclose(found.reshape(2, 3)[:, :2], want.reshape(2, 3)[:, :2], rtol=1e-6)


def test_widened_channels_are_reported() -> None:
    weights = {"w": np.full((2, 3, 1, 1), 0.5, np.float32), "b": np.ones(2, np.float32)}
    weights["w"][1] = 1e-14
    model = build([helper.make_node("Conv", ["x", "w", "b"], ["y"])], weights, ["n", 3, 4, 4])
    ranges = Ranges({name: TensorRange(0.0, 1.0) for name in observed_tensors(model)}, model_hash(model), "max")
    with pytest.warns(EdgekernWarning, match=r"1 channels got a wider weight scale.*'y' \(1\)"):
        qdq = quantize(model, ranges)
    assert json.loads(qdq.metadata_props[0].value)["widened"] == {"y": [1]}
    x = np.ones((1, 3, 4, 4), np.float32)
    assert_allclose(run(qdq, x)[0], run(model, x)[0], rtol=0.01)


# ---- real models ----

MODELS = {
    "cnn/mobilenetv2_1.0_224.onnx": (52, 1),
    "cnn/squeezenet1.1.onnx": (26, 0),
    "cnn/resnet20_cifar10.onnx": (19, 1),
    "cnn/resnet8_cifar10.onnx": (9, 1),
    "cnn/vww_mobilenetv1_0.25_96.onnx": (27, 1),
    "audio/kws_ds_cnn.onnx": (9, 1),
    "detect/ultraface_rfb_320.onnx": (52, 0),
}


@pytest.mark.parametrize("file", MODELS)
def test_real_model_is_quantized_whole(file: str, test_data: Path, rng: np.random.Generator) -> None:
    calibrator = Calibrator(test_data / file, progress=False)
    shape = [size if isinstance(size, int) else 1 for size in calibrator._inputs[0].shape]
    x = f32(rng.uniform(0, 1, shape))
    [name] = calibrator.input_names
    ranges = calibrator.collect({name: x}).compute_ranges(method="max")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # MobileNetV2 has dead channels
        view = View(qdq := quantize(test_data / file, ranges))
    weighted = view.of("Conv"), view.of("Gemm")
    assert tuple(map(len, weighted)) == MODELS[file]
    assert not view.of("BatchNormalization")
    for node in weighted[0] + weighted[1]:
        for operand in node.input:
            view.integers(operand)
    assert all(np.isfinite(output).all() for output in run(qdq, x))


def test_keyword_model_keeps_its_answers(test_data: Path) -> None:
    with np.load(test_data / "audio" / "kws01_500.npz") as file:
        x = f32((file["mfcc_int8"].astype(np.float32) - file["zero_point"]) * file["scale"])[:, None]
    model = onnx.load(test_data / "audio" / "kws_ds_cnn.onnx")
    calibrator = Calibrator(model, progress=False).collect({"mfcc": x[::4].copy()})
    [expected], [found] = run(model, x[1::4]), run(quantize(model, calibrator.compute_ranges()), x[1::4])
    assert sqnr_db(expected, found) > 30
    assert np.mean(expected.argmax(1) == found.argmax(1)) > 0.97


def test_cifar_model_keeps_its_answers(test_data: Path) -> None:
    with np.load(test_data / "cifar10" / "cifar10_train_10000.npz") as file:
        x = np.ascontiguousarray(f32(file["x"][:256].transpose(0, 3, 1, 2)))
    model = onnx.load(test_data / "cnn" / "resnet8_cifar10.onnx")
    feeds = [{"image": x[:128]}]
    ranges = Calibrator(model, progress=False).collect_many(feeds).compute_ranges()
    [expected], [found] = run(model, x[128:]), run(quantize(model, ranges), x[128:])
    assert sqnr_db(expected, found) > 33
