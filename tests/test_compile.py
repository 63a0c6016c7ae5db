"""Every operator in every form that other tools write: compiled, run, and held to the NumPy reference and the graph."""

import warnings

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

import edgekern as ek
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CompileError,
    EdgekernWarning,
    HostStepError,
)

from graphs import S8, U8, Graph, feeds_of, onnxruntime_session
from reference.program import run_program


def conv(g: Graph, x: str, *shape: int, bias: bool = True, axis: int | None = 0, dtype=S8, **attributes) -> str:
    operands = [x, g.weights(*shape, axis=axis, dtype=dtype), *([g.vector(shape[0])] if bias else [])]
    return g.op("Conv", *operands, **attributes)


def image(g: Graph, *shape: int | str, **quantization) -> str:
    return g.qdq(g.input("x", shape or (1, 8, 9, 7)), **quantization)


def conv_model(
    *shape: int, channels: int = 8, size: tuple[int, int] = (9, 7), batch: int = 1, **options
) -> onnx.ModelProto:
    g = Graph()
    return g.model(g.qdq(conv(g, image(g, batch, channels, *size), *shape, **options), 0.3))


def unary_model(*nodes: tuple[str, dict], scale: float = 0.02) -> onnx.ModelProto:
    g = Graph()
    y = image(g)
    for kind, attributes in nodes:
        y = g.op(kind, y, **attributes)
    return g.model(g.qdq(y, scale))


def clipped_conv():
    g = Graph()
    y = conv(g, image(g), 16, 8, 3, 3)
    return g.model(g.qdq(g.op("Clip", g.op("Relu", y), g.const(np.float32(0.5)), g.const(np.float32(6))), 0.03, 0))


def quantized_bias():
    g = Graph()
    x, w = image(g), g.weights(16, 8, 3, 3, axis=None)
    scale = np.float32(0.05) * onnx.numpy_helper.to_array(g.constants[-2])
    bias = g.op("DequantizeLinear", g.const(g.rng.integers(-9999, 9999, 16), np.int32), g.const(scale, np.float32))
    return g.model(g.qdq(g.op("Conv", x, w, bias), 0.3))


def float_result():
    g = Graph()
    return g.model(g.op("Relu", conv(g, image(g), 5, 8, 3, 3)))


def gemm(trans_b: int = 0, *, rows: int = 3, **attributes):
    g = Graph()
    shape, axis = ((20, 33), 0) if trans_b else ((33, 20), 1)
    y = g.op("Gemm", image(g, rows, 33), g.weights(*shape, axis=axis), g.vector(20), transB=trans_b, **attributes)
    return g.model(g.qdq(y, 0.5))


def matmul(*shape: int, bias: bool):
    g = Graph()
    y = g.op("MatMul", image(g, *shape), g.weights(shape[-1], 24, axis=1))
    return g.model(g.qdq(g.op("Add", y, g.vector(24)) if bias else y, 0.5))


def transposed_weights():
    g = Graph()
    w = g.op("Transpose", g.weights(20, 33, axis=0), perm=[1, 0])
    return g.model(g.op("MatMul", image(g, 3, 33), w))


def flattened(kind: str):
    g = Graph()
    y = g.qdq(g.op("Relu", conv(g, image(g), 6, 8, 3, 3)), 0.2, 0)
    flat = g.op("Flatten", y) if kind == "Flatten" else g.op("Reshape", y, g.const([1, -1], np.int64))
    return g.model(g.op("Gemm", g.qdq(flat, 0.2, 0), g.weights(210, 10, axis=1), g.vector(10)))


def residual(**quantization):
    g = Graph()
    x = image(g, **quantization)
    a = g.qdq(conv(g, x, 8, 8, 3, 3, pads=[1, 1, 1, 1]), 0.4, **quantization)
    b = g.qdq(conv(g, x, 8, 8, 1, 1), 0.3)
    return g.model(g.qdq(g.op("Relu", g.op("Add", a, b)), 0.5, 0))


def added_constant(*shape: int):
    g = Graph()
    parameters = g.const(0.1, np.float32), g.const(7, U8)
    addend = g.op("DequantizeLinear", g.const(g.rng.integers(0, 255, shape), U8), *parameters)
    return g.model(g.qdq(g.op("Add", image(g), addend), 0.2))


def hard_swish_by_hand():
    g = Graph()
    x = image(g)
    six = g.op("Clip", g.op("Add", x, g.const(np.float32(3))), g.const(np.float32(0)), g.const(np.float32(6)))
    return g.model(g.qdq(g.op("Div", g.op("Mul", x, six), g.const(np.float32(6))), 0.03))


def pool(kind: str, *, scale: float = 0.05, dtype=U8, **attributes):
    g = Graph()
    return g.model(g.qdq(g.op(kind, image(g, 2, 8, 9, 7), **attributes), scale, dtype=dtype))


def mean(keepdims: int):
    g = Graph()
    axes = g.const([2, 3], np.int64)
    return g.model(g.qdq(g.op("ReduceMean", image(g), axes, keepdims=keepdims), 0.01))


def concat(axis: int, *, same: bool):
    g = Graph()
    x = image(g, 2, 8, 9, 7)
    pieces = [x, g.qdq(x, 0.05 if same else 0.03)]
    return g.model(g.qdq(g.op("Concat", *pieces, axis=axis), 0.05))


def moved(kind: str, *constants, shape=(2, 8, 9, 7), outputs: int = 1, **attributes):
    g = Graph()
    operands = [g.const(array, np.int64) for array in constants]
    made = g.op(kind, image(g, *shape), *operands, outputs=outputs, **attributes)
    return g.model(*(g.qdq(y) for y in ([made] if outputs == 1 else made)))


def padded(value: float = 0.0):
    g = Graph()
    pads = g.const([0, 4, 1, 0, 0, 4, 0, 2], np.int64)
    return g.model(g.qdq(g.op("Pad", image(g), pads, g.const(np.float32(value)))))


def channels_last():
    """As TensorFlow's exporters write it: NHWC at the borders, Transpose around each Conv."""
    g = Graph()
    x = g.op("Transpose", g.input("x", (2, 9, 7, 8)), perm=[0, 3, 1, 2])
    y = g.qdq(conv(g, g.qdq(x), 16, 8, 3, 3), 0.3)
    return g.model(g.op("Transpose", y, perm=[0, 2, 3, 1]))


def shuffled_channels():
    g = Graph()
    y = g.op("Reshape", image(g), g.const([1, 2, 4, 9, 7], np.int64))
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3, 4]), g.const([1, 8, 9, 7], np.int64))
    return g.model(g.qdq(conv(g, g.qdq(y), 5, 8, 1, 1), 0.3))


def weights_quantized_in_the_graph():
    """As QAT exports write it: float weights, QuantizeLinear, DequantizeLinear."""
    g = Graph()
    parameters = g.const(np.full(4, 0.02), np.float32), g.const(np.zeros(4), S8)
    q = g.op("QuantizeLinear", g.const(g.rng.normal(0, 1, (4, 8, 3, 3)), np.float32), *parameters, axis=0)
    w = g.op("DequantizeLinear", q, *parameters, axis=0)
    return g.model(g.qdq(g.op("Conv", image(g), w), 0.3))


def shape_chain():
    """Flatten as PyTorch writes it: Shape, Gather, Concat, Reshape."""
    g = Graph()
    y = g.qdq(conv(g, image(g, "N", 8, 5, 5), 6, 8, 3, 3), 0.3)
    n = g.op("Unsqueeze", g.op("Gather", g.op("Shape", y), g.const(0, np.int64)), g.const([0], np.int64))
    flat = g.op("Reshape", y, g.op("Concat", n, g.const([-1], np.int64), axis=0))
    return g.model(g.op("Gemm", flat, g.weights(54, 10, axis=1)))


def codes_moved():
    """Reshape and Transpose of the integers themselves."""
    g = Graph()
    parameters = g.const(0.05, np.float32), g.const(100, U8)
    q = g.op("QuantizeLinear", g.input("x", (2, 12)), *parameters)
    q = g.op("Transpose", g.op("Reshape", q, g.const([2, 3, 4], np.int64)), perm=[2, 0, 1])
    return g.model(g.op("DequantizeLinear", q, *parameters))


def integer_borders():
    g = Graph()
    parameters = g.const(0.05, np.float32), g.const(100, U8)
    x = g.op("DequantizeLinear", g.input("x", (1, 8, 9, 7), TensorProto.UINT8), *parameters)
    return g.model(g.op("QuantizeLinear", conv(g, x, 16, 8, 3, 3), g.const(0.3, np.float32), g.const(9, S8)))


MODELS = {
    "conv": lambda: conv_model(16, 8, 3, 3, pads=[1, 1, 1, 1]),
    "conv_without_bias": lambda: conv_model(17, 8, 1, 1, bias=False),
    "conv_strided_dilated": lambda: conv_model(16, 8, 3, 3, strides=[2, 1], dilations=[2, 3], pads=[2, 3, 1, 3]),
    "conv_grouped": lambda: conv_model(24, 2, 3, 3, group=4),
    "conv_depthwise": lambda: conv_model(8, 1, 5, 3, group=8, pads=[2, 1, 2, 1], strides=[2, 2]),
    "conv_depthwise_multiplier": lambda: conv_model(16, 1, 3, 3, group=8),
    "conv_same_upper": lambda: conv_model(16, 8, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv_same_lower": lambda: conv_model(16, 8, 4, 3, auto_pad="SAME_LOWER"),
    "conv_padding_wider_than_kernel": lambda: conv_model(16, 8, 1, 2, pads=[2, 3, 1, 4]),
    "conv_batch_3": lambda: conv_model(16, 8, 3, 3, batch=3),
    "conv_one_channel": lambda: conv_model(1, 1, 3, 3, channels=1),
    "conv_u8_weights": lambda: conv_model(16, 8, 3, 3, dtype=U8),
    "conv_per_tensor": lambda: conv_model(16, 8, 3, 3, axis=None),
    "conv_clip": clipped_conv,
    "conv_quantized_bias": quantized_bias,
    "conv_float_result": float_result,
    "gemm": gemm,
    "gemm_transposed": lambda: gemm(1),
    "gemm_alpha_beta": lambda: gemm(1, alpha=0.5, beta=2.0),
    "matmul": lambda: matmul(4, 33, bias=False),
    "matmul_bias": lambda: matmul(4, 33, bias=True),
    "matmul_3d": lambda: matmul(2, 5, 33, bias=True),
    "matmul_4d": lambda: matmul(2, 3, 5, 33, bias=False),
    "matmul_transposed_weights": transposed_weights,
    "flatten_gemm": lambda: flattened("Flatten"),
    "reshape_gemm": lambda: flattened("Reshape"),
    "residual": residual,
    "residual_s8": lambda: residual(dtype=S8),
    "add_constant": lambda: added_constant(1, 8, 9, 7),
    "add_constant_row": lambda: added_constant(8, 1, 1),
    "add_scalar": lambda: added_constant(1),
    "lookup_sigmoid": lambda: unary_model(("Sigmoid", {})),
    "lookup_leaky_tanh": lambda: unary_model(("LeakyRelu", {"alpha": 0.2}), ("Tanh", {})),
    "lookup_relu_requantized": lambda: unary_model(("Relu", {}), scale=0.03),
    "lookup_requantize": lambda: unary_model(scale=0.07),
    "hard_swish_by_hand": hard_swish_by_hand,
    "max_pool": lambda: pool("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    "max_pool_ceil": lambda: pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max_pool_requantized": lambda: pool("MaxPool", kernel_shape=[2, 3], scale=0.04),
    "global_max_pool": lambda: pool("GlobalMaxPool"),
    "average_pool": lambda: pool("AveragePool", kernel_shape=[3, 2], pads=[1, 1, 1, 0], strides=[2, 1], scale=0.037),
    "average_pool_counts_padding": lambda: pool(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, scale=0.037
    ),
    "average_pool_other_sign": lambda: pool("AveragePool", kernel_shape=[3, 3], dtype=S8, scale=0.037),
    "global_average_pool": lambda: pool("GlobalAveragePool", scale=0.01),
    "reduce_mean": lambda: mean(1),
    "reduce_mean_flat": lambda: mean(0),
    "concat_channels": lambda: concat(1, same=True),
    "concat_rows": lambda: concat(2, same=True),
    "concat_requantized": lambda: concat(-3, same=False),
    "slice": lambda: moved("Slice", [1, 8], [7, 1], [1, 2], [3, -2]),
    "split": lambda: moved("Split", [3, 5], outputs=2, axis=1),
    "pad": padded,
    "transpose": lambda: moved("Transpose", perm=[2, 0, 3, 1]),
    "transpose_3d": lambda: moved("Transpose", shape=(4, 5, 6), perm=[2, 0, 1]),
    "reshape_4d_to_3d": lambda: moved("Reshape", [2, 8, 63]),
    "reshape_4d_to_4d": lambda: moved("Reshape", [2, 9, 4, 14]),
    "reshape_3d_to_4d": lambda: moved("Reshape", [2, 3, 4, 5], shape=(6, 20)),
    "squeeze": lambda: moved("Squeeze", [2, 3], shape=(2, 8, 1, 1)),
    "unsqueeze": lambda: moved("Unsqueeze", [2], shape=(2, 8, 7)),
    "channels_last": channels_last,
    "shuffled_channels": shuffled_channels,
    "weights_quantized_in_the_graph": weights_quantized_in_the_graph,
    "shape_chain": shape_chain,
    "codes_moved": codes_moved,
    "integer_borders": integer_borders,
}


def run(program: ek.Program, feeds, **options):
    return ek.InferenceSession(program, **options).run(None, feeds)


@pytest.mark.parametrize("name", MODELS)
def test_program_computes_the_graph(name):
    """Bit for bit what the NumPy reference computes, and what onnxruntime says within one step of the result."""
    model = MODELS[name]()
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model)
    ours = run(program, feeds)
    reference = run_program(program.index, program.container.blobs, [feeds[info.name] for info in program.inputs])
    for result, expected in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(result, expected)
    truth = onnxruntime_session(model, optimized=False).run(None, feeds)
    for result, expected in zip(ours, truth, strict=True):
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        difference = np.abs(result.astype(np.float64) - expected)
        steps = 1 if result.dtype.kind in "ui" else max(np.unique(difference).max(), 1e-3 * np.abs(expected).max())
        assert difference.max() <= steps
        assert np.mean(difference > 1e-4 * np.abs(expected).max()) <= 0.01


def test_program_is_the_same_on_every_isa_and_thread_count(isa):
    for name in (
        "conv",
        "conv_depthwise",
        "residual",
        "matmul_bias",
        "average_pool",
        "lookup_sigmoid",
        "concat_requantized",
    ):
        model = MODELS[name]()
        program, feeds = ek.compile(model), feeds_of(model)
        expected = run(program, feeds, isa="scalar", num_threads=1)
        for threads in (1, 2):
            for result, wanted in zip(run(program, feeds, isa=isa, num_threads=threads), expected, strict=True):
                np.testing.assert_array_equal(result, wanted)


@st.composite
def convolutions(draw):
    group, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - pads[i] - pads[i + 2]) for i, (k, d) in enumerate(zip(kernel, dilation, strict=True))
    ]
    size = tuple(draw(st.integers(side, side + 6)) for side in least)
    out = group * draw(st.integers(1, 20))
    return conv_model(
        *(out, per_group, *kernel),
        channels=group * per_group,
        size=size,
        batch=draw(st.integers(1, 2)),
        group=group,
        pads=list(pads),
        dilations=list(dilation),
        strides=list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
    )


@given(model=convolutions(), seed=st.integers(0, 99))
def test_any_convolution_equals_the_reference(model, seed):
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model, seed)
    [expected] = run_program(program.index, program.container.blobs, [feeds["x"]])
    np.testing.assert_array_equal(run(program, feeds)[0], expected)
    [truth] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert np.abs(expected - truth).max() <= 0.3 * 1.001


def test_residual_add_is_fused_and_changes_no_bit():
    fused = residual()
    split = onnx.ModelProto()
    split.CopyFrom(fused)
    inner = [node.output[0] for node in fused.graph.node if node.op_type == "DequantizeLinear"]
    add = next(node for node in fused.graph.node if node.op_type == "Add")
    split.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in add.input)
    assert set(add.input) <= set(inner)
    one, many, feeds = ek.compile(fused), ek.compile(split), feeds_of(fused)
    assert [step.op for step in one.steps if "Add" in step.op] == ["Conv+Add+Relu"]
    assert [step.op for step in many.steps if "Add" in step.op] == ["Add+Relu"]
    np.testing.assert_array_equal(run(one, feeds)[0], run(many, feeds)[0])


def test_activations_and_bias_cost_no_step():
    assert [step.op for step in ek.compile(clipped_conv()).steps] == [
        "QuantizeLinear",
        "Conv+Relu+Clip",
        "DequantizeLinear",
    ]
    steps = ek.compile(matmul(4, 33, bias=True)).steps
    assert [step.op for step in steps] == ["QuantizeLinear", "MatMul+Add", "DequantizeLinear"]


def test_flattened_image_is_not_transposed():
    """The weights are permuted at compile time instead."""
    assert "TRANSPOSE" not in {step.kind for step in ek.compile(flattened("Flatten")).steps}
    assert "TRANSPOSE" not in {step.kind for step in ek.compile(channels_last()).steps if step.dtype == np.uint8}


def test_units_follow_the_work():
    units = {step.name.split("_")[1]: step.unit for step in ek.compile(residual()).steps}
    assert set(units.values()) == {"Vector"}
    big = ek.compile(conv_model(64, 64, 3, 3, channels=64))
    assert [step.unit for step in big.steps if step.kind == "CONV"] == ["Cube"]


def test_batch_fills_the_free_dimension():
    g = Graph()
    model = g.model(g.op("Gemm", image(g, "N", 33), g.weights(33, 20, axis=1)))
    assert ek.compile(model, batch=5).inputs[0].shape == (5, 33)
    whole = run(ek.compile(model, batch=5), feeds_of(model, batch=5))[0]
    row = {"x": feeds_of(model, batch=5)["x"][2:3]}
    np.testing.assert_array_equal(run(ek.compile(model), row)[0], whole[2:3])


def test_arena_is_planned_close_to_its_bound():
    g = Graph()
    x = image(g, 1, 8, 16, 16)
    for _ in range(6):
        x = g.qdq(conv(g, x, 8, 8, 3, 3, pads=[1, 1, 1, 1]), 0.4)
    program = ek.compile(g.model(x))
    plan = program.memory_plan
    assert plan.arena_bytes == plan.lower_bound
    assert plan.arena_bytes < sum(np.prod(step.shape) for step in program.steps)


def softmax_model():
    g = Graph()
    y = g.op("Gemm", image(g, 3, 33), g.weights(33, 20, axis=1))
    return g.model(g.op("Softmax", y))


def attention_like():
    g = Graph()
    a = g.qdq(g.op("MatMul", image(g, 4, 16), g.weights(16, 16, axis=1)), 0.4)
    scores = g.op("Softmax", g.op("MatMul", a, g.op("Transpose", a, perm=[1, 0])))
    return g.model(g.op("MatMul", g.qdq(scores, 1 / 255, 0), g.weights(4, 8, axis=1)))


def unquantized_conv():
    g = Graph()
    y = g.op("Conv", image(g), g.const(g.rng.normal(0, 1, (4, 8, 3, 3)), np.float32))
    return g.model(g.qdq(y, 0.3))


def weights_with_zero_point():
    g = Graph()
    w = g.op(
        "DequantizeLinear", g.const(g.rng.integers(-9, 9, (4, 8, 1, 1)), S8), g.const(0.1, np.float32), g.const(1, S8)
    )
    return g.model(g.qdq(g.op("Conv", image(g), w), 0.3))


def wide_activations():
    g = Graph()
    return g.model(g.op("Relu", g.qdq(g.input("x", (1, 8)), 0.001, 0, np.int16)))


def long_sum():
    g = Graph()
    return g.model(
        g.op(
            "MatMul",
            image(g, 1, 130_000),
            g.op(
                "DequantizeLinear", g.const(np.full((130_000, 1), -128), S8), g.const(0.1, np.float32), g.const(0, S8)
            ),
        )
    )


def float_add_after_conv():
    g = Graph()
    x = image(g)
    return g.model(g.qdq(g.op("Add", conv(g, x, 8, 8, 1, 1), x), 0.5))


def contrib_operator():
    """onnx infers no shape for operators of onnxruntime's own."""
    g = Graph()
    return g.model(g.op("QuickGelu", image(g), domain="com.microsoft"))


HOSTS = {
    "contrib_operator": (contrib_operator, {"QuickGelu"}, "domain com.microsoft"),
    "softmax": (softmax_model, {"Softmax"}, "its input is float"),
    "attention": (attention_like, {"MatMul", "Softmax"}, "two activations"),
    "unquantized_conv": (unquantized_conv, {"Conv"}, "its weights are not quantized"),
    "weights_with_zero_point": (weights_with_zero_point, {"Conv"}, "zero point of its weights"),
    "wide_activations": (wide_activations, {"QuantizeLinear", "DequantizeLinear", "Relu"}, "INT16"),
    "long_sum": (long_sum, {"MatMul"}, "can pass 2**31"),
    "float_add_after_conv": (float_add_after_conv, {"Add"}, "its input is float"),
    "padding_value": (lambda: padded(0.123), {"Pad"}, "padding value"),
}


@pytest.mark.parametrize("name", HOSTS)
def test_what_has_no_kernel_becomes_a_host_step(name):
    build, operators, reason = HOSTS[name]
    model = build()
    with pytest.warns(EdgekernWarning, match="run on the host"):
        program = ek.compile(model)
    assert {op for step in program.host_steps for op in step.operators} == operators
    assert any(reason in step.reason for step in program.host_steps)
    assert all(step.elements > 0 for step in program.host_steps)
    assert "host step: " in program.summary()
    feeds = feeds_of(model)
    truth = onnxruntime_session(model, optimized=False).run(None, feeds)
    for result, expected in zip(run(program, feeds), truth, strict=True):
        assert np.mean(np.abs(result - expected) > 2e-2 * np.abs(expected).max()) <= 0.01


@pytest.mark.parametrize("name", HOSTS)
def test_allow_host_false_names_operator_and_reason(name):
    build, operators, reason = HOSTS[name]
    with pytest.raises(HostStepError) as caught:
        ek.compile(build(), allow_host=False)
    assert reason in str(caught.value)
    assert all(operator in str(caught.value) for operator in operators)


def test_connected_host_nodes_are_one_step():
    g = Graph()
    y = g.op("Gemm", image(g, 3, 33), g.weights(33, 20, axis=1))
    y = g.op("Softmax", g.op("LogSoftmax", g.op("Softmax", y)))
    z = g.op("Gemm", g.qdq(y, 1 / 255, 0), g.weights(20, 4, axis=1))
    with pytest.warns(EdgekernWarning):
        program = ek.compile(g.model(g.op("Softmax", z)))
    assert [step.operators for step in program.host_steps] == [("Softmax", "LogSoftmax", "Softmax"), ("Softmax",)]
    assert [what for what, _ in program.manifest.order] == ["segment", "host", "segment", "host"]


def test_host_share_of_the_work_is_stated():
    with pytest.warns(EdgekernWarning):
        program = ek.compile(unquantized_conv())
    assert [step.macs for step in program.host_steps] == [4 * 8 * 9 * 7 * 5]
    assert program.host_steps[0].macs_share == 1.0


def test_model_that_is_all_host_still_runs():
    g = Graph()
    model = g.model(g.op("Softmax", g.input("x", (2, 5))))
    with pytest.warns(EdgekernWarning):
        program = ek.compile(model)
    np.testing.assert_allclose(run(program, feeds_of(model))[0].sum(axis=1), 1, rtol=1e-6)


def test_operator_that_nobody_can_run_is_named():
    g = Graph()
    model = g.model(g.op("NoSuchOperator", g.input("x", (2, 5))))
    with pytest.raises(CompileError, match="NoSuchOperator 'node_nosuchoperator_1'"):
        ek.compile(model)
    model = unary_model(("Relu", {}))
    model.opset_import.append(onnx.helper.make_opsetid("example.org", 1))
    model.graph.node.append(
        onnx.helper.make_node("Frobnicate", [model.graph.output[0].name], ["y"], domain="example.org")
    )
    model.graph.output[0].name = "y"
    with pytest.raises(CompileError, match=r"example\.org\.Frobnicate"):
        ek.compile(model)


def test_free_dimensions_are_refused_by_name():
    g = Graph()
    model = g.model(g.qdq(g.op("GlobalAveragePool", image(g, "N", 8, "H", 7))))
    with pytest.raises(CompileError, match=r"input 'x' has a free dimension 2 \(H\)"):
        ek.compile(model)
    with pytest.raises(CompileError, match="batch is 4, but the inputs have fixed shapes"):
        ek.compile(gemm(), batch=4)


def test_shapes_that_depend_on_the_data_are_refused():
    g = Graph()
    with pytest.raises(CompileError, match="depends on the data"):
        ek.compile(g.model(g.op("NonZero", g.op("Relu", g.input("x", (4, 5))))))


@pytest.mark.parametrize("batch", [0, -1])
def test_batch_must_be_positive(batch):
    with pytest.raises(ArgumentValueError, match="compile: batch must be at least 1"):
        ek.compile(gemm(), batch=batch)


def test_arguments_of_other_types_are_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="batch must be an integer"):
        ek.compile(gemm(), batch=1.5)
    with pytest.raises(ArgumentTypeError, match="must be a path, bytes or"):
        ek.compile(3)
    path = tmp_path / "not.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ArgumentValueError, match="ONNX"):
        ek.compile(path)


def test_opset_outside_the_range_is_refused():
    model = gemm()
    model.opset_import[0].version = 5
    with pytest.raises(ArgumentValueError, match=r"opset 5, which is outside 7\.\.23"):
        ek.compile(model)


def test_compiling_twice_gives_equal_programs_and_leaves_the_model():
    model = residual()
    before = model.SerializeToString()
    one, two = ek.compile(model), ek.compile(model.SerializeToString())
    assert one == two
    assert hash(one) == hash(two)
    assert one != ek.compile(gemm())
    assert model.SerializeToString() == before


def test_summary_shows_every_step_and_the_arena():
    program = ek.compile(residual())
    table = program.summary()
    for step in program.steps:
        assert step.name in table
        assert f"{step.macs:,}" in table
    assert f"arena {program.memory_plan.arena_bytes:,} bytes" in table
    assert repr(program).startswith("Program(x[1, 8, 9, 7] -> ")


def test_supported_models_compile_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ek.compile(residual())
