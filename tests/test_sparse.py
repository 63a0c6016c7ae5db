"""Sparse initializers and sparse Constants are dense weights, as onnxruntime has them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern.calibration import model_hash, observed_tensors
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import load_model

from float_models import FLOAT, build, f32, ranges_of, run, sqnr_db

node = helper.make_node


def sparse(name, dense, *, by_axis=False):
    """Its values lie at flat places, or at one index an axis."""
    places = np.argwhere(dense) if by_axis else np.flatnonzero(dense)
    values = numpy_helper.from_array(dense[dense != 0], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), ""), dense.shape)


def weights(rng, side=6):
    values = f32(rng.normal(size=(side, side)))
    return np.where(np.abs(values) > 0.8, values, np.float32(0))


def two_layers(dense, sparse_tensor):
    nodes = [node("MatMul", ["x", "v"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = build(nodes, {"v": np.eye(dense.shape[0], dtype=np.float32)}, [4, dense.shape[0]])
    model.graph.sparse_initializer.append(sparse_tensor)
    return model


@pytest.mark.parametrize("by_axis", [False, True])
@pytest.mark.parametrize("side", [6, 40], ids=["small", "aside"])
def test_a_sparse_initializer_is_a_weight(side, by_axis, rng):
    """quantize dropped it: its file lacked 'w', and no runtime loaded it."""
    dense = weights(rng, side)
    model = two_layers(dense, sparse("w", dense, by_axis=by_axis))
    before, x = model.SerializeToString(), f32(rng.normal(size=(4, side)))
    qdq = ek.quantize(model, ranges_of(model, x))
    assert model.SerializeToString() == before
    [theirs] = run(qdq, x)
    assert sqnr_db(run(model, x)[0], theirs) > 25
    program = ek.compile(qdq, allow_host=False)
    assert sqnr_db(theirs, ek.InferenceSession(program).run(None, {"x": x})[0]) > 30


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_a_sparse_constant_is_a_weight(rng):
    """It was NotImplementedError."""
    dense, x = weights(rng), f32(rng.normal(size=(4, 6)))
    nodes = [node("Constant", [], ["w"], sparse_value=sparse("", dense)), node("MatMul", ["x", "w"], ["h"])]
    model = build([*nodes, node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])], {}, [4, 6])
    expected = np.maximum(x @ dense, 0) @ dense
    assert sqnr_db(expected, run(ek.quantize(model, ranges_of(model, x)), x)[0]) > 25
    assert sqnr_db(expected, ek.InferenceSession(ek.compile(model)).run(None, {"x": x})[0]) > 100


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_bodies_and_functions_hold_sparse_tensors(rng):
    dense, x = weights(rng), f32(rng.normal(size=(4, 6)))
    result = helper.make_tensor_value_info("e", FLOAT, None)
    held = helper.make_graph([node("MatMul", ["x", "u"], ["e"])], "held", [], [result])
    held.sparse_initializer.append(sparse("u", dense))
    written = [node("Constant", [], ["u"], sparse_value=sparse("", -dense)), node("MatMul", ["x", "u"], ["e"])]
    written = helper.make_graph(written, "written", [], [result])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inside = [node("Constant", [], ["u"], sparse_value=sparse("", dense)), node("MatMul", ["a", "u"], ["b"])]
    model = build(
        [node("If", ["c"], ["z"], then_branch=held, else_branch=written), node("F", ["z"], ["y"], domain="local")],
        {},
        [4, 6],
    )
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], inside, opsets))
    model.opset_import.append(opsets[1])
    session = ek.InferenceSession(ek.compile(model))
    for condition, sign in ((True, 1), (False, -1)):
        [ours] = session.run(None, {"x": x, "c": np.array(condition)})
        np.testing.assert_allclose(ours, sign * (x @ dense @ dense), atol=1e-5)


def test_an_old_model_lists_its_sparse_initializer_as_an_input(rng):
    dense = weights(rng, 40)
    model = two_layers(dense, sparse("w", dense))
    model.opset_import[0].version = 11
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, dense.shape))
    assert observed_tensors(model) == ["x", "h", "r", "y"]


def test_a_sparse_model_is_the_same_however_it_is_given(rng, tmp_path):
    dense = weights(rng, 40)
    model = two_layers(dense, sparse("w", dense))
    onnx.save(model, tmp_path / "model.onnx")
    assert len({model_hash(given) for given in (model, model.SerializeToString(), tmp_path / "model.onnx")}) == 1
    loaded = load_model(model)
    assert not loaded.graph.sparse_initializer
    [stored] = [tensor for tensor in loaded.graph.initializer if tensor.name == "w"]
    np.testing.assert_array_equal(numpy_helper.to_array(stored), dense)


def test_a_few_bytes_that_ask_for_terabytes_are_refused_by_name():
    tensor = sparse("w", np.eye(2, dtype=np.float32))
    tensor.dims[:] = [1 << 20, 1 << 20]
    with pytest.raises(ArgumentValueError, match=r"compile: model has the sparse tensor 'w' of \[1048576, 1048576\]"):
        ek.compile(two_layers(np.eye(2, dtype=np.float32), tensor))


@pytest.mark.parametrize("place", [36, -1])
def test_a_value_outside_its_tensor_is_refused(place):
    tensor = sparse("w", np.eye(6, dtype=np.float32))
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array([0, 7, 14, 21, 28, place], np.int64), ""))
    with pytest.raises(ArgumentValueError, match="is not valid ONNX"):
        ek.compile(two_layers(np.eye(6, dtype=np.float32), tensor))
