"""Convolutions on int8 over any number of dimensions, and transposed ones: the sums are exact and rounded once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern.errors import EdgekernWarning

from float_models import build, ranges_of
from reference.gemm import requantize

X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = np.float32(0.02), 131, np.float32(0.11), 97


def model(op, x_shape, weights, scales, bias, **attributes):
    """Bytes in, bytes out: DequantizeLinear, the convolution, QuantizeLinear."""
    constants = {"w": weights, "ws": scales, "xs": X_SCALE, "xz": np.uint8(X_ZERO), "b": bias}
    constants |= {"bs": (np.float64(X_SCALE) * scales).astype(np.float32), "ys": Y_SCALE, "yz": np.uint8(Y_ZERO)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wf"], axis=1 if op == "ConvTranspose" else 0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        helper.make_node(op, ["xf", "wf", "bf"], ["yf"], **attributes),
        helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x_shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sums(op, x, weights, window, groups, sides):
    """int64 sums over taps: where each tap leads from, or to."""
    transposes = op == "ConvTranspose"
    out_c = weights.shape[1] if transposes else weights.shape[0]
    acc = np.zeros((x.shape[0], out_c, *sides), np.int64)
    for tap in itertools.product(*map(range, weights.shape[2:])):
        w = weights[(..., *tap)].astype(np.int64)
        for small in itertools.product(*map(range, x.shape[2:] if transposes else sides)):
            large = tuple(
                at * stride + k * dilation - pad
                for at, k, (stride, dilation, pad) in zip(small, tap, window, strict=True)
            )
            if any(not 0 <= at < side for at, side in zip(large, sides if transposes else x.shape[2:], strict=True)):
                continue
            if transposes:
                acc[(..., *large)] += x[(..., *small)] @ w
            else:
                parts = np.split(x[(..., *large)], groups, axis=1)
                acc[(..., *small)] += np.concatenate(
                    [part @ v.T for part, v in zip(parts, np.split(w, groups), strict=True)], axis=1
                )
    return acc


def assert_exact(op, x_shape, weights, groups, window, attributes, seed):
    rng = np.random.default_rng(seed)
    channels = weights.shape[1] if op == "ConvTranspose" else weights.shape[0]
    scales = rng.uniform(1e-3, 4e-3, channels).astype(np.float32)
    bias = rng.integers(-3000, 3000, channels).astype(np.int32)
    program = ek.compile(model(op, x_shape, weights, scales, bias, group=groups, **attributes), allow_host=False)
    assert not {step.kind for step in program.steps} & {"CONV_F32", "CONV_TRANSPOSE_F32", "DEPTHWISE_F32", "DEQUANTIZE"}
    x = rng.integers(0, 256, x_shape, dtype=np.uint8)
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    acc = sums(op, x.astype(np.int64) - X_ZERO, weights, window, groups, found.shape[2:])
    each = (slice(None), *[None] * len(window))
    multiplier = (np.float64(X_SCALE) * scales.astype(np.float64) / np.float64(Y_SCALE)).astype(np.float32)
    want = requantize((acc + bias[each]).astype(np.int32), multiplier[each], Y_ZERO, -Y_ZERO, 255 - Y_ZERO)
    np.testing.assert_array_equal(found, want)


def test_quantize_says_which_convolution_stays_float():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("ConvTranspose", ["a", "each"], ["b"], group=4, strides=[2, 2]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(4, 4, 1, 1)), "each": rng.normal(size=(4, 1, 2, 2))}
    net = build(nodes, {name: array.astype(np.float32) for name, array in constants.items()}, [1, 4, 5, 6])
    x = rng.normal(size=(1, 4, 5, 6)).astype(np.float32)
    with pytest.warns(EdgekernWarning, match="ConvTranspose 'b' stays float32: no kernel on 8 bits"):
        qdq = ek.quantize(net, ranges_of(net, x))
    kinds = [step.kind for step in ek.compile(qdq, allow_host=False).steps]
    assert kinds.count("CONV") == 2
    assert "CONV_TRANSPOSE_F32" in kinds


@st.composite
def windows(draw, ranks, most_side, most_kernel):
    rank = draw(ranks)
    sides = [draw(st.integers(1, most_side)) for _ in range(rank)]
    kernel = [draw(st.integers(1, most_kernel)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel * 2, dilation * 2, strict=True)]
    return sides, kernel, stride, dilation, pads


@given(
    window=windows(st.integers(1, 2), 5, 4),
    in_c=st.sampled_from([1, 3, 8, 17]),
    out_c=st.sampled_from([1, 5, 24]),
    extra=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_a_transposed_convolution_is_exact(window, in_c, out_c, extra, seed):
    sides, kernel, stride, dilation, pads = window
    rank, reach = len(sides), [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    extra = [min(extra, s - 1) for s in stride]
    after = [
        (n - 1) * s + r + e - pads[at] - pads[rank + at]
        for at, (n, s, r, e) in enumerate(zip(sides, stride, reach, extra, strict=True))
    ]
    if min(after) < 1:
        return
    weights = np.random.default_rng(seed).integers(-127, 128, (in_c, out_c, *kernel), dtype=np.int8)
    attributes = {"strides": stride, "dilations": dilation, "pads": pads, "output_padding": extra}
    axes = list(zip(stride, dilation, pads[:rank], strict=True))
    assert_exact("ConvTranspose", [2, in_c, *sides], weights, 1, axes, attributes, seed)


@given(
    window=windows(st.sampled_from([1, 3]), 6, 3),
    channels=st.sampled_from([(1, 1, 4), (1, 6, 5), (2, 6, 4), (6, 6, 6), (1, 16, 20)]),
    seed=st.integers(0, 99),
)
def test_sounds_and_volumes_are_exact(window, channels, seed):
    (sides, kernel, stride, dilation, pads), (groups, in_c, out_c) = window, channels
    rank = len(sides)
    spans = [side + pads[at] + pads[rank + at] for at, side in enumerate(sides)]
    if (rank == 3 and groups > 1) or any(
        span < (k - 1) * d + 1 for span, k, d in zip(spans, kernel, dilation, strict=True)
    ):
        return
    weights = np.random.default_rng(seed).integers(-127, 128, (out_c, in_c // groups, *kernel), dtype=np.int8)
    attributes = {"strides": stride, "dilations": dilation, "pads": pads}
    axes = list(zip(stride, dilation, pads[:rank], strict=True))
    assert_exact("Conv", [2, in_c, *sides], weights, groups, axes, attributes, seed)


@pytest.mark.parametrize(
    ("op", "shape", "weights", "group", "why"),
    [
        ("ConvTranspose", [1, 4, 5, 5], (4, 1, 2, 2), 4, "a grouped ConvTranspose has no kernel"),
        ("ConvTranspose", [1, 4, 5, 5, 5], (4, 3, 2, 2, 2), 1, "over three dimensions has no kernel"),
        ("Conv", [1, 4, 5, 5, 5], (4, 2, 2, 2, 2), 2, "a grouped convolution over three dimensions has no kernel"),
    ],
)
def test_what_has_no_integer_kernel_says_so_and_runs_on_floats(op, shape, weights, group, why):
    scales = np.ones(weights[1] if op == "ConvTranspose" else weights[0], np.float32)
    qdq = model(op, shape, np.ones(weights, np.int8), scales, np.zeros(len(scales), np.int32), group=group)
    del qdq.graph.node[2]  # without a bias
    qdq.graph.node[2].input.pop()
    program = ek.compile(qdq, allow_host=False)
    [place] = [place for place in program.nodes if place.operator == op]
    assert place.runs == "float32"
    assert why in place.reason
