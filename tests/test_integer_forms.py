"""Operators written in integers (QLinearConv, QGemm, ...): on the kernels of their Q, DQ and float nodes."""

import logging

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import edgekern as ek
from edgekern.errors import HostStepError
from edgekern.graph import values
from test_dynamic_files import expected
from test_float_nets import feeds_of, kinds

from float_models import small_cnn
from graphs import S8, U8, Graph, results_everywhere
from real_models import real

THEIRS = "com.microsoft"


def one_step_apart(model, feeds):
    """The program, whose codes are at most one step from onnxruntime's."""
    program = ek.compile(model, allow_host=False)
    for found, want in zip(results_everywhere(program, feeds), expected(model, feeds), strict=True):
        assert found.dtype == want.dtype
        assert found.shape == want.shape
        assert np.abs(found.astype(np.int32) - want.astype(np.int32)).max() <= 1
    return program


class Codes(Graph):
    """A graph of codes; ``given`` are their scale and zero point."""

    def parameters(self, scale=0.02, zero=120, dtype=U8):
        return self.const(scale, np.float32), self.const(zero, dtype)

    def codes(self, *shape, scale=0.02, zero=120, dtype=U8):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.input(f"x{len(self.inputs)}", shape, kind), *self.parameters(scale, zero, dtype)

    def stored(self, *shape, axis=None, dtype=S8, zero=0):
        info = np.iinfo(dtype)
        values = self.rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
        scale = self.rng.uniform(0.005, 0.02, () if axis is None else shape[axis])
        return self.const(values), self.const(scale, np.float32), self.const(np.full(scale.shape, zero), dtype)


def conv(**attributes):
    g = Codes()
    bias = g.const(g.rng.integers(-2000, 2000, 12), np.int32)
    return g.model(g.op("QLinearConv", *g.codes(2, 8, 7, 6), *g.stored(12, 8, 3, 3, axis=0), *g.parameters(0.3), bias))


def grouped_conv():
    g = Codes()
    inputs = [*g.codes(1, 8, 7, 6), *g.stored(16, 2, 3, 3, dtype=U8, zero=117), *g.parameters(0.2)]
    return g.model(g.op("QLinearConv", *inputs, group=4, strides=[2, 1], pads=[1, 1, 1, 1]))


def matmul():
    g = Codes()
    return g.model(g.op("QLinearMatMul", *g.codes(2, 5, 40), *g.stored(40, 33, axis=1), *g.parameters(0.3)))


def matmul_of_rows():
    """Its scales as a matrix of one row, as ONNX allows."""
    g = Codes()
    values = g.const(g.rng.integers(-128, 128, (40, 33)), S8)
    scale, zero = g.const(g.rng.uniform(0.005, 0.02, (1, 33)), np.float32), g.const(np.zeros((1, 33)), S8)
    return g.model(g.op("QLinearMatMul", *g.codes(5, 40), values, scale, zero, *g.parameters(0.3)))


def gemm(*, result=True, alpha=1.0):
    g = Codes()
    bias = g.const(g.rng.integers(-2000, 2000, 10), np.int32)
    inputs = [*g.codes(3, 24), *g.stored(10, 24, axis=0), bias, *(g.parameters(0.2) if result else [])]
    return g.model(g.op("QGemm", *inputs, transB=1, alpha=alpha, domain=THEIRS))


def of_two(kind):
    g = Codes()
    return g.model(g.op(kind, *g.codes(2, 3, 5), *g.codes(2, 3, 5, scale=0.05), *g.parameters(0.06), domain=THEIRS))


def of_one(kind, scale=0.02, zero=120, **attributes):
    g = Codes()
    return g.model(g.op(kind, *g.codes(1, 4, 6, 5), *g.parameters(scale, zero), domain=THEIRS, **attributes))


def concat():
    g = Codes()
    pieces = [*g.codes(1, 4, 6), *g.codes(1, 3, 6, scale=0.03, zero=100)]
    return g.model(g.op("QLinearConcat", *g.parameters(0.03), *pieces, axis=1, domain=THEIRS))


def resized():
    """Nearest pixels are picked, whatever they are; onnxruntime's format leaves such operators on codes."""
    g = Codes()
    x, *given = g.codes(1, 4, 5, 6)
    larger = g.op("Resize", x, "", g.const([1, 1, 2, 1.5], np.float32), mode="nearest")
    turned = g.op("Transpose", g.op("Concat", larger, larger, axis=1), perm=[0, 2, 3, 1])
    return g.model(turned, g.op("QLinearSigmoid", larger, *given, *g.parameters(1 / 256, 0), domain=THEIRS))


def where():
    g = Codes()
    condition = g.input("condition", (4, 6), onnx.TensorProto.BOOL)
    operands = [*g.codes(4, 6), *g.codes(4, 6, scale=0.03, zero=100)]
    return g.model(g.op("QLinearWhere", condition, *operands, *g.parameters(0.03), domain=THEIRS))


MODELS = {
    "conv": conv,
    "grouped_conv": grouped_conv,
    "matmul": matmul,
    "matmul_of_rows": matmul_of_rows,
    "gemm": gemm,
    "gemm_alpha": lambda: gemm(alpha=0.5),
    "add": lambda: of_two("QLinearAdd"),
    "mul": lambda: of_two("QLinearMul"),
    "sigmoid": lambda: of_one("QLinearSigmoid", 1 / 256, 0),
    "leaky_relu": lambda: of_one("QLinearLeakyRelu", alpha=0.1),
    "average_pool": lambda: of_one("QLinearAveragePool", kernel_shape=[2, 2], strides=[2, 1]),
    "global_average_pool": lambda: of_one("QLinearGlobalAveragePool"),
    "softmax": lambda: of_one("QLinearSoftmax", 1 / 256, 0, axis=-1, opset=13),
    "softmax_over_many_axes": lambda: of_one("QLinearSoftmax", 1 / 256, 0, axis=2, opset=12),
    "concat": concat,
    "resized": resized,
    "where": where,
}


@pytest.mark.parametrize("name", MODELS)
def test_each_is_at_most_one_step_from_onnxruntime(name):
    model = MODELS[name]()
    one_step_apart(model, feeds_of(model))


def test_a_product_without_a_result_scale_gives_float32():
    model = gemm(result=False)
    program = ek.compile(model, allow_host=False)
    assert kinds(program) == ["GEMM"]
    feeds = feeds_of(model)
    np.testing.assert_allclose(results_everywhere(program, feeds)[0], expected(model, feeds)[0], rtol=1e-5)


def test_mean_over_axes_is_the_one_that_the_opset_has():
    for opset in (13, 21):
        g = Codes(opset=opset)
        y = g.op("QLinearReduceMean", *g.codes(2, 4, 6), *g.parameters(0.01), axes=[2], keepdims=0, domain=THEIRS)
        model = g.model(y)
        feeds = feeds_of(model)
        [found] = results_everywhere(ek.compile(model, allow_host=False), feeds)
        mean = ((feeds["x0"].astype(np.float64) - 120) * np.float32(0.02)).mean(axis=2) / np.float32(0.01) + 120
        assert np.abs(found - np.clip(np.rint(mean), 0, 255)).max() <= 1


class Reader(quantization.CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


@pytest.fixture
def static(tmp_path):
    """A float model as quantize_static writes it."""

    def quantized(model, feeds=None, **options):
        onnx.save(model, tmp_path / "float.onnx")
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(tmp_path / "float.onnx", tmp_path / "prepared.onnx", skip_symbolic_shape=True)
            reader = Reader(feeds or [feeds_of(model)])
            quantization.quantize_static(tmp_path / "prepared.onnx", tmp_path / "static.onnx", reader, **options)
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(tmp_path / "static.onnx")

    return quantized


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8])
@pytest.mark.parametrize("quant_format", list(quantization.QuantFormat))
def test_a_net_runs_on_8_bits_in_either_format_and_with_either_weights(static, quant_format, weight_type, per_channel):
    float_model = small_cnn()
    types = {"weight_type": weight_type, "activation_type": quantization.QuantType.QUInt8}
    model = static(float_model, quant_format=quant_format, per_channel=per_channel, **types)
    program = ek.compile(model, batch=2, allow_host=False)
    assert "multiply-adds: 100.0% in 8 bits" in program.summary()
    assert not {"CONV_F32", "DEPTHWISE_F32", "GEMM_F32"} & set(kinds(program))
    feeds = feeds_of(float_model)
    [found], [want] = results_everywhere(program, feeds), expected(model, feeds)
    assert np.abs(found - want).max() < np.abs(want).max() / 50


@pytest.mark.parametrize("name", ["kws", "resnet8"])
def test_a_real_net_in_the_operators_format_with_weights_of_any_zero_point(name, static, test_data):
    source = real(name, test_data)
    types = {"weight_type": quantization.QuantType.QUInt8, "activation_type": quantization.QuantType.QUInt8}
    model = static(source.model, source.feeds, quant_format=quantization.QuantFormat.QOperator, **types)
    program = ek.compile(model, allow_host=False)
    assert "multiply-adds: 100.0% in 8 bits" in program.summary()
    session = ek.InferenceSession(program)
    for feeds in source.feeds:
        [found], [want] = session.run(None, feeds), expected(model, feeds)
        assert np.abs(found - want).max() < np.ptp(want) / 50


def test_a_form_without_a_meaning_in_onnx_stays_and_is_named():
    model = of_one("QLinearGlobalAveragePool", channels_last=1)
    with pytest.raises(HostStepError, match=r"QLinearGlobalAveragePool .*written in integers"):
        ek.compile(model, allow_host=False)


# --- weights of any zero point


def shifted(build, low, high, zero, *, dtype=U8):
    """A QDQ model around a product by weights between two codes, with a zero point."""
    g = Graph(seed=5)
    zeros = np.asarray(zero, dtype)

    def weights(*shape, axis):
        scale = g.rng.uniform(0.002, 0.01, zeros.shape).astype(np.float32)
        values = g.rng.integers(low, high, shape, endpoint=True).astype(dtype)
        along = {"axis": axis} if zeros.ndim else {}
        return g.op("DequantizeLinear", g.const(values), g.const(scale), g.const(zeros), **along)

    return build(g, weights)


def product(g, weights):
    x = g.qdq(g.input("x", (2, 5, 24)))
    y = g.op("Add", g.op("MatMul", x, weights(24, 6, axis=1)), g.vector(6))
    return g.model(g.qdq(g.op("Relu", y), 0.1, 0), g.op("MatMul", x, weights(24, 6, axis=1)))


def vector(g, weights):
    return g.model(g.op("MatMul", g.qdq(g.input("x", (3, 24))), weights(24, axis=0)))


def convolution(g, weights):
    return g.model(
        g.qdq(g.op("Conv", g.qdq(g.input("x", (2, 8, 7, 6))), weights(6, 8, 3, 3, axis=0), g.vector(6)), 0.2)
    )


def groups(g, weights):
    y = g.op(
        "Conv", g.qdq(g.input("x", (2, 9, 7, 6)), dtype=S8), weights(6, 3, 3, 2, axis=0), group=3, pads=[1, 1, 1, 1]
    )
    return g.model(g.qdq(y, 0.2, dtype=S8))


def channels(g, weights):
    x = g.qdq(g.input("x", (1, 6, 7, 6)))
    return g.model(g.qdq(g.op("Conv", x, weights(6, 1, 3, 3, axis=0), g.vector(6), group=6, pads=[4, 0, 1, 2]), 0.2))


def flattened(g, weights):
    x = g.qdq(g.op("Conv", g.qdq(g.input("x", (2, 3, 5, 4))), g.weights(4, 3, 2, 2)), 0.3)
    return g.model(g.op("Gemm", g.op("Flatten", x), weights(48, 6, axis=1), g.vector(6)))


@pytest.mark.parametrize("build", [product, vector, convolution, groups, channels, flattened])
@pytest.mark.parametrize(
    ("low", "high", "zero", "dtype"),
    [
        (0, 255, 97, U8),
        (0, 255, 0, U8),
        (0, 255, [3, 250, 128, 127, 90, 255], U8),
        (-128, 127, 30, S8),
        (-60, 70, -40, S8),  # int8 once it is subtracted
    ],
)
def test_weights_of_any_zero_point_are_multiplied_as_integers(build, low, high, zero, dtype):
    if build is vector and np.ndim(zero):
        pytest.skip("a vector has one scale")
    model = shifted(build, low, high, zero, dtype=dtype)
    program = ek.compile(model, allow_host=False)
    assert not {kind for kind in kinds(program) if kind.endswith("_F32")}
    assert ("MAP" in kinds(program)) == (low != -60)
    feeds = feeds_of(model)
    for found, want in zip(results_everywhere(program, feeds), expected(model, feeds), strict=True):
        assert np.abs(found - want).max() <= (0.2001 if build in (convolution, groups, channels) else 0.1001)


@pytest.mark.parametrize("build", [product, convolution, groups, channels, flattened])
def test_two_products_give_the_bits_of_the_one_that_takes_the_zero_points_in(build, monkeypatch):
    model = shifted(build, -60, 60, [-40, -3, -58, 0, 2, -57], dtype=S8)
    feeds = feeds_of(model)
    one = ek.compile(model, allow_host=False)
    monkeypatch.setattr(values, "recentered", lambda q, zero, axis: (q, zero.reshape(-1).astype(np.int64)))
    two = ek.compile(model, allow_host=False)
    assert "MAP" in kinds(two)
    assert "MAP" not in kinds(one)
    for a, b in zip(results_everywhere(one, feeds), results_everywhere(two, feeds), strict=True):
        assert np.array_equal(a, b)


def test_sums_that_float32_does_not_hold_are_exact_all_the_same():
    g = Graph(seed=2)
    values, zero = g.rng.integers(0, 2, (4000, 3)).astype(U8) * U8(255), g.const(60, U8)
    w = g.op("DequantizeLinear", g.const(values), g.const(1.0, np.float32), zero)
    model = g.model(g.op("MatMul", g.qdq(g.input("x", (2, 4000)), 1.0, 0), w))
    x = g.rng.integers(200, 256, (2, 4000)).astype(np.float32)
    [found] = results_everywhere(ek.compile(model, allow_host=False), {"x": x})
    assert np.array_equal(found, (x.astype(np.int64) @ (values.astype(np.int64) - 60)).astype(np.float32))


@pytest.mark.parametrize("op", ["QGemm", "QLinearAdd", "QLinearConcat", "QLinearSoftmax", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_form_that_lacks_an_operand_is_left_to_who_says_why(op, count):
    g = Codes()
    with pytest.raises(ek.errors.EdgekernError, match=op):
        ek.compile(g.model(g.op(op, *g.codes(2, 4)[:count], domain=THEIRS)), allow_host=False)
