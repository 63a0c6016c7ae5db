"""What quantize adds has names that are free: those of the model stay what they are."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekern as ek

from float_models import FLOAT, build, f32, ranges_of, run, sqnr_db

node = helper.make_node


@pytest.mark.parametrize("outputs", [("y",), ("y", "taken")], ids=len)
@pytest.mark.parametrize("name", ["w_quantized", "w_quantized_scale", "w_dequantized", "x_zero_point", "x_quantized"])
def test_tensors_and_nodes_keep_names_that_we_would_give(name, outputs, rng):
    """It ended in ValueError: Cannot rename initializer, or the user's tensor became x_zero_point_1."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name=f"{name}_QuantizeLinear"),
        node("Relu", ["h"], [name]),
        node("MatMul", [name, "w"], ["y"]),
    ]
    outputs = tuple(name if output == "taken" else output for output in outputs)
    model, x = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [4, 6], outputs), f32(rng.normal(size=(4, 6)))
    graph = ek.quantize(model, ranges_of(model, x)).graph
    tensors = [
        *(output for node in graph.node for output in node.output),
        *(tensor.name for tensor in graph.initializer),
    ]
    nodes = [node.name for node in graph.node if node.name]
    assert name in tensors
    assert f"{name}_QuantizeLinear" in nodes
    assert len(set(tensors)) == len(tensors)
    assert len(set(nodes)) == len(nodes)


def test_the_numbers_stay_where_names_look_like_ours(rng):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["w_quantized"])]
    nodes.append(node("MatMul", ["w_quantized", "w"], ["y"]))
    model, x = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [4, 6]), f32(rng.normal(size=(4, 6)))
    assert sqnr_db(run(model, x)[0], run(ek.quantize(model, ranges_of(model, x)), x)[0]) > 30


def test_new_names_hide_none_of_a_body(rng):
    """A body may not name what is named around it: its x_scale was renamed."""
    bodies = [
        helper.make_graph(
            [node(op, ["y"], ["x_scale"]), node("Neg", ["x_scale"], ["e"])],
            op,
            [],
            [helper.make_tensor_value_info("e", FLOAT, None)],
        )
        for op in ("Abs", "Relu")
    ]
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("If", ["c"], ["z"], then_branch=bodies[0], else_branch=bodies[1])]
    model, x = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [4, 6], ("y", "z")), f32(rng.normal(size=(4, 6)))
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    ranges = ek.Calibrator(model, progress=False).collect({"x": x, "c": np.array(True)}).compute_ranges()
    graph = ek.quantize(model, ranges).graph
    [branching] = [node for node in graph.node if node.op_type == "If"]
    inner = {output for attribute in branching.attribute for node in attribute.g.node for output in node.output}
    assert inner == {"x_scale", "e"}
    assert inner.isdisjoint(tensor.name for tensor in graph.initializer)
