"""If, Loop and Scan: what their bodies read of the graph around them is used, whoever looks at the graph."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern.calibration import runner
from edgekern.compiler.passes import try_branches
from edgekern.errors import CompileError, EdgekernWarning, QuantizationError
from edgekern.graph.copies import eliminate_identities
from edgekern.graph.evaluate import evaluate
from edgekern.graph.subgraphs import names_read
from edgekern.quantization import quantize_model

from float_models import build, f32, helper, ranges_of, samples, sqnr_db
from graphs import onnxruntime_session

pytestmark = pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
node = helper.make_node


def value(name, dtype=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def body(*nodes, inputs=(), outputs=None, constants=None):
    """A graph of its own, which gives what its last node makes."""
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    return helper.make_graph(list(nodes), "body", list(inputs), outputs or [value(nodes[-1].output[0])], stored)


def if_(then, otherwise, result="y"):
    return node("If", ["positive"], [result], then_branch=then, else_branch=otherwise)


RNG = np.random.default_rng(0)
# ``positive`` is whether the largest of ``c`` passes ``limit``.
STEM = [
    node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
    node("ReduceMax", ["c"], ["largest"], keepdims=0),
    node("Greater", ["largest", "limit"], ["positive"]),
]
WEIGHTS = {
    "w": f32(RNG.normal(size=(8, 3, 3, 3))),
    "w2": f32(RNG.normal(size=(4, 8, 1, 1))),
    "w3": f32(RNG.normal(size=(8, 8, 3, 3))),
    "q": f32(RNG.normal(size=(8, 1, 1))),
    "flat": f32(RNG.normal(size=8)),
    "large": f32(RNG.normal(size=(8, 8, 8))),
    "image": f32(RNG.normal(size=(1, 8, 8, 8))),
    "shape": np.array([8, 1, 1]),
    "three": np.array(3),
    "axis": np.array([0]),
    **{name: f32(array) for name, array in zip(("g", "b", "m", "v"), RNG.uniform(0.5, 2, (4, 8)), strict=True)},
}
CONSTANT = node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(WEIGHTS["q"]))
RESHAPED = node("Reshape", ["flat", "shape"], ["k"])
IDENTITY = body(node("Identity", ["c"], ["e"]))
RELU = body(node("Relu", ["c"], ["e"]))


def adding(name, **options):
    return body(node("Add", ["c", name], ["t"]), **options)


def loop():
    states = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a")]
    steps = [node("Add", ["a", "k"], ["next"]), node("Identity", ["go"], ["on"])]
    inner = body(*steps, inputs=states, outputs=[value("on", TensorProto.BOOL, []), value("next")])
    return node("Loop", ["three", "", "c"], ["y"], body=inner)


def scan():
    inner = body(
        node("Add", ["state", "k"], ["next"]),
        node("Add", ["next", "row"], ["out"]),
        inputs=[value("state"), value("row")],
        outputs=[value("next"), value("out")],
    )
    return [
        node("Squeeze", ["c", "axis"], ["rows"]),
        node("Scan", ["large", "rows"], ["last", "all"], body=inner, num_scan_inputs=1),
        node("Unsqueeze", ["all", "axis"], ["y"]),
    ]


NESTED = body(if_(adding("k"), body(node("Identity", ["c"], ["d"])), "inner"), node("Relu", ["inner"], ["u"]))
MODELS = {
    "a branch that is an Identity": [if_(body(node("Relu", ["c"], ["t"])), IDENTITY)],
    "a branch that is an Identity of a constant": [if_(body(node("Identity", ["image"], ["t"])), IDENTITY)],
    "a Constant for one branch": [CONSTANT, if_(adding("k"), RELU)],
    "a computed constant for one branch": [RESHAPED, if_(adding("k"), RELU)],
    "an initializer for one branch": [if_(adding("q"), RELU)],
    "a large initializer for one branch": [if_(adding("large"), RELU)],
    "a copied initializer for one branch": [node("Identity", ["q"], ["k"]), if_(adding("k"), RELU)],
    "a branch in a branch": [RESHAPED, if_(NESTED, RELU)],
    "a copy that both branches read": [
        node("Identity", ["c"], ["k"]),
        if_(body(node("Relu", ["k"], ["t"])), body(node("Identity", ["k"], ["e"]))),
    ],
    "weights that a branch reads, too": [if_(body(node("Conv", ["x", "w"], ["t"], pads=[1] * 4)), RELU)],
    "computed weights for both branches": [
        node("Transpose", ["w3"], ["k"], perm=[1, 0, 2, 3]),
        if_(body(node("Conv", ["c", "k"], ["t"], pads=[1] * 4)), body(node("Conv", ["c", "k"], ["e"], pads=[1] * 4))),
    ],
    "weights of a branch's own": [
        if_(body(node("Conv", ["c", "own"], ["t"], pads=[1] * 4), constants={"own": WEIGHTS["w3"]}), IDENTITY)
    ],
    "a normalized tensor that branches read as well": [
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        if_(body(node("Add", ["c", "n"], ["t"])), RELU),
    ],
    "a Conv behind": [if_(body(node("Relu", ["c"], ["t"])), IDENTITY, "u"), node("Conv", ["u", "w2"], ["y"])],
    "names as quantize makes them": [
        if_(
            body(node("Relu", ["c"], ["c_quantized"]), node("Neg", ["c_quantized"], ["w_quantized"])),
            body(node("Identity", ["c"], ["c_dequantized"])),
            "u",
        ),
        node("Conv", ["u", "w2"], ["y"]),
    ],
    "a branch with a tensor that is called like a younger one": [
        if_(body(node("Relu", ["c"], ["y"]), node("Add", ["c", "y"], ["t"])), RELU, "u"),
        node("Add", ["u", "c"], ["s"]),
        node("Identity", ["s"], ["y"]),
    ],
    "a Loop": [RESHAPED, loop()],
    "a Scan": [RESHAPED, *scan()],
}


@pytest.mark.parametrize("piece_bytes", [runner.PIECE_BYTES, 1])
@pytest.mark.parametrize("limit", [0.0, 1e9])
@pytest.mark.parametrize("name", MODELS)
def test_models_with_bodies_give_the_right_numbers(name, limit, piece_bytes, monkeypatch):
    """As float program, as QDQ model and as program, for either branch, calibrated at once and in pieces."""
    monkeypatch.setattr(runner, "PIECE_BYTES", piece_bytes)
    model = build([*STEM, *MODELS[name]], {**WEIGHTS, "limit": np.float32(limit)}, ["n", 3, 8, 8])
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [unquantized] = ek.InferenceSession(ek.compile(model)).run(None, {"x": x})
    assert sqnr_db(expected, unquantized) > 120
    qdq = ek.quantize(model, ranges_of(model, x))
    [by_onnxruntime] = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})
    [found] = ek.InferenceSession(ek.compile(qdq)).run(None, {"x": x})
    assert sqnr_db(expected, by_onnxruntime) > 30
    assert sqnr_db(expected, found) > 30


def test_a_function_with_an_if_reads_a_computed_constant():
    inner = [
        node("ReduceMax", ["a"], ["largest"], keepdims=0),
        node("Constant", [], ["limit"], value_float=0.0),
        node("Greater", ["largest", "limit"], ["positive"]),
        if_(body(node("Add", ["a", "b"], ["t"])), body(node("Identity", ["a"], ["e"])), "o"),
    ]
    calls = [STEM[0], RESHAPED, node("Choose", ["c", "k"], ["f"], domain="own"), node("Conv", ["f", "w2"], ["y"])]
    model = build(calls, WEIGHTS, ["n", 3, 8, 8])
    model.functions.append(helper.make_function("own", "Choose", ["a", "b"], ["o"], inner, model.opset_import[:]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = ek.InferenceSession(ek.compile(ek.quantize(model, ranges_of(model, x)))).run(None, {"x": x})
    assert sqnr_db(expected, found) > 30


def test_outputs_that_are_copies_stay_outputs():
    nodes = [STEM[0], node("Identity", ["c"], ["y"]), node("Identity", ["c"], ["z"]), node("Identity", ["x"], ["same"])]
    model = build(nodes, WEIGHTS, ["n", 3, 8, 8], outputs=("c", "y", "z", "same"))
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    qdq = ek.quantize(model, ranges_of(model, x))
    assert [output.name for output in qdq.graph.output] == ["c", "y", "z", "same"]
    found = ek.InferenceSession(ek.compile(qdq, allow_host=False)).run(None, {"x": x})
    for one, other in zip(onnxruntime_session(model, optimized=False).run(None, {"x": x}), found, strict=True):
        assert sqnr_db(one, other) > 30


def test_a_copied_scalar_stays_one():
    model = build(
        [*STEM[:2], node("Identity", ["largest"], ["i"]), node("Mul", ["c", "i"], ["y"])], WEIGHTS, [1, 3, 8, 8]
    )
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model)).graph
    eliminate_identities(graph)
    assert [made.op_type for made in graph] == ["Conv", "ReduceMax", "Mul"]
    assert list(graph[1].outputs[0].shape) == []


def test_names_that_a_body_reads_are_those_that_it_does_not_make():
    inner = node("If", ["a"], ["o"], then_branch=adding("k"), else_branch=body(node("Identity", ["own"], ["e"])))
    outer = node("If", ["p"], ["r"], then_branch=body(inner, constants={"own": WEIGHTS["q"]}), else_branch=RELU)
    assert names_read(outer) == {"p", "a", "c", "k"}


def test_a_file_that_breaks_onnx_is_not_given_out(monkeypatch):
    def forget(model):
        for made in list(model.graph):
            if made.op_type == "Relu":
                made.outputs[0].shape = type(made.outputs[0].shape)([1, 2, 3])

    model = build([STEM[0], node("Relu", ["c"], ["y"]), node("Softmax", ["y"], ["z"])], WEIGHTS, [1, 3, 8, 8], ("z",))
    ranges = ranges_of(model, samples(RNG, 1, (3, 8, 8)))
    prepare = quantize_model.prepare
    monkeypatch.setattr(quantize_model, "prepare", lambda made: (prepare(made), forget(made)))
    with pytest.raises(QuantizationError, match="breaks a rule of ONNX"):
        ek.quantize(model, ranges)


def test_a_fault_of_the_float_model_is_not_reported_as_ours():
    """A shape that its exporter wrote down wrong: onnxruntime warns and runs it."""
    model = build([*STEM[:1], node("Relu", ["c"], ["y"])], WEIGHTS, [1, 3, 8, 8])
    model.graph.value_info.append(value("c", shape=[1, 8, 9, 9]))
    ek.quantize(model, ranges_of(model, samples(RNG, 1, (3, 8, 8))))


def run(model, x):
    return ek.InferenceSession(ek.compile(model)).run(None, {"x": x})[0]


@pytest.mark.parametrize("rank", [4, 3])
def test_an_if_on_a_constant_becomes_the_body_that_runs(rank):
    """As exporters write ``x.squeeze() if x.dim() == 4``: it was taken for a constant, and its host step lacked c."""
    taken = [node("Shape", ["c"], ["sides"]), node("Size", ["sides"], ["axes"])]
    taken += [node("Equal", ["axes", "wanted"], ["positive"])]
    inner = body(node("Relu", ["c"], ["own"]), node("Mul", ["own", "two"], ["t"]), constants={"two": f32(np.array(2))})
    other = body(node("Neg", ["c"], ["own"]), node("Add", ["own", "two"], ["e"]), constants={"two": f32(np.array(9))})
    model = build([STEM[0], *taken, if_(inner, other)], {**WEIGHTS, "wanted": np.array(rank)}, [1, 3, 8, 8])
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    for program in (ek.compile(model), ek.compile(ek.quantize(model, ranges_of(model, x)))):
        assert not any("If" in step.operators for step in program.host_steps)
        assert sqnr_db(expected, ek.InferenceSession(program).run(None, {"x": x})[0]) > 30


def test_a_body_finds_its_names_taken():
    """It was onnx_ir's SerdeError: the model may have what the body's own become in the place of their If."""
    inner, other = body(node("Relu", ["c"], ["own"]), node("Neg", ["own"], ["t"])), body(node("Neg", ["c"], ["e"]))
    nodes = [STEM[0], node("Neg", ["c"], ["y own"]), node("Abs", ["c"], ["y  own"]), if_(inner, other)]
    model = build([*nodes, node("Sum", ["y", "y own", "y  own"], ["z"])], WEIGHTS, [1, 3, 8, 8], ("z",))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "positive"))
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    np.testing.assert_allclose(run(model, x), expected, atol=1e-5)


def test_an_if_whose_bodies_agree_on_a_shape_that_nobody_infers_has_it():
    """Behind a Loop, whose body may change sizes for all that ONNX says."""
    nodes = [*STEM, RESHAPED, loop(), if_(body(node("Relu", ["y"], ["t"])), body(node("Neg", ["y"], ["e"])), "z")]
    model = build([*nodes, node("Flatten", ["z"], ["f"])], {**WEIGHTS, "limit": f32(np.array(0))}, [1, 3, 8, 8], ("f",))
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    np.testing.assert_allclose(run(model, x), onnxruntime_session(model, optimized=False).run(None, {"x": x})[0], 1e-5)


def test_what_leads_to_branches_is_run_once_a_pass(monkeypatch):
    """Whole models ran for each body of each If: 22 s for a chain of 200. One pass is for shapes, one joins bodies."""
    nodes, x = [*STEM, RESHAPED, loop()], "y"
    for i in range(20):
        otherwise = body(node("Abs", ["sides"], [f"sides{i}"]), node("Reshape", [x, f"sides{i}"], [f"e{i}"]))
        nodes.append(if_(body(node("Relu", [x], [f"t{i}"])), otherwise, f"y{i}"))
        nodes.append(node("Neg", [f"y{i}"], [f"z{i}"]))
        x = f"z{i}"
    constants = {**WEIGHTS, "sides": np.array([1, 8, 8, 8]), "limit": f32(np.array(0))}
    run_nodes = []
    counted = lambda *given: run_nodes.extend(given[1]) or evaluate(*given)  # noqa: E731
    monkeypatch.setattr(try_branches, "evaluate", counted)
    program = ek.compile(build(nodes, constants, [1, 3, 8, 8], (x,)))
    assert program.outputs[0].shape == (1, 8, 8, 8)
    assert len(run_nodes) <= 2 * (len(nodes) + 3 * 20)
    assert [made.op_type for made in run_nodes].count("Conv") == 2


def test_bodies_are_tried_under_names_that_are_free():
    """A body whose names met one of the graph's could not run, and the shape of the other one was believed."""
    made = [node("Relu", ["y"], ["t"]), node("Add", ["t", "lifted t"], ["u"]), node("Flatten", ["u"], ["flat_u"])]
    inner, other = body(*made), body(node("Neg", ["y"], ["e"]))
    nodes = [*STEM, RESHAPED, loop(), node("Abs", ["y"], ["lifted t"]), if_(inner, other, "z")]
    model = build(nodes, {**WEIGHTS, "limit": f32(np.array(0))}, [1, 3, 8, 8], ("z",))
    with pytest.raises(CompileError, match="the shape of 'z' depends on the data: If"):
        ek.compile(model)


def test_an_if_of_which_one_body_can_run_has_its_shape():
    """As models for two rates of sampling have it: the other body wants another length."""
    shapes = {"eight": np.array([1, 8, 64]), "sixteen": np.array([1, 8, 128])}
    bodies = [body(node("Reshape", ["y", name], [f"{name}_out"])) for name in shapes]
    nodes = [*STEM, RESHAPED, loop(), if_(*bodies, "z"), node("Relu", ["z"], ["r"])]
    model = build(nodes, {**WEIGHTS, **shapes, "limit": f32(np.array(0))}, [1, 3, 8, 8], ("r",))
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    assert run(model, x).shape == (1, 8, 64)


def test_an_if_whose_bodies_differ_in_shape_is_refused_by_name():
    model = build(
        [*STEM, if_(body(node("Flatten", ["c"], ["t"])), IDENTITY), node("Shape", ["y"], ["s"])],
        {**WEIGHTS, "limit": f32(np.array(0))},
        [1, 3, 8, 8],
    )
    with pytest.raises(CompileError, match="the shape of 'y' depends on the data: If"):
        ek.compile(model)


def test_a_model_that_is_all_bodies_stays_float_and_that_is_said():
    inner = body(node("Conv", ["x", "w"], ["t"], pads=[1] * 4))
    other = body(node("Concat", ["x"] * 3, ["e"], axis=1))
    nodes = [node("ReduceMax", ["x"], ["largest"], keepdims=0), STEM[2], if_(inner, other)]
    model = build(nodes, {"w": f32(RNG.normal(size=(9, 3, 3, 3))), "limit": f32(np.array(0))}, [1, 3, 8, 8])
    x = samples(np.random.default_rng(1), 1, (3, 8, 8))
    with pytest.warns(EdgekernWarning, match="all 1 Conv, Gemm and MatMul stand in bodies of If, Loop or Scan"):
        qdq = ek.quantize(model, ranges_of(model, x))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    np.testing.assert_allclose(run(qdq, x), expected, atol=1e-5)


def test_products_in_bodies_beside_quantized_ones_are_named():
    """Nothing was said of them as soon as one operator outside was quantized."""
    inner = body(node("Conv", ["c", "v"], ["t"], name="inside"))
    nodes = [node("Conv", ["x", "w"], ["c"]), node("ReduceMax", ["x"], ["largest"], keepdims=0), STEM[2]]
    weights = {"w": f32(RNG.normal(size=(9, 3, 1, 1))), "v": f32(RNG.normal(size=(9, 9, 1, 1)))}
    otherwise = body(node("Relu", ["c"], ["e"]))
    model = build([*nodes, if_(inner, otherwise)], {**weights, "limit": f32(np.array(0))}, [1, 3, 8, 8])
    ranges = ranges_of(model, samples(np.random.default_rng(1), 1, (3, 8, 8)))
    message = r"^quantize: 1 Conv, Gemm and MatMul stand in bodies of If, .* in float32: Conv .inside.; export"
    with pytest.warns(EdgekernWarning, match=message) as seen:
        qdq = ek.quantize(model, ranges)
    assert len(seen) == 1
    assert "QuantizeLinear" in {made.op_type for made in qdq.graph.node}
