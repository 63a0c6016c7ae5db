"""Operators that ONNX defines by others: they are compiled as those others, in whatever opset the model is."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from test_float_nets import assert_native, net

RNG = np.random.default_rng(3)


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
