"""Operators that ONNX defines by others: they are compiled as those others, in whatever opset the model is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import edgekern as ek
from edgekern import _core
from test_float_nets import assert_native, kinds, net

RNG = np.random.default_rng(3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_attention_is_one_step_on_heads_where_they_lie(data):
    batch, groups, each, rows, keys, depth, width = (data.draw(st.integers(1, 4)) for _ in range(7))
    flat, causal = data.draw(st.booleans()), data.draw(st.booleans())
    heads, names, attributes = groups * each, ["q", "k", "v"], {"is_causal": int(causal)}
    shapes = {"q": (batch, heads, rows, depth), "k": (batch, groups, keys, depth), "v": (batch, groups, keys, width)}
    if flat:
        shapes = {name: (b, n, h * d) for name, (b, h, n, d) in shapes.items()}
        attributes |= {"q_num_heads": heads, "kv_num_heads": groups}
    feeds = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sides = [batch, heads, rows, keys]
    constants, masked = {}, data.draw(st.sampled_from([None, np.bool_, np.float32]))
    if masked is not None:
        # A causal order is that of all rows: of a mask with one, the reference takes the first.
        shape = [data.draw(st.sampled_from([1, side])) for side in sides[:2]] + [rows, keys]
        shape[2] = rows if causal else data.draw(st.sampled_from([1, rows]))
        mask = RNG.random(shape[data.draw(st.integers(0, 2)) :]) < 0.6
        mask = mask if masked is np.bool_ else np.where(mask, RNG.normal(size=mask.shape), -np.inf).astype(np.float32)
        names.append("m")
        (constants if data.draw(st.booleans()) else feeds)["m"] = mask
    node = helper.make_node("Attention", names, ["y"], scale=0.7, **attributes)
    kinds_of = {name: (array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in feeds.items()}
    model = net([node], constants, kinds_of, ["y"], opset=23)
    program = ek.compile(model, allow_host=False)
    found = [ek.InferenceSession(program, isa=isa).run(None, feeds)[0] for isa in _core.available_isas()]
    want = ReferenceEvaluator(model).run(None, feeds)[0]
    np.testing.assert_allclose(found[0], want, rtol=0, atol=2e-5)
    assert all(np.array_equal(found[0], other) for other in found)
    assert set(kinds(program)) <= {"ATTENTION_F32", "CONSTANT", "MAP", "REDUCE", "TRANSPOSE"}
    assert "MAP" not in kinds(program) or masked is not None


def test_attention_with_causal_order_grouped_heads_and_a_cache():
    node = helper.make_node(
        "Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "keys", "values"], is_causal=1, softcap=3.0
    )
    shapes = {"q": (1, 4, 3, 8), "k": (1, 2, 3, 8), "v": (1, 2, 3, 8), "pk": (1, 2, 5, 8), "pv": (1, 2, 5, 8)}
    assert_native(net([node], {}, shapes, ["y", "keys", "values"], opset=23))


def test_a_definition_may_use_what_has_one_itself():
    nodes = [
        helper.make_node("AffineGrid", ["theta", "size"], ["grid"], align_corners=1),
        helper.make_node("CastLike", ["n", "grid"], ["f"]),
        helper.make_node("Mul", ["grid", "f"], ["y"]),
    ]
    inputs = {"theta": (2, 2, 3), "n": ((2,), TensorProto.INT64)}
    assert_native(net(nodes, {"size": np.array([2, 1, 4, 5])}, inputs, ["y"]))


def test_names_of_a_definition_never_meet_those_of_the_model():
    nodes = [
        helper.make_node("RotaryEmbedding", ["x", "cosines", "sines", "at"], ["a"], num_heads=2),
        helper.make_node("RotaryEmbedding", ["a", "cosines", "sines", "at"], ["Real__1"], num_heads=2, interleaved=1),
        helper.make_node("Add", ["Real__1", "x"], ["y"]),
    ]
    angles = RNG.uniform(0, 6, (9, 4)).astype(np.float32)
    weights = {"cosines": np.cos(angles), "sines": np.sin(angles), "at": np.array([[0, 3, 8]])}
    assert_native(net(nodes, weights, {"x": (1, 3, 16)}, ["y"], opset=23))


def test_one_whose_definition_does_not_compile_says_what_in_it_does_not():
    node = helper.make_node("CausalConvWithState", ["x", "w"], ["y", "state"])
    model = net([node], {}, {"x": (1, 4, 9), "w": (4, 1, 3)}, ["y", "state"], opset=27)
    with pytest.raises(ek.errors.HostStepError, match="Conv 'y': weights that are not constant"):
        ek.compile(model, allow_host=False)
