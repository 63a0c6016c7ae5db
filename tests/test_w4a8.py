"""The recipe "w4a8": static, weights of 4 bits with a scale an output channel."""

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern.quantization import Encoding, compute_encodings, plan_of
from edgekern.quantization.weights import WeightLayout, quantize_weights

from float_models import build, f32, ranges_of, run, samples, small_cnn, sqnr_db
from graphs import onnxruntime_session, results_everywhere

W4A8 = ek.QuantConfig(recipe="w4a8")
RNG = np.random.default_rng(24)


def weights_of(qdq):
    """The codes of constant weights by name."""
    wanted = {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
    constants = {t.name: t for t in qdq.graph.initializer if t.data_type in wanted}
    return {name: constants[name] for name in constants if name.endswith("_quantized")}


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
def test_a_net_loses_what_four_bits_lose_and_runs_as_its_file_says(opset):
    model, x = small_cnn(opset), samples(RNG, 4)
    ranges = ranges_of(model, x)
    qdq = ek.quantize(model, ranges, W4A8)
    assert set(plan_of(qdq).counts()) == {"w4a8"}
    assert {t.data_type for t in weights_of(qdq).values()} == {onnx.TensorProto.INT4}
    exact, found = run(model, x)[0], onnxruntime_session(qdq, optimized=False).run(None, {"x": x})[0]
    assert 25 < sqnr_db(exact, found) < sqnr_db(exact, run(ek.quantize(model, ranges, ek.QuantConfig("u8")), x)[0])
    program = ek.compile(qdq, batch=len(x), allow_host=False)
    [ours] = results_everywhere(program, {"x": x})
    assert np.abs(ours - found).max() < 1e-5


def layers():
    conv = {"w": f32(RNG.normal(size=(6, 4, 3, 3))), "b": f32(RNG.normal(size=6))}
    transposed = {"w": f32(RNG.normal(size=(4, 6, 2, 2)))}
    matrix = {"w": f32(RNG.normal(size=(24, 9)))}
    node = helper.make_node
    image, rows = [2, 4, 7, 7], [3, 24]
    yield pytest.param([node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])], conv, image, 0, id="Conv")
    yield pytest.param(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], transposed, image, 1, id="transposed"
    )
    yield pytest.param([node("Gemm", ["x", "w"], ["y"])], matrix, rows, 1, id="Gemm")
    yield pytest.param([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": matrix["w"].T.copy()}, rows, 0, id="transB")
    yield pytest.param([node("MatMul", ["x", "w"], ["y"])], matrix, [2, 3, 24], 1, id="MatMul")
    yield pytest.param([node("MatMul", ["x", "w"], ["y"])], {"w": matrix["w"][:, 0]}, rows, None, id="vector")


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(("nodes", "weights", "shape", "axis"), list(layers()))
def test_every_product(nodes, weights, shape, axis, opset):
    model, x = build(nodes, weights, shape, opset=opset), f32(RNG.normal(size=shape))
    ranges = ranges_of(model, x)
    encoding = compute_encodings(model, ranges, W4A8)["w"]
    assert (encoding.bits, encoding.axis, encoding.signed) == (4, axis, True)
    largest = np.abs(weights["w"]).max(axis=tuple(i for i in range(weights["w"].ndim) if i != axis))
    np.testing.assert_allclose(encoding.scale, largest / 7, rtol=1e-6)
    qdq = ek.quantize(model, ranges, W4A8)
    found = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})[0]
    assert 10 < sqnr_db(run(model, x)[0], found) < 30
    [ours] = results_everywhere(ek.compile(qdq, allow_host=False), {"x": x})
    assert np.abs(ours - found).max() < 1e-4 * np.abs(found).max()


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (ek.QuantConfig(recipe="w4a8", first_layer="w8a8", last_layer="w8a8"), {"w8a8": 2, "w4a8": 2}),
        (ek.QuantConfig(recipe="w8a8", overrides={"Gemm": "w4a8"}), {"w8a8": 3, "w4a8": 1}),
        (ek.QuantConfig(recipe="w4a8", keep_float=["Gemm"]), {"float32": 1, "w4a8": 3}),
        (ek.QuantConfig(recipe="w4a8", overrides={"Gemm": "w8a8-dynamic"}), {"w8a8-dynamic": 1, "w4a8": 3}),
    ],
)
def test_layers_with_other_recipes(config, counts):
    model, x = small_cnn(), samples(RNG, 4)
    qdq = ek.quantize(model, ranges_of(model, x), config)
    assert plan_of(qdq).counts() == counts
    results_everywhere(ek.compile(qdq, batch=4, allow_host=False), {"x": x})


@pytest.mark.parametrize(("bits", "highest"), [(8, 127), (4, 7)])
def test_codes_end_at_the_highest_and_accumulators_stay_below_their_limit(bits, highest):
    """A bias beside which the weights are tiny: scales grow until it fits."""
    weights = f32(RNG.normal(size=(5, 30)))
    plain, forced = (
        quantize_weights(
            weights, WeightLayout(0, 1), Encoding(1e-3, signed=False), methods=(), bias=np.full(5, bias), bits=bits
        )
        for bias in (0.0, 1e6)
    )
    assert np.abs(plain.values).max(axis=1).tolist() == [highest] * 5
    assert plain.widened == ()
    assert forced.widened == (0, 1, 2, 3, 4)
    assert forced.encoding.bits == bits
    assert (np.abs(forced.bias.astype(np.int64)) + 255 * np.abs(forced.values.astype(int)).sum(axis=1) < 2**31).all()
