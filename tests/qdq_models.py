"""QDQ models: every operator in every form that tools write, and what has no kernel."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from graphs import S8, U8, Graph


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


def passed_through():
    """Outputs that are inputs, repeated, or renamed by a Reshape of a float result."""
    g = Graph()
    x = image(g, 2, 8)
    y = g.op("Gemm", x, g.weights(8, 6, axis=1))
    return g.model(x, "x", g.op("Reshape", y, g.const([3, 4], np.int64)), g.op("Identity", y), y)


MODELS = {
    "passed_through": passed_through,
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
    "conv_weights_with_zero_point": lambda: weights_with_zero_point(9),
    "conv_weights_with_zero_point_past_int8": lambda: weights_with_zero_point(128),
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


def log_softmax_model():
    g = Graph()
    y = g.op("Gemm", image(g, 3, 33), g.weights(33, 20, axis=1))
    return g.model(g.op("LogSoftmax", y))


def attention_like():
    g = Graph()
    a = g.qdq(g.op("MatMul", image(g, 4, 16), g.weights(16, 16, axis=1)), 0.4)
    scores = g.op("Softmax", g.op("MatMul", a, g.op("Transpose", a, perm=[1, 0])))
    return g.model(g.op("MatMul", g.qdq(scores, 1 / 255, 0), g.weights(4, 8, axis=1)))


def unquantized_conv():
    g = Graph()
    y = g.op("Conv", image(g), g.const(g.rng.normal(0, 1, (4, 8, 3, 3)), np.float32))
    return g.model(g.qdq(y, 0.3))


def weights_with_zero_point(reach: int):
    g = Graph()
    codes = g.const(g.rng.integers(-reach, reach, (4, 8, 1, 1)), S8)
    w = g.op("DequantizeLinear", codes, g.const(0.1, np.float32), g.const(1, S8))
    return g.model(g.qdq(g.op("Conv", image(g), w), 0.3))


def narrow_activations():
    g = Graph(opset=21)
    return g.model(g.op("Relu", g.qdq(g.input("x", (1, 8)), 0.001, 0, ml_dtypes.int4)))


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


def branches():
    """The bodies of an If read a tensor of the graph around them; one of them has an operator without a kernel."""
    g = Graph()
    y = g.qdq(conv(g, image(g), 4, 8, 1, 1), 0.3)
    nodes = [
        onnx.helper.make_node("Softmax", [y], ["soft"]),
        onnx.helper.make_node("ReverseSequence", [y, g.const([1] * 4)], ["turned"], batch_axis=1, time_axis=0),
    ]
    bodies = [
        onnx.helper.make_graph(
            [node],
            node.op_type,
            [],
            [onnx.helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, (1, 4, 9, 7))],
        )
        for node in nodes
    ]
    chosen = g.op("If", g.input("choose", (), TensorProto.BOOL), then_branch=bodies[0], else_branch=bodies[1])
    return g.model(g.qdq(chosen, 0.1))


HOSTS = {
    "branches": (branches, {"If"}, "If has no kernel"),
    "contrib_operator": (contrib_operator, {"QuickGelu"}, "domain com.microsoft"),
    "log_softmax": (log_softmax_model, {"LogSoftmax"}, "LogSoftmax has no kernel"),
    "attention": (attention_like, {"MatMul", "Softmax"}, "its second activation is not int8"),
    "unquantized_conv": (unquantized_conv, {"Conv"}, "its weights are not quantized"),
    "narrow_activations": (narrow_activations, {"QuantizeLinear", "DequantizeLinear", "Relu"}, "INT4"),
    "long_sum": (long_sum, {"MatMul"}, "can pass 2**31"),
    "float_add_after_conv": (float_add_after_conv, {"Add"}, "its input is float"),
    "padding_value": (lambda: padded(0.123), {"Pad"}, "padding value"),
}
