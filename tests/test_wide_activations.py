"""16-bit activations: the recipe "w8a16", and files of other tools."""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import edgekern as ek
from edgekern.errors import EdgekernWarning, HostStepError
from edgekern.quantization import compute_encodings
from test_float_nets import kinds, net

from float_models import f32, ranges_of, samples, small_cnn, sqnr_db
from graphs import onnxruntime_session, results_everywhere

RNG = np.random.default_rng(16)
WIDE = ek.QuantConfig(recipe="w8a16")
CODES = {TensorProto.UINT16, TensorProto.INT16}


def small(opset=17):
    model = small_cnn(opset)
    x = samples(RNG, 8)
    return model, x, ranges_of(model, x, method="max")


def types_of(qdq):
    """How many QuantizeLinear of each domain and type of codes there are."""
    stored = {tensor.name: tensor.data_type for tensor in qdq.graph.initializer}
    return Counter((node.domain, stored[node.input[2]]) for node in qdq.graph.node if node.op_type == "QuantizeLinear")


def compiled(qdq):
    batch = 1 if qdq.graph.input[0].type.tensor_type.shape.dim[0].dim_value else 8
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdgekernWarning)
        return ek.compile(qdq, batch=batch, allow_host=False)


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize(("opset", "domain"), [(13, "com.microsoft"), (21, "")])
def test_a_network_runs_on_16_bits_as_onnxruntime_runs_its_file(activations, opset, domain):
    model, x, ranges = small(opset)
    qdq = ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a16", activations=activations))
    onnx.checker.check_model(qdq, full_check=True)
    wanted = TensorProto.UINT16 if activations == "u8" else TensorProto.INT16
    assert set(types_of(qdq)) == {(domain, wanted)}
    program = compiled(qdq)
    assert {"CONV_WIDE", "GEMM_WIDE"} <= set(kinds(program))
    assert "100.0% in 16 bits" in program.summary()
    feeds = {model.graph.input[0].name: x}
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [peer] = onnxruntime_session(qdq, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert sqnr_db(peer, found) > 70
    assert sqnr_db(want, found) > 35


def test_16_bits_are_nearer_to_float_than_8():
    model, x, ranges = small()
    feeds = {model.graph.input[0].name: x}
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    narrow, wide = (
        sqnr_db(want, results_everywhere(compiled(ek.quantize(model, ranges, config)), feeds)[0])
        for config in (ek.QuantConfig(), WIDE)
    )
    assert wide > narrow + 2


def test_one_layer_gets_16_bits_and_the_others_keep_8():
    model, x, ranges = small()
    name = next(node.name or node.output[0] for node in model.graph.node if node.op_type == "Gemm")
    qdq = ek.quantize(model, ranges, ek.QuantConfig(overrides={name: "w8a16"}))
    assert {kind for _, kind in types_of(qdq)} == {TensorProto.UINT8, TensorProto.UINT16}
    program = compiled(qdq)
    assert {"CONV", "GEMM_WIDE"} <= set(kinds(program))
    feeds = {model.graph.input[0].name: x}
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [peer] = onnxruntime_session(qdq, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert sqnr_db(want, found) > 20
    assert sqnr_db(peer, found) > 30


def test_encodings_of_16_bits_come_back_from_plain_dicts():
    model, _, ranges = small()
    encodings = compute_encodings(model, ranges, WIDE)
    assert {encoding.bits for name, encoding in encodings.items() if name in ranges} == {16}
    assert ek.quantization.Encodings.from_dict(encodings.to_dict()) == encodings


def test_ranges_that_were_cut_for_8_bits_are_warned_about():
    model = small_cnn()
    x = samples(RNG, 8)
    with pytest.warns(EdgekernWarning, match=r"of 16 bits .* have ranges by 'mse'.*method='max'"):
        ek.quantize(model, ranges_of(model, x, method="mse"), WIDE)


def test_a_softmax_reaches_one():
    """Its range ends where 16 bits do, not at 255/256."""
    weights = {name: f32(RNG.normal(size=(8, 8))) for name in ("v", "w")}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"], axis=-1),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    model = net(nodes, weights, {"x": (5, 8)}, ["y"])
    x = f32(RNG.normal(0, 30, (5, 8)))
    calibrator = ek.Calibrator(model).collect({"x": x})
    qdq = ek.quantize(model, calibrator.compute_ranges(method="max"), WIDE)
    [want] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    assert sqnr_db(want, results_everywhere(compiled(qdq), {"x": x})[0]) > 35


class Feeds(CalibrationDataReader):
    def __init__(self, name, x):
        self._feeds = iter([{name: x}])

    def get_next(self):
        return next(self._feeds, None)


@pytest.mark.parametrize("activations", [QuantType.QUInt16, QuantType.QInt16])
@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"weight_type": QuantType.QUInt8}])
def test_a_file_of_onnxruntime_runs_without_the_host_as_onnxruntime_runs_it(tmp_path, activations, options):
    model = small_cnn()
    x, name = samples(RNG, 8), model.graph.input[0].name
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "wide.onnx",
        Feeds(name, x),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        **{"weight_type": QuantType.QInt8, **options},
    )
    theirs = onnx.load(tmp_path / "wide.onnx")
    program = compiled(theirs)
    [peer] = onnxruntime_session(theirs, optimized=False).run(None, {name: x})
    [found] = results_everywhere(program, {name: x})
    assert sqnr_db(peer, found) > 60
    if options.get("weight_type") is None:
        assert {"CONV_WIDE", "GEMM_WIDE"} <= set(kinds(program))


def pair(dtype=np.uint16, zero=(30000, 30000), scale=(0.001, 0.001), **borders):
    """x through codes and back, by parameters that may differ."""
    weights = {f"z{at}": np.array(zero[at], dtype) for at in (0, 1)}
    weights |= {f"s{at}": np.array(scale[at], np.float32) for at in (0, 1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s0", "z0"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s1", "z1"], ["y"]),
    ]
    model = net(nodes, weights, {"x": (3, 7)}, ["y"])
    model.opset_import[0].version = 21
    model.ir_version = 10
    return model


@pytest.mark.parametrize(
    "parameters", [{}, {"zero": (30000, 20000)}, {"scale": (0.001, 0.5)}, {"dtype": np.int16, "zero": (-5, -5)}]
)
def test_a_pair_between_floats_rounds_as_onnx_says(parameters):
    model = pair(**parameters)
    x = f32(RNG.normal(0, 30, (3, 7)))
    x[0, :4] = np.inf, -np.inf, 0.0005, 0.0015
    [want] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = results_everywhere(compiled(model), {"x": x})
    np.testing.assert_array_equal(found, want)


def test_a_nan_becomes_the_least_code():
    [found] = results_everywhere(compiled(pair()), {"x": np.full((3, 7), np.nan, np.float32)})
    np.testing.assert_array_equal(found, np.float32(-30000) * np.float32(0.001))


def test_codes_at_a_border_are_left_to_the_host_by_name():
    model = pair()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("q", TensorProto.UINT16, [3, 7]))
    del model.graph.node[1:]
    with pytest.raises(HostStepError, match="QuantizeLinear 'q': its 16-bit codes are read as they are"):
        ek.compile(model, allow_host=False)
    model = pair()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("q", TensorProto.UINT16, [3, 7]))
    del model.graph.node[:1]
    with pytest.raises(HostStepError, match="DequantizeLinear 'y': its 16-bit codes come from no QuantizeLinear"):
        ek.compile(model, allow_host=False)


def test_a_sum_too_deep_for_its_bytes_stays_float():
    k = (2**31 - 1) // (255 * 128) + 1
    model = net(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": f32(RNG.normal(size=(k, 2)))}, {"x": (1, k)}, ["y"]
    )
    x = f32(RNG.normal(size=(1, k)))
    ranges = ek.Calibrator(model).collect({"x": x}).compute_ranges(method="max")
    assert "GEMM_F32" in kinds(compiled(ek.quantize(model, ranges, WIDE)))


def test_shapes_are_known_behind_operators_of_onnxruntime():
    """A view of sizes that are computed from the shape of what they quantized: no step is left of that."""
    weights = {"v": f32(RNG.normal(size=(6, 6))), "w": f32(RNG.normal(size=(12, 4)))}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["rows"]),
        helper.make_node("Div", ["rows", "two"], ["pairs"]),
        helper.make_node("Concat", ["pairs", "twelve"], ["sides"], axis=0),
        helper.make_node("Reshape", ["r", "sides"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    weights |= {"zero": np.array([0]), "two": np.array([2]), "twelve": np.array([12])}
    model = net(nodes, weights, {"x": (8, 6)}, ["y"])
    model.opset_import[0].version = 17
    x = f32(RNG.normal(size=(8, 6)))
    ranges = ek.Calibrator(model).collect({"x": x}).compute_ranges(method="max")
    qdq = ek.quantize(model, ranges, WIDE)
    assert {domain for domain, _ in types_of(qdq)} == {"com.microsoft"}
    assert kinds(compiled(qdq)).count("GEMM_WIDE") == 2


def test_nodes_say_where_they_run():
    model, _, ranges = small()
    program = compiled(ek.quantize(model, ranges, WIDE))
    places = {node.operator: node.runs for node in program.nodes}
    assert places["Conv"] == places["Gemm"] == "16 bits"
    assert "on 16 bits" in program.explain()
