"""Operators of com.microsoft in a float model: they stay float, and what lies around them becomes 8-bit."""

import numpy as np
import pytest
from onnx import helper

import edgekern as ek
from edgekern.calibration import observed_tensors

from float_models import STATIC, build, f32, ranges_of, run, sqnr_db

node = helper.make_node

# What each reads behind the first result, and its attributes.
OPERATORS = {
    "Gelu": ((), {}),
    "QuickGelu": ((), {}),
    "FastGelu": (("g",), {}),
    "BiasGelu": (("g",), {}),
    "SkipLayerNormalization": (("x", "g", "b"), {}),
    "SkipSimplifiedLayerNormalization": (("x", "g"), {}),
    "MultiHeadAttention": (("h", "h"), {"num_heads": 2}),
    "SimplifiedLayerNormalization": (("g",), {"axis": -1}),
}


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("op", OPERATORS)
def test_what_follows_an_operator_that_onnx_does_not_know_is_observed_and_quantized(op, rng):
    """Its ranges lacked 'r', which the Calibrator refused to observe: onnx infers no type behind such a node."""
    operands, attributes = OPERATORS[op]
    domain = "" if op == "SimplifiedLayerNormalization" else "com.microsoft"  # onnxruntime has it there alone
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node(op, ["h", *operands], ["k"], domain=domain, **attributes),
        node("MatMul", ["k", "w"], ["l"]),
        node("Relu", ["l"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    shapes = {"w": (8, 8), "g": (8,), "b": (8,)}
    model = build(nodes, {name: f32(rng.normal(size=shape) / 3) for name, shape in shapes.items()}, [1, 4, 8])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output[0].ClearField("type")
    assert observed_tensors(model) == ["x", "h", "k", "l", "r", "y"]
    x = f32(rng.normal(size=(1, 4, 8)))
    qdq = ek.quantize(model, ranges_of(model, x), STATIC)
    assert {"x", "k", "r"} <= {node.input[0] for node in qdq.graph.node if node.op_type == "QuantizeLinear"}
    assert sqnr_db(run(model, x)[0], run(qdq, x)[0]) > 20
    ours = ek.InferenceSession(ek.compile(qdq)).run(None, {"x": x})[0]
    assert sqnr_db(run(qdq, x)[0], ours) > 30


def test_tensors_behind_such_an_operator_may_be_asked_for_by_name(rng):
    nodes = [node("QuickGelu", ["x"], ["g"], domain="com.microsoft"), node("MatMul", ["g", "w"], ["y"])]
    model = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [4, 6])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    calibrator = ek.Calibrator(model, tensors=["y"], progress=False).collect({"x": np.ones((4, 6), np.float32)})
    assert list(calibrator.compute_ranges("max")) == ["y"]
