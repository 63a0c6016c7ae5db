"""LSTM, GRU and RNN by the recipe "w8a8-dynamic", and onnxruntime's DynamicQuantizeLSTM."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

import edgekern as ek
from edgekern.errors import CompileError, EdgekernWarning, HostStepError, QuantizationError
from edgekern.quantization import compute_encodings
from test_dynamic_rows import DYNAMIC, noise
from test_float_nets import feeds_of, kinds, net

from float_models import f32
from graphs import onnxruntime_session, results_everywhere

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(cell="LSTM", direction="forward", *, steps=9, batch=2, inputs=14, hidden=20, peepholes=False, **attributes):
    rng = np.random.default_rng(11)
    directions, rows = 2 if direction == "bidirectional" else 1, GATES[cell] * hidden

    def some(*shape):
        return f32(rng.normal(0, 0.3, shape))

    weights = {
        "w": some(directions, rows, inputs),
        "r": some(directions, rows, hidden),
        "b": some(directions, 2 * rows),
    }
    names = ["x", "w", "r", "b"]
    if peepholes:
        weights["p"] = some(directions, 3 * hidden)
        names += ["", "", "", "p"]
    node = helper.make_node(cell, names, ["y"], cell, hidden_size=hidden, direction=direction, **attributes)
    return net([node], weights, {"x": (steps, batch, inputs)}, ["y"])


def quantized_by_onnxruntime(model, folder, **options):
    onnx.save(model, folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", **options)
    return onnx.load(folder / "dynamic.onnx")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_a_layer_multiplies_on_8_bits_and_stays_close(cell, direction):
    model = layer(cell, direction)
    qdq = ek.quantize(model, None, DYNAMIC)
    onnx.checker.check_model(qdq, full_check=True)
    program = ek.compile(qdq, allow_host=False)
    assert kinds(program).count("RECURRENT_DYNAMIC") == 1
    feeds = feeds_of(model)
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [in_floats] = onnxruntime_session(qdq, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert noise(in_floats, want) > 35
    assert noise(found, want) > 30
    assert noise(found, in_floats) > 30


def test_a_gru_that_resets_behind_the_product_is_one_step_too():
    model = layer("GRU", "bidirectional", linear_before_reset=1)
    feeds = feeds_of(model)
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [found] = results_everywhere(ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False), feeds)
    assert noise(found, want) > 30


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_every_row_of_every_gate_has_its_own_scale(direction):
    model = layer("LSTM", direction)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in ("w", "r"):
        encoding = compute_encodings(model, None, DYNAMIC)[name]
        rows = np.abs(stored[name]).max(axis=-1).reshape(-1)
        np.testing.assert_allclose(encoding.scale.reshape(-1), rows / 127, rtol=1e-6)
        assert np.abs(encoding.quantize(stored[name]).astype(int)).max() == 127


def test_one_layer_of_a_model_gets_the_recipe_by_its_type():
    model = layer("LSTM")
    node = helper.make_node("Relu", ["y"], ["z"])
    model.graph.node.append(node)
    model.graph.output[0].name = "z"
    qdq = ek.quantize(model, None, ek.QuantConfig(recipe="float32", overrides={"LSTM": "w8a8-dynamic"}))
    assert "RECURRENT_DYNAMIC" in kinds(ek.compile(qdq, allow_host=False))


def test_peepholes_are_refused_by_name():
    with pytest.raises(QuantizationError, match="without peepholes: LSTM 'LSTM'"):
        ek.quantize(layer(peepholes=True), None, DYNAMIC)


def test_weights_that_are_no_numbers_are_refused_by_name():
    model = layer()
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full((1, 80, 20), np.inf, np.float32), "r"))
    with pytest.raises(QuantizationError, match="LSTM 'y': 'r' holds NaN or Inf"):
        ek.quantize(model, None, DYNAMIC)


def meant(model, theirs):
    """The float model with the weights that a file of onnxruntime has."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in theirs.graph.initializer}
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    for tensor in exact.graph.initializer:
        if tensor.name in ("w", "r"):
            codes, scale, zero = (stored[f"{tensor.name}_{part}"] for part in ("quantized", "scale", "zero_point"))
            scale, zero = (np.reshape(values, (len(codes), 1, -1)) for values in (scale, zero))
            real = (codes.astype(np.float32) - zero) * scale
            tensor.CopyFrom(numpy_helper.from_array(f32(real.transpose(0, 2, 1)), tensor.name))
    return exact


def assert_as_near_as_onnxruntime(model, theirs):
    """To the float model of the same weights, which rounded activations are all that is away from."""
    feeds, program = feeds_of(model), ek.compile(theirs, allow_host=False)
    assert kinds(program).count("RECURRENT_DYNAMIC") == 1
    [want] = onnxruntime_session(meant(model, theirs), optimized=False).run(None, feeds)
    [peer] = onnxruntime_session(theirs, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert noise(found, want) >= max(noise(peer, want), 30)


@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"reduce_range": True}])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_file_of_onnxruntime_is_at_least_as_near_to_float_as_onnxruntime_runs_it(tmp_path, direction, options):
    model = layer("LSTM", direction)
    theirs = quantized_by_onnxruntime(model, tmp_path, **options)
    assert [node.op_type for node in theirs.graph.node] == ["DynamicQuantizeLSTM"]
    assert_as_near_as_onnxruntime(model, theirs)


def test_weights_with_a_zero_point_keep_their_meaning(tmp_path):
    """Rows within int8 to the code; the others, by a wider scale, to half of a step of it."""
    model = layer()
    theirs = quantized_by_onnxruntime(model, tmp_path)
    codes = np.random.default_rng(3).integers(60, 256, (1, 14, 80), np.uint8)
    codes[:, :, ::2] = np.maximum(codes[:, :, ::2], 90)  # 255 - 90 does not fit, and every other row does
    codes[:, :, 1::2] = np.minimum(codes[:, :, 1::2], 217)
    new = {"w_quantized": codes, "w_zero_point": np.array([90], np.uint8), "w_scale": np.array([0.005], np.float32)}
    stored = {tensor.name: tensor for tensor in theirs.graph.initializer}
    new["r_quantized"] = numpy_helper.to_array(stored["r_quantized"]).view(np.uint8) ^ np.uint8(128)
    new["r_zero_point"] = np.array([128], np.uint8)
    for name, array in new.items():
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    assert_as_near_as_onnxruntime(model, theirs)


def test_peepholes_and_weights_that_are_fed_are_left_to_the_host_by_name(tmp_path):
    theirs = quantized_by_onnxruntime(layer(), tmp_path)
    [node] = theirs.graph.node
    node.input[7] = "p"
    theirs.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 60), np.float32), "p"))
    with pytest.raises(HostStepError, match=r"LSTM_quant.*peepholes have no kernel"):
        ek.compile(theirs, allow_host=False)
    node.input[7] = ""
    scale = next(tensor for tensor in theirs.graph.initializer if tensor.name == "w_scale")
    theirs.graph.initializer.remove(scale)
    theirs.graph.input.append(helper.make_tensor_value_info("w_scale", onnx.TensorProto.FLOAT, [1]))
    with pytest.warns(EdgekernWarning, match="DynamicQuantizeLSTM"):
        ek.compile(theirs)


def test_scales_that_fit_no_rows_are_left_to_onnxruntime_to_refuse(tmp_path):
    theirs = quantized_by_onnxruntime(layer(), tmp_path)
    scale = next(tensor for tensor in theirs.graph.initializer if tensor.name == "w_scale")
    scale.CopyFrom(numpy_helper.from_array(np.ones(7, np.float32), "w_scale"))
    with pytest.raises(CompileError, match=r"can run com\.microsoft\.DynamicQuantizeLSTM"):
        ek.compile(theirs)
