"""Files that quantize activations at run time, one scale a tensor, as onnxruntime's quantize_dynamic writes them."""

import logging
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import QuantType, quantize_dynamic

import edgekern as ek
from edgekern.graph.exact_products import exact_products
from edgekern.graph.model import open_model
from test_float_nets import feeds_of, kinds, transformer

from graphs import S8, U8, Graph, onnxruntime_session, results_everywhere
from real_models import real


@pytest.fixture
def dynamic(tmp_path):
    """A float model as quantize_dynamic writes it."""

    def quantized(model, **options):
        onnx.save(model, tmp_path / "float.onnx")
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", **options)
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(tmp_path / "dynamic.onnx")

    return quantized


def assert_equals_onnxruntime(model, feeds):
    program = ek.compile(model, allow_host=False)
    for found, want in zip(results_everywhere(program, feeds), expected(model, feeds), strict=True):
        assert found.dtype == want.dtype
        assert np.array_equal(found, want)
    return program


def expected(model, feeds):
    """What ONNX says: without products that saturate, which MatMulInteger of u8 by s8 has on some CPUs."""
    exact = exact_products(open_model(model, function="test")).to_proto()
    return onnxruntime_session(exact, optimized=False).run(None, feeds)


def layers():
    """Two products, a Relu between them, a residual sum."""
    g = Graph(seed=3, opset=17)
    x = g.input("x", (2, 9, 48))
    inner = g.op(
        "Relu", g.op("Add", g.op("MatMul", x, g.const(g.rng.normal(0, 0.2, (48, 65)), np.float32)), g.vector(65))
    )
    outer = g.op("Add", g.op("MatMul", inner, g.const(g.rng.normal(0, 0.2, (65, 48)), np.float32)), g.vector(48))
    return g.model(g.op("Add", outer, x), inner)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
def test_products_give_onnxruntimes_bits_whatever_the_weights_zero_points(dynamic, per_channel, weight_type):
    float_model = layers()
    model = dynamic(float_model, per_channel=per_channel, weight_type=weight_type)
    program = assert_equals_onnxruntime(model, feeds_of(float_model))
    assert not {"GEMM_F32", "MATMUL_F32"} & set(kinds(program))
    found = Counter(kinds(program))
    if weight_type == QuantType.QInt8:
        assert found["GEMM_SCALED"] == 2
        assert found["GEMM_INTEGER"] == 0
        assert "Add+Relu" in next(step.op for step in program.steps if step.kind == "GEMM_SCALED")
    else:
        assert found["GEMM_INTEGER"] == 4  # the codes of each row are summed by themselves


def test_a_transformer_layer_multiplies_by_its_weights_on_8_bits(dynamic):
    """Attention stays float, and sums in another order there: a code may fall to its other side."""
    float_model = transformer(tokens=16, width=64, heads=4)
    model = dynamic(float_model, weight_type=QuantType.QInt8)
    program = ek.compile(model, allow_host=False)
    assert kinds(program).count("GEMM_SCALED") == 6
    assert "GEMM_F32" not in kinds(program)
    feeds = feeds_of(float_model)
    for found, want in zip(results_everywhere(program, feeds), expected(model, feeds), strict=True):
        np.testing.assert_allclose(found, want, atol=np.abs(want).max() / 50)


def convolution(group=1, channels=8, out=12, pads=(1, 1, 1, 1)):
    g = Graph(seed=4, opset=17)
    w = g.const(g.rng.normal(0, 0.2, (out, channels // group, 3, 3)), np.float32)
    y = g.op("Conv", g.input("x", (2, channels, 7, 6)), w, g.vector(out), group=group, pads=list(pads))
    return g.model(g.op("Relu", y))


@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize(("group", "channels", "out"), [(1, 3, 12), (2, 8, 6), (20, 20, 20)])
def test_convolutions_do_in_any_groups(dynamic, weight_type, group, channels, out):
    float_model = convolution(group, channels, out)
    model = dynamic(float_model, weight_type=weight_type, op_types_to_quantize=["Conv"])
    program = assert_equals_onnxruntime(model, feeds_of(float_model))
    assert "CONV_INTEGER" in kinds(program)
    assert "CONV_F32" not in kinds(program)


@pytest.mark.parametrize("dtype", [S8, U8])
def test_sound_is_convolved_along_time_as_codes(dtype):
    g = Graph(seed=9)
    x, zero = g.input("x", (2, 6, 20), onnx.TensorProto.UINT8), g.input("zero", (), onnx.TensorProto.UINT8)
    info = np.iinfo(dtype)
    w = g.const(g.rng.integers(info.min, info.max + 1, (8, 3, 5)).astype(dtype))
    sums = g.op("ConvInteger", x, w, zero, g.const(info.max - 20, dtype), group=2, strides=[2], pads=[2, 1])
    assert_equals_onnxruntime(
        g.model(sums), {"x": g.rng.integers(0, 256, (2, 6, 20)).astype(U8), "zero": np.asarray(77, U8)}
    )


@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
def test_a_real_net_stays_with_onnxruntime(dynamic, test_data, weight_type):
    source = real("resnet8", test_data)
    model = dynamic(source.model, weight_type=weight_type, op_types_to_quantize=["Conv", "Gemm", "MatMul"])
    program = ek.compile(model, allow_host=False)
    assert kinds(program).count("CONV_INTEGER") == (9 if weight_type == QuantType.QInt8 else 18)
    session = ek.InferenceSession(program)
    for feeds in source.feeds:
        [found], [want] = session.run(None, feeds), expected(model, feeds)
        assert np.abs(found - want).max() < np.ptp(want) / 50


@given(
    rows=st.integers(1, 9),
    k=st.integers(1, 40),
    n=st.integers(1, 40),
    a_type=st.sampled_from([U8, S8]),
    b_type=st.sampled_from([U8, S8]),
    zeros=st.sampled_from(["none", "one", "each"]),
    seed=st.integers(0, 99),
)
def test_matmul_integer_is_exact_for_any_types_and_zero_points(rows, k, n, a_type, b_type, zeros, seed):
    g = Graph(seed)

    def draw(dtype, *shape):
        return g.rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)

    b, zero = draw(b_type, k, n), {"none": None, "one": draw(b_type), "each": draw(b_type, n)}[zeros]
    a, a_zero = draw(a_type, rows, k), draw(a_type)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(a_type))
    inputs = [g.input("a", (rows, k), kind), g.const(b, b_type), g.input("zero", (), kind)]
    model = g.model(g.op("MatMulInteger", *inputs, *([] if zero is None else [g.const(zero, b_type)])))
    [found] = ek.InferenceSession(ek.compile(model, allow_host=False)).run(None, {"a": a, "zero": a_zero})
    wide = a.astype(np.int32) - a_zero.astype(np.int32)
    assert np.array_equal(found, wide @ (b.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))))


@pytest.mark.parametrize(
    ("a", "b"), [((4, 9), (9, 5)), ((2, 3, 7, 300), (2, 3, 300, 5)), ((2, 7, 1040), (1040, 3)), ((5, 6), (2, 6, 4))]
)
def test_a_product_of_two_tensors_that_come_at_run_time_is_exact_too(a, b):
    g = Graph()
    codes, zero = onnx.TensorProto.UINT8, onnx.TensorProto.INT8
    inputs = g.input("a", a, codes), g.input("b", b, zero), g.input("a_zero", (), codes), g.input("b_zero", (), zero)
    feeds = {"a": np.full(a, 255, U8) - g.rng.integers(0, 9, a).astype(U8), "a_zero": np.asarray(3, U8)}
    feeds |= {"b": np.full(b, -128, S8) + g.rng.integers(0, 9, b).astype(S8), "b_zero": np.asarray(110, S8)}
    [found] = results_everywhere(ek.compile(g.model(g.op("MatMulInteger", *inputs)), allow_host=False), feeds)
    assert np.array_equal(found, (feeds["a"].astype(np.int32) - 3) @ (feeds["b"].astype(np.int32) - 110))


def test_long_sums_by_weights_with_zero_points_stay_exact():
    """float32 holds them no more."""
    g = Graph()
    weights = np.where(g.rng.random((3000, 5)) < 0.5, 0, 255).astype(U8)
    a = g.rng.integers(200, 256, (4, 3000)).astype(U8)
    inputs = g.input("a", (4, 3000), onnx.TensorProto.UINT8), g.const(weights, U8), g.const(0, U8), g.const(90, U8)
    model = g.model(g.op("Cast", g.op("MatMulInteger", *inputs), to=onnx.TensorProto.FLOAT))
    [found] = ek.InferenceSession(ek.compile(model, allow_host=False)).run(None, {"a": a})
    assert np.array_equal(found, (a.astype(np.int64) @ (weights.astype(np.int64) - 90)).astype(np.float32))


@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.5], [-4.0, -2.0, -0.5], [-1.0, 1e30, 2.0], [1e-40, 0, 0]]
)
def test_dynamic_quantize_linear_gives_onnxruntimes_codes_scale_and_zero_point(values):
    g = Graph()
    model = g.model(*g.op("DynamicQuantizeLinear", g.input("x", (len(values), 1)), outputs=3))
    assert_equals_onnxruntime(model, {"x": np.array(values, np.float32)[:, None]})


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 9), (9, 1), (6, 6), (2, 3, 4, 4)])
def test_a_range_is_that_of_a_tensor_of_any_shape(shape):
    """One of as many rows as columns was taken for its first column."""
    g = Graph()
    model = g.model(*g.op("DynamicQuantizeLinear", g.input("x", shape), outputs=3))
    assert_equals_onnxruntime(model, {"x": np.asarray(g.rng.normal(size=shape), np.float32)})


@pytest.mark.parametrize("bias", [False, True])
def test_onnxruntimes_fused_forms_are_taken_apart(bias):
    g = Graph(seed=6)
    x = g.input("x", (5, 24))
    w, scale = g.const(g.rng.integers(-127, 128, (24, 10)), S8), g.const(g.rng.uniform(0.01, 0.02, 10), np.float32)
    row = [g.vector(10)] if bias else []
    whole = g.op("DynamicQuantizeMatMul", x, w, scale, "", *row, domain="com.microsoft")
    code, step, zero = g.op("DynamicQuantizeLinear", x, outputs=3)
    given = [code, w, step, scale, zero, "", *row]
    model = g.model(whole, g.op("MatMulIntegerToFloat", *(given if bias else given[:5]), domain="com.microsoft"))
    feeds = {"x": g.rng.normal(0, 2, (5, 24)).astype(np.float32)}
    program = ek.compile(model, allow_host=False)
    assert kinds(program).count("GEMM_SCALED") == 1  # both forms are the same product
    for found, want in zip(results_everywhere(program, feeds), expected(model, feeds), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_what_has_no_kernel_is_refused_with_its_reason():
    g = Graph()
    x, w = (g.input(name, (1, 4, 4, 4), onnx.TensorProto.UINT8) for name in "xw")
    with pytest.raises(ek.errors.HostStepError, match="weights that are not constant"):
        ek.compile(g.model(g.op("ConvInteger", x, w)), allow_host=False)
    g = Graph()
    a, zeros = g.input("a", (4, 4), onnx.TensorProto.UINT8), g.const([1, 2, 3, 4], U8)
    with pytest.raises(ek.errors.HostStepError, match="a zero point for each row"):
        ek.compile(g.model(g.op("MatMulInteger", a, g.const(np.ones((4, 2)), U8), zeros)), allow_host=False)
