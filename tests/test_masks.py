"""What a place among others decides: triangles, one-hot vectors, the largest of a row."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from test_float_nets import assert_native, kinds, net


@pytest.mark.parametrize("k", [None, 0, -2, 2, 9, -9, 2**40])
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL])
def test_a_triangle_is_kept_and_the_rest_is_zero_even_where_it_was_none(k, upper, kind):
    names, weights = (["x"], {}) if k is None else (["x", "k"], {"k": np.array(k)})
    model = net([helper.make_node("Trilu", names, ["y"], upper=upper)], weights, {"x": ((2, 4, 5), kind)}, ["y"])
    program = ek.compile(model, allow_host=False)
    x = np.full((2, 4, 5), np.inf, np.float32) if kind == TensorProto.FLOAT else np.ones((2, 4, 5))
    x = x.astype(helper.tensor_dtype_to_np_dtype(kind))
    [y] = ek.InferenceSession(program).run(None, {"x": x})
    np.testing.assert_array_equal(y, (np.triu if upper else np.tril)(x, max(-9, min(k or 0, 9))))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT])
@pytest.mark.parametrize("values", [np.float32([-0.5, 2]), np.array([3, 2**40 + 1])])
def test_one_hot_vectors_of_indices_from_either_end_and_of_none(axis, kind, values):
    node = helper.make_node("OneHot", ["x", "depth", "values"], ["y"], axis=axis)
    model = net([node], {"depth": np.array(4), "values": values}, {"x": ((2, 3), kind)}, ["y"])
    indices = np.array([[0, 3, -4], [-1, 4, 2**20]])
    session = ek.InferenceSession(ek.compile(model, allow_host=False))
    [y] = session.run(None, {"x": indices.astype(helper.tensor_dtype_to_np_dtype(kind))})
    hot = (indices[..., None] == np.arange(4)) | (indices[..., None] == np.arange(-4, 0))
    np.testing.assert_array_equal(y, np.moveaxis(np.where(hot, values[1], values[0]), -1, axis), strict=True)


def test_the_first_of_the_largest_is_the_hard_maximum():
    model = net([helper.make_node("Hardmax", ["x"], ["y"], axis=1)], {}, {"x": (2, 4, 3)}, ["y"])
    x = np.random.default_rng(0).integers(0, 2, (2, 4, 3)).astype(np.float32)
    assert kinds(assert_native(model, feeds={"x": x})) == ["ARG_EXTREME", "MAP_I64"]


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.3, beta=0.7, bias=1.5), (2, 7, 5, 3)),
        (helper.make_node("LRN", ["x"], ["y"], size=9), (1, 3, 6, 2)),
        (helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, -1]), (3, 4, 5)),
        (helper.make_node("Shrink", ["x"], ["y"], lambd=0.4, bias=0.3), (3, 4)),
    ],
)
def test_rare_norms_and_functions_have_onnxruntimes_numbers(node, shape):
    assert_native(net([node], {}, {"x": shape}, ["y"]))


def test_diagonals_and_values_that_are_data_are_refused_by_name():
    trilu = net([helper.make_node("Trilu", ["x", "k"], ["y"])], {}, {"x": (3, 3), "k": ((), TensorProto.INT64)}, ["y"])
    hot = helper.make_node("OneHot", ["x", "depth", "values"], ["y"])
    one_hot = net([hot], {"depth": np.array(4)}, {"x": ((2,), TensorProto.INT64), "values": (2,)}, ["y"])
    for model, message in ((trilu, "its diagonal is not constant"), (one_hot, "its two values are not constant")):
        with pytest.raises(ek.errors.HostStepError, match=message):
            ek.compile(model, allow_host=False)


def test_a_unit_matrix_of_a_known_shape_is_a_constant():
    nodes = [helper.make_node("EyeLike", ["x"], ["eye"], k=1), helper.make_node("MatMul", ["x", "eye"], ["y"])]
    assert kinds(assert_native(net(nodes, {}, {"x": (4, 4)}, ["y"]))) == ["GEMM_F32"]
