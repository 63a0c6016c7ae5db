"""Bytes that are pooled, averaged or moved over any number of axes: sums are exact and rounded once, moves exact."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek

from float_models import build, ranges_of
from graphs import onnxruntime_session
from reference.gemm import requantize

X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = np.float32(0.02), 131, np.float32(0.013), 97


def run(op, x, constants=(), *, keeps=False, **attributes):
    """Bytes in, bytes out: DequantizeLinear, the operator, QuantizeLinear, which ``keeps`` the scale or not."""
    scale, zero = (X_SCALE, X_ZERO) if keeps else (Y_SCALE, Y_ZERO)
    quantization = {"xs": X_SCALE, "xz": np.uint8(X_ZERO), "ys": scale, "yz": np.uint8(zero)}
    names = [f"c{number}" for number in range(len(constants))]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        helper.make_node(op, ["xf", *names], ["yf"], **attributes),
        helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [
            numpy_helper.from_array(array, name)
            for name, array in (quantization | dict(zip(names, constants, strict=True))).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    program = ek.compile(model, allow_host=False)
    assert not [step.kind for step in program.steps if "F32" in step.kind or "QUANTIZE" in step.kind]
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    return found


def mean(sums, count):
    multiplier = np.float32(np.float64(X_SCALE) / (np.float64(Y_SCALE) * count))
    return requantize(sums.astype(np.int32), multiplier, Y_ZERO, -Y_ZERO, 255 - Y_ZERO)


def codes(shape, seed):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(shape=SHAPES, data=st.data(), keepdims=st.booleans(), seed=st.integers(0, 99))
def test_a_mean_over_axes_side_by_side_is_exact(shape, data, keepdims, seed):
    first = data.draw(st.integers(0, len(shape) - 1))
    axes = tuple(range(first, data.draw(st.integers(first, len(shape) - 1)) + 1))
    x = codes(shape, seed)
    found = run("ReduceMean", x, [np.array(axes)], keepdims=int(keepdims))
    sums = (x.astype(np.int64) - X_ZERO).sum(axis=axes, keepdims=keepdims)
    np.testing.assert_array_equal(found, mean(sums, math.prod(shape[axis] for axis in axes)))


@given(sides=st.lists(st.integers(1, 5), min_size=1, max_size=3), channels=st.sampled_from([1, 3, 16, 20]))
def test_pooling_over_a_whole_image_of_any_rank_is_exact(sides, channels):
    x = codes((2, channels, *sides), len(sides))
    axes = tuple(range(2, x.ndim))
    sums = (x.astype(np.int64) - X_ZERO).sum(axis=axes, keepdims=True)
    np.testing.assert_array_equal(run("GlobalAveragePool", x), mean(sums, math.prod(sides)))
    np.testing.assert_array_equal(run("GlobalMaxPool", x, keeps=True), x.max(axis=axes, keepdims=True))


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 1, 5), (2, 2, 16), (4, 3, 70)])
def test_windows_over_a_sound_are_exact(kernel, stride, channels):
    x = codes((2, channels, 11), kernel)
    starts = range(0, 11 - kernel + 1, stride)
    windows = np.stack([x[..., at : at + kernel] for at in starts], axis=2)
    sums = (windows.astype(np.int64) - X_ZERO).sum(axis=3)
    attributes = {"kernel_shape": [kernel], "strides": [stride]}
    np.testing.assert_array_equal(run("AveragePool", x, **attributes), mean(sums, kernel))
    np.testing.assert_array_equal(run("MaxPool", x, keeps=True, **attributes), windows.max(axis=3))


MOVES = {
    "DepthToSpace": ((1, 8, 3, 2), [], {"blocksize": 2, "mode": "CRD"}),
    "Expand": ((3, 1, 2), [np.array([2, 3, 4, 2])], {}),
    "Gather": ((2, 5, 3), [np.array([[4, -5], [0, 2]])], {"axis": 1}),
    "Pad by its edges": ((1, 2, 3, 4, 2), [np.array([0, 1, 2, 0, 3, 0, 0, 1, 2, 1])], {"mode": "edge"}),
    "Pad by less": ((2, 5, 4), [np.array([0, -1, 2, 0, 1, -1])], {}),
    "Resize": (
        (1, 2, 3, 5),
        [np.zeros(0, np.float32), np.float32([1, 1, 2, 1.4])],
        {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"},
    ),
    "Slice": ((2, 3, 4, 5, 2), [np.array([-1, 1]), np.array([-9, 4]), np.array([3, 2]), np.array([-2, 2])], {}),
    "SpaceToDepth": ((1, 3, 4, 6), [], {"blocksize": 2}),
    "Tile": ((2, 1, 3), [np.array([1, 3, 2])], {}),
    "Transpose": ((2, 3, 1, 4, 2, 5), [], {"perm": [3, 0, 5, 1, 4, 2]}),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_only_moves_bytes_moves_those_that_onnxruntime_moves(name):
    shape, constants, attributes = MOVES[name]
    op, x = name.split()[0], codes(shape, 3)
    found = run(op, x, constants, keeps=True, **attributes)
    fed = (x.astype(np.float32) - X_ZERO) * X_SCALE
    names = [f"c{number}" for number in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "move",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, at) for at, array in zip(names, constants, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    [want] = onnxruntime_session(model, optimized=False).run(None, {"x": fed})
    np.testing.assert_array_equal((found.astype(np.float32) - X_ZERO) * X_SCALE, want)


def test_bytes_are_gathered_by_indices_that_are_data():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Gather", ["a", "rows"], ["b"], axis=2),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    model = build(nodes, {"w": np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1)}, [1, 16, 5, 3], opset=18)
    model.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.INT64, [4]))
    feeds = {
        "x": np.random.default_rng(0).normal(size=(1, 16, 5, 3)).astype(np.float32),
        "rows": np.array([4, 0, -2, 0]),
    }
    ranges = ek.Calibrator(model).collect(feeds).compute_ranges()
    program = ek.compile(ek.quantize(model, ranges), allow_host=False)
    [step] = [step for step in program.steps if step.kind == "GATHER"]
    assert step.dtype == np.uint8
    [found] = ek.InferenceSession(program).run(None, feeds)
    assert np.abs(found - feeds["x"][:, :, feeds["rows"]]).max() < 0.05


def test_a_mean_that_a_norm_subtracts_stays_with_its_norm():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ReduceMean", ["a", "last"], ["m"]),
        helper.make_node("Sub", ["a", "m"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    constants = {"w": np.eye(16, dtype=np.float32), "last": np.array([-1])}
    model = build(nodes, constants, [4, 16], opset=18)
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    program = ek.compile(ek.quantize(model, ranges_of(model, x)), allow_host=False)
    assert "AVERAGE_POOL" not in [step.kind for step in program.steps]
