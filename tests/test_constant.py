"""Constants that are outputs: a step of their own copies them, to the bit, whatever their type."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

import edgekern as ek
from edgekern.errors import EdgekernWarning

from float_models import all_the_way, build, f32
from graphs import Graph, onnxruntime_session
from reference.program import run_program

node = helper.make_node

ANCHORS = np.array([[0.5, -0.0, np.inf], [np.nan, 1e-45, -3.25]], np.float32)
CONSTANTS = {
    "float32": f32(np.linspace(-1, 1, 3000)).reshape(50, 60),
    "int64": np.arange(6).reshape(2, 3),
    "int32": np.arange(3, dtype=np.int32),
    "bool": np.array([True, False]),
    "uint8": np.arange(5, dtype=np.uint8),
    "int8": np.arange(-2, 3, dtype=np.int8),
    "float64": np.arange(3.0),
    "scalar": np.float32(3),
    "nothing": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("kind", CONSTANTS)
@pytest.mark.parametrize("through", ["", "Identity", "Constant"])
def test_a_constant_is_an_output_like_any_other(kind, through, rng):
    """Anchors beside boxes: compile refused the whole model, output 'c' does not depend on the inputs."""
    nodes, weights, name = [node("Gemm", ["x", "w"], ["y"])], {"w": f32(rng.normal(size=(6, 6)))}, "c"
    if through == "Constant":
        nodes.append(node("Constant", [], ["c"], value=numpy_helper.from_array(np.asarray(CONSTANTS[kind]), "c")))
    else:
        weights["c"] = CONSTANTS[kind]
    if through == "Identity":
        nodes.append(node("Identity", ["c"], ["d"]))
        name = "d"
    model = build(nodes, weights, [2, 6], ("y", name))
    model.graph.output[1].Clear()
    model.graph.output[1].name = name
    feeds = {"x": f32(rng.normal(size=(2, 6)))}
    pairs, program = all_the_way(model, feeds, allow_host=False)
    np.testing.assert_array_equal(pairs[1][0], CONSTANTS[kind])
    reference = run_program(program.index, program.container.blobs, [feeds["x"]])
    np.testing.assert_array_equal(reference[1], CONSTANTS[kind])
    assert {row.tensor for row in ek.compare(model, program, feeds).rows} == {"x", "y"}


@pytest.mark.usefixtures("no_float_kernels")
def test_a_constant_output_hides_from_nobody_that_the_model_is_not_quantized(rng):
    """The sentence was missing: a constant was taken for a kernel's work."""
    nodes = [node("Gemm", ["x", "w"], ["y"]), node("Identity", ["w"], ["d"])]
    model = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [2, 6], ("y", "d"))
    model.graph.output[1].type.tensor_type.ClearField("shape")
    with pytest.warns(EdgekernWarning, match="nothing of the model runs on a kernel .*: it is not quantized"):
        ek.compile(model)


def test_a_weight_is_an_output_in_float(rng):
    """Tied weights: what is multiplied is int8, what is returned is what the file has."""
    w = f32(rng.normal(size=(6, 6)))
    nodes = [node("Gemm", ["x", "w"], ["h"], transB=1), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    pairs, program = all_the_way(build(nodes, {"w": w}, [2, 6], ("y", "w")), {"x": f32(rng.normal(size=(2, 6)))})
    np.testing.assert_array_equal(pairs[1][0], w)
    out = np.empty_like(w)
    session = ek.InferenceSession(program)
    session.run(["w"], {"x": f32(rng.normal(size=(2, 6)))}, out=[out])
    np.testing.assert_array_equal(out, w)


def test_a_dequantized_weight_is_an_output():
    g = Graph()
    y = g.op("MatMul", g.qdq(g.input("x", (2, 33))), w := g.weights(33, 20, axis=1))
    model = g.model(y, w)
    expected = onnxruntime_session(model, optimized=False).run([w], {"x": np.zeros((2, 33), np.float32)})[0]
    session = ek.InferenceSession(ek.compile(model, allow_host=False))
    np.testing.assert_array_equal(session.run([w], {"x": np.zeros((2, 33), np.float32)})[0], expected)


def golden_program():
    g = Graph()
    return ek.compile(g.model(g.qdq(g.input("x", (2, 3))), g.op("Identity", g.const(ANCHORS))), allow_host=False)


def test_golden_bytes(isa):
    result = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x": np.ones((2, 3), np.float32)})[1]
    assert result.tobytes() == ANCHORS.tobytes()
    assert "move" in golden_program().paths(isa=isa)


def test_a_constant_costs_its_bytes_once_in_the_file():
    w = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    g = Graph()
    twice = [g.op("Identity", g.const(w)) for _ in "ab"]
    program = ek.compile(g.model(g.qdq(g.input("x", (2, 3))), *twice), allow_host=False)
    assert w.nbytes < program.nbytes < w.nbytes + 8192
