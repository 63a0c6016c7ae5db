"""No function recurses over the depth of a graph, and none takes the square of its length."""

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgekern as ek
from edgekern.graph.formulas import formulas
from edgekern.graph.values import quantized_weights

from float_models import build, f32, helper, ranges_of, sqnr_db
from graphs import Graph, onnxruntime_session
from qdq_models import conv, image

pytestmark = pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
node = helper.make_node
DEEP = 5000
PAST_RECURSION = 2000  # twice what Python allows


def weights(rng, gain=1.0):
    """Of a 1x1 Conv over four channels that keeps about the size of what it gets."""
    return f32(gain * np.linalg.qr(rng.normal(size=(4, 4)))[0].reshape(4, 4, 1, 1))


def through_all(model, x, **options):
    """What the float model gives by onnxruntime, and what its program gives."""
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    program = ek.compile(ek.quantize(model, ranges_of(model, x, method="max")), **options)
    return expected, ek.InferenceSession(program).run(None, {"x": x})[0], program


@pytest.mark.usefixtures("no_float_kernels")
def test_5000_layers_with_host_steps_among_them():
    """SiLU blocks with their residuals, and an operator for the host behind each 125 of them."""
    rng, nodes, constants, x = np.random.default_rng(0), [], {"half": np.float32(0.5)}, "x"
    for i in range(DEEP // 5):
        constants[f"w{i}"] = weights(rng, 0.1)
        nodes += [
            node("Conv", [x, f"w{i}"], [f"c{i}"]),
            node("Sigmoid", [f"c{i}"], [f"s{i}"]),
            node("Mul", [f"c{i}", f"s{i}"], [f"m{i}"]),
            node("Add", [x, f"m{i}"], [f"a{i}"]),
            node("LpNormalization" if i % 125 == 124 else "Relu", [f"a{i}"], [f"r{i}"]),
        ]
        x = f"r{i}"
    nodes.append(node("Conv", [x, "w0"], ["y"]))
    assert len(nodes) > DEEP
    model = build(nodes, constants, [1, 4, 4, 4])
    expected, found, program = through_all(model, f32(rng.uniform(0.5, 1, (1, 4, 4, 4))))
    assert len(program.host_steps) == DEEP // 5 // 125
    assert sqnr_db(expected, found) > 10


@pytest.mark.parametrize("count", [60, 400])
def test_silu_after_silu_is_one_table(count):
    """Each is read twice: paths through such a chain double with every one."""
    rng, nodes, x = np.random.default_rng(1), [node("Conv", ["x", "w"], ["c"])], "c"
    for i in range(count):
        nodes += [node("Sigmoid", [x], [f"s{i}"]), node("Mul", [x, f"s{i}"], [f"m{i}"])]
        nodes += [node("Mul", [f"m{i}", "few"], [f"f{i}"]), node("Add", [x, f"f{i}"], [f"a{i}"])]
        x = f"a{i}"
    nodes.append(node("Conv", [x, "w"], ["y"]))
    model = build(nodes, {"w": weights(rng), "few": np.float32(0.01)}, [1, 4, 4, 4])
    expected, found, program = through_all(model, f32(rng.normal(size=(1, 4, 4, 4))), allow_host=False)
    assert [step.kind for step in program.steps].count("LOOKUP") == 1
    assert sqnr_db(expected, found) > 25


@pytest.mark.parametrize("kind", ["Identity", "Neg", "Reshape"])
def test_a_chain_of_5000_constants(kind):
    """Weights behind as many nodes as one likes."""
    rng, nodes, w = np.random.default_rng(2), [], "w"
    for i in range(DEEP):
        nodes.append(node(kind, [w, "shape"] if kind == "Reshape" else [w], [f"w{i}"]))
        w = f"w{i}"
    nodes.append(node("Conv", ["x", w], ["y"]))
    model = build(nodes, {"w": weights(rng), "shape": np.array([4, 4, 1, 1])}, [1, 4, 4, 4])
    expected, found, _ = through_all(model, f32(rng.normal(size=(1, 4, 4, 4))), allow_host=False)
    assert sqnr_db(expected, found) > 35


def test_a_chain_of_2000_moves():
    """Each is a view of the one before it, and shares its scale."""
    rng, nodes, x = np.random.default_rng(3), [node("Conv", ["x", "w"], ["c"])], "c"
    for i in range(PAST_RECURSION):
        nodes.append(node("Reshape", [x, "flat" if i % 2 == 0 else "image"], [f"r{i}"]))
        x = f"r{i}"
    nodes.append(node("Conv", [x, "w"], ["y"]))
    shapes = {"flat": np.array([1, 64]), "image": np.array([1, 4, 4, 4])}
    model = build(nodes, {"w": weights(rng), **shapes}, [1, 4, 4, 4])
    expected, found, program = through_all(model, f32(rng.normal(size=(1, 4, 4, 4))), allow_host=False)
    assert len(program.steps) < 10
    assert sqnr_db(expected, found) > 35


@pytest.mark.usefixtures("no_float_kernels")
def test_a_chain_of_2000_nodes_on_the_host_is_one_host_step():
    rng, nodes, x = np.random.default_rng(4), [node("Conv", ["x", "w"], ["c"])], "c"
    for i in range(PAST_RECURSION):
        nodes.append(node("LpNormalization", [x], [f"n{i}"], axis=1))
        x = f"n{i}"
    model = build([*nodes, node("Conv", [x, "w"], ["y"])], {"w": weights(rng)}, [1, 4, 4, 4])
    expected, found, program = through_all(model, f32(rng.normal(size=(1, 4, 4, 4))))
    [step] = program.host_steps
    assert len(step.operators) == PAST_RECURSION
    assert sqnr_db(expected, found) > 30


def test_a_dense_block_of_1000_concats_shares_one_scale():
    rng, nodes, x, shapes = np.random.default_rng(5), [node("Conv", ["x", "w"], ["c"])], "c", {}
    for i in range(1000):
        nodes += [
            node("MaxPool", [x], [f"p{i}"], kernel_shape=[1, 1]),
            node("Slice", [f"p{i}", "zero", "two", "one"], [f"h{i}"]),
            node("Concat", [f"h{i}", f"h{i}"], [f"d{i}"], axis=1),
        ]
        x = f"d{i}"
    shapes = {"zero": np.array([0]), "two": np.array([2]), "one": np.array([1])}
    model = build([*nodes, node("Conv", [x, "w"], ["y"])], {"w": weights(rng), **shapes}, [1, 4, 4, 4])
    x = f32(rng.normal(size=(1, 4, 4, 4)))
    qdq = ek.quantize(model, ranges_of(model, x, method="max"))
    scales = {n.input[1] for n in qdq.graph.node if n.op_type == "QuantizeLinear"}
    assert len(scales) == 2  # of x, and of all that is moved


def test_weights_behind_5000_transposes_are_seen():
    g = Graph()
    w = g.weights(6, 6, axis=0)
    for _ in range(DEEP):
        w = g.op("Transpose", w, perm=[1, 0])
    model = ir.from_proto(g.model(g.op("MatMul", image(g, 2, 6), w)))
    found = quantized_weights(model.graph.outputs[0].producer().inputs[1])
    assert not isinstance(found, str)
    np.testing.assert_array_equal(found.values, model.graph.initializers["c_1"].const_value.numpy())


def test_flattened_features_pass_5000_tables_in_any_order():
    """What reads a flattened image decides whether its bytes move: weights behind it can be permuted instead."""
    g = Graph()
    y = g.op("Flatten", g.qdq(conv(g, image(g), 6, 8, 3, 3), 0.2, 0))
    for i in range(DEEP // 2):
        y = g.qdq(g.op("Relu", y), 0.2 if i % 2 else 0.21, 0)
    model = g.model(g.op("Gemm", y, g.weights(210, 10, axis=1), g.vector(10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = ek.compile(model, allow_host=False)
    assert "TRANSPOSE" not in [step.kind for step in program.steps]


def test_formulas_that_end_one_after_the_other_are_found_in_one_go():
    """Each sum is of two results, so the earlier one has to be a tensor of its own, which ends the one before it."""
    nodes = [node("Conv", ["x", "w"], ["n0"])]
    for i in range(DEEP // 2):
        nodes += [node("Sigmoid", [f"n{i}"], [f"n{i + 1}"]), node("Add", [f"n{i + 1}", f"n{i}"], [f"s{i}"])]
    nodes += [node("Conv", [name, "w"], [f"{name}_read"]) for name in (f"n{DEEP // 2}", "s0", f"s{DEEP // 2 - 1}")]
    model = build(nodes, {"w": weights(np.random.default_rng(6))}, [1, 4, 4, 4], outputs=("s0_read",))
    found = formulas(ir.from_proto(onnx.shape_inference.infer_shapes(model)).graph)
    assert {len(formula.nodes) for formula in found.values()} == {1}
    assert len(found) == DEEP // 2
