"""Weights with a scale for each block: MatMulNBits, and DequantizeLinear with a block_size."""

import logging

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

import edgekern as ek
from edgekern.graph.block_weights import dequantized, unpacked
from test_float_nets import kinds

from float_models import sqnr_db
from graphs import Graph, onnxruntime_session, results_everywhere


def net(k=100, n=24):
    g = Graph(seed=7)
    y = g.op("MatMul", g.input("x", (3, k)), g.const(g.rng.normal(0, 0.2, (k, n)), np.float32))
    return g.model(g.op("Relu", g.op("Add", y, g.vector(n))))


def quantized(model, **options):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    config = DefaultWeightOnlyQuantConfig(**options)
    quantizer = MatMulNBitsQuantizer(copy, algo_config=config)
    logging.disable(logging.WARNING)
    try:
        quantizer.process()
    finally:
        logging.disable(logging.NOTSET)
    return quantizer.model.model


def assert_close_to_onnxruntime(model, feeds):
    program = ek.compile(model, allow_host=False)
    [found], [want] = results_everywhere(program, feeds), onnxruntime_session(model, optimized=False).run(None, feeds)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    return program


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128, 256])
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_matmul_n_bits_is_the_product_by_the_weights_it_means(bits, block_size, is_symmetric):
    model = quantized(net(), bits=bits, block_size=block_size, is_symmetric=is_symmetric)
    assert "MatMulNBits" in {node.op_type for node in model.graph.node}
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 100)).astype(np.float32)}
    program = assert_close_to_onnxruntime(model, feeds)
    assert kinds(program) == ["GEMM_F32"]


def at_level(model, level):
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            node.attribute.append(onnx.helper.make_attribute("accuracy_level", level))
    return model


@pytest.mark.parametrize(("block_size", "group"), [(32, 32), (64, 64), (128, 128), (256, 128)])
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_codes_stay_codes_where_rows_may_be_codes_too(block_size, group, is_symmetric):
    model = quantized(net(k=600, n=130), bits=4, block_size=block_size, is_symmetric=is_symmetric)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 600)).astype(np.float32)}
    [exact] = onnxruntime_session(model, optimized=False).run(None, feeds)
    [theirs] = onnxruntime_session(at_level(model, 4), optimized=False).run(None, feeds)
    program = ek.compile(model, allow_host=False)
    [found] = results_everywhere(program, feeds)
    assert kinds(program) == ["GEMM_GROUPS"]
    assert program.index.steps[0].arguments["group"] == group
    assert sqnr_db(exact, found) > 38
    assert sqnr_db(theirs, found) > 36
    stored = sum(blob.bytes for blob in program.index.blobs)
    assert stored < 600 * 130  # 4 bits each of 192 columns, their scales and a bias


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
def test_codes_stay_codes_in_every_opset(opset):
    """DequantizeLinear has blocks since opset 21, onnxruntime's own always."""
    model = net(k=96)
    model.opset_import[0].version = opset
    model = at_level(quantized(model, bits=4, block_size=32, is_symmetric=True), 4)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 96)).astype(np.float32)}
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
    program = ek.compile(model, allow_host=False)
    assert kinds(program) == ["GEMM_GROUPS"]
    assert sqnr_db(want, results_everywhere(program, feeds)[0]) > 36


def ones_scaled(scales):
    """A product by two columns of ones, times the scale of each; and a row for it."""
    g = Graph(opset=21)
    sizes = {"K": 32, "N": 2, "bits": 4, "block_size": 32, "accuracy_level": 4}
    codes, scale = g.const(np.full((2, 1, 16), 0x99), np.uint8), g.const(np.float32(scales))
    y = g.op("MatMulNBits", g.input("x", (1, 32)), codes, scale, domain="com.microsoft", **sizes)
    x = np.random.default_rng(1).uniform(1, 2, (1, 32)).astype(np.float32)
    return ek.compile(g.model(y), allow_host=False), x


@pytest.mark.parametrize("scales", [(1e10, 0.01), (1e-38, 1e-38), (1e30, 1e21), (np.inf, 1)])
def test_scales_that_no_float16_holds_together_are_floats(scales):
    program, x = ones_scaled(scales)
    assert kinds(program) == ["GEMM_F32"]
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    assert np.allclose(found[0, 1], x.sum() * np.float32(scales[1]), rtol=1e-4)


@pytest.mark.parametrize("scales", [(0, 0), (0, 0.5), (-0.25, 0.5), (1e-30, 3e-30)])
def test_scales_of_zero_and_below_are_scales(scales):
    program, x = ones_scaled(scales)
    assert kinds(program) == ["GEMM_GROUPS"]
    [found] = results_everywhere(program, {"x": x})
    assert np.allclose(found, x.sum() * np.float32(scales), rtol=0.03, atol=0)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_level_that_asks_for_floats_gets_them(level):
    model = at_level(quantized(net(), bits=4, block_size=32, is_symmetric=True), level)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 100)).astype(np.float32)}
    assert kinds(assert_close_to_onnxruntime(model, feeds)) == ["GEMM_F32"]


@pytest.mark.parametrize("options", [{"bits": 8, "block_size": 32}, {"bits": 4, "block_size": 16}])
def test_blocks_that_no_kernel_has_are_computed_better_than_asked(options):
    model = quantized(net(), is_symmetric=True, **options)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 100)).astype(np.float32)}
    [exact] = onnxruntime_session(model, optimized=False).run(None, feeds)
    program = ek.compile(at_level(model, 4), allow_host=False)
    assert kinds(program) == ["GEMM_F32"]
    np.testing.assert_allclose(results_everywhere(program, feeds)[0], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_blocks_behind_a_dequantize_linear_are_taken_as_well(is_symmetric):
    float_model = net(k=128)
    float_model.opset_import[0].version = 21
    options = {"block_size": 32, "is_symmetric": is_symmetric, "quant_format": QuantFormat.QDQ}
    model = quantized(float_model, **options)
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 128)).astype(np.float32)}
    assert kinds(assert_close_to_onnxruntime(model, feeds)) == ["GEMM_F32"]


def test_zero_points_may_be_numbers_and_rows_may_name_their_blocks():
    rng = np.random.default_rng(3)
    codes, scales = rng.integers(0, 256, (5, 2, 8), dtype=np.uint8), rng.normal(size=(5, 2)).astype(np.float32)
    zeros, order = rng.normal(size=(5, 2)).astype(np.float32), rng.permutation(np.repeat([0, 1], 16)).astype(np.int32)
    values, zero = unpacked(codes, zeros, bits=4, k=32, n=5, blocks=2)
    found = dequantized(values, scales, zero, order, 16)
    low_first = np.stack([codes & 15, codes >> 4], axis=-1).reshape(5, 32)
    for row in range(32):
        block = order[row]
        want = (low_first[:, row].astype(np.float32) - zeros[:, block]) * scales[:, block]
        assert np.array_equal(found[row], want)


def test_codes_that_come_at_run_time_are_dequantized_block_by_block():
    g = Graph()
    x, scale = g.input("x", (4, 6), onnx.TensorProto.INT8), g.input("scale", (4, 3))
    model = g.model(g.op("DequantizeLinear", x, scale, axis=1, block_size=2))
    rng = np.random.default_rng(2)
    feeds = {"x": rng.integers(-128, 128, (4, 6), dtype=np.int8), "scale": rng.normal(size=(4, 3)).astype(np.float32)}
    [found] = results_everywhere(ek.compile(model, allow_host=False), feeds)
    assert np.array_equal(found, feeds["x"] * np.repeat(feeds["scale"], 2, axis=1))


def test_codes_that_are_not_constant_stay_on_the_host_by_name():
    g = Graph()
    x, codes = g.input("x", (3, 32)), g.input("codes", (5, 2, 8), onnx.TensorProto.UINT8)
    scale = g.const(np.ones(10), np.float32)
    y = g.op("MatMulNBits", x, codes, scale, K=32, N=5, bits=4, block_size=16, domain="com.microsoft")
    with pytest.raises(ek.errors.HostStepError, match="MatMulNBits"):
        ek.compile(g.model(y), allow_host=False)


@pytest.mark.parametrize("wrong", [{"K": 64}, {"N": 0}, {"block_size": 0}, {"bits": 3}, {"K": 1 << 40}])
def test_sizes_that_the_codes_do_not_have_are_left_to_who_says_why(wrong):
    g = Graph()
    codes, scale = g.const(np.zeros((5, 2, 8)), np.uint8), g.const(np.ones(10), np.float32)
    sizes = {"K": 32, "N": 5, "bits": 4, "block_size": 16} | wrong
    y = g.op("MatMulNBits", g.input("x", (3, 32)), codes, scale, domain="com.microsoft", **sizes)
    with pytest.raises(ek.errors.EdgekernError, match="MatMulNBits"):
        ek.compile(g.model(y), allow_host=False)
