"""Ifs that data decides, on kernels: both bodies run, and the results of one are picked."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

import edgekern as ek
from edgekern.errors import ArgumentValueError, CompileError, EdgekernWarning
from test_float_nets import kinds

from float_models import build, f32, helper
from graphs import onnxruntime_session, results_everywhere

node = helper.make_node
# Of x (2, 6): whether its sum is positive; one element of rank 1 and of rank 0.
DECIDE = [
    node("ReduceSum", ["x"], ["sum"], keepdims=0),
    node("Greater", ["sum", "zero"], ["positive"]),
    node("Reshape", ["positive", "one"], ["positive1"]),
]
CONSTANTS = {
    "zero": f32(np.array(0)),
    "one": np.array([1]),
    "six": np.array([6]),
    "w": f32(np.random.default_rng(3).normal(size=(6, 6))),
    "twelve": np.array([1, 12]),
    "thirteen": np.array([1, 13]),
}


def body(*nodes, results=None):
    made = results or [nodes[-1].output[0]]
    return helper.make_graph(
        list(nodes), "body", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made]
    )


def model(then, otherwise, results=("y",), condition="positive", after=()):
    branch = node("If", [condition], list(results), name="choice", then_branch=then, else_branch=otherwise)
    last = [list(after)[-1].output[0]] if after else list(results)
    return build([*DECIDE, branch, *after], CONSTANTS, [2, 6], tuple(last))


def both():
    """What makes the condition hold, and what does not."""
    x = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    return x - x.mean() + 1, x - x.mean() - 1


def assert_right(made, *, host=False):
    program = ek.compile(made, allow_host=host)
    theirs = onnxruntime_session(made, optimized=False)
    for x in both():
        for found, want in zip(results_everywhere(program, {"x": x}), theirs.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    return program


PRODUCT = body(node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["u"]))
COPY = body(node("Identity", ["x"], ["e"]))


@pytest.mark.parametrize("condition", ["positive", "positive1"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_results_are_those_of_the_body_that_is_decided_for(condition, turned):
    bodies = (COPY, PRODUCT) if turned else (PRODUCT, COPY)
    program = assert_right(model(*bodies, condition=condition))
    assert "GEMM_F32" in kinds(program)


def test_results_that_nobody_reads_are_no_matter():
    two = body(node("Neg", ["x"], ["n"]), node("Exp", ["x"], ["m"]), results=["n", "m"])
    other = body(node("Abs", ["x"], ["n"]), node("Sqrt", ["n"], ["m"]), results=["n", "m"])
    assert_right(model(two, other, ("y", "z")))
    assert_right(model(two, other, ("y", "z"), after=[node("Relu", ["z"], ["r"])]))
    assert_right(model(two, other, ("y", "z"), after=[node("Relu", ["y"], ["r"])]))


def test_what_the_other_body_makes_of_the_data_is_not_seen():
    """Roots and logarithms of negative numbers, and what divides by zero."""
    wild = body(node("Log", ["x"], ["l"]), node("Sub", ["x", "x"], ["z"]), node("Div", ["l", "z"], ["d"]))
    program = ek.compile(model(wild, COPY), allow_host=False)
    x = both()[1]
    assert np.array_equal(results_everywhere(program, {"x": x})[0], x)


def test_bodies_may_be_called_alike_and_read_what_is_around_them():
    one = body(node("Neg", ["x"], ["t"]), node("Add", ["t", "sum"], ["u"]))
    other = body(node("Abs", ["x"], ["t"]), node("Mul", ["t", "w0"], ["u"]))
    made = model(one, other, after=[node("Add", ["y", "sum"], ["v"])])
    made.graph.node.insert(0, node("Neg", ["zero"], ["w0"]))
    assert_right(made)


def test_a_branch_in_a_branch_is_left_whole():
    inner = node("If", ["positive"], ["i"], then_branch=COPY, else_branch=body(node("Neg", ["x"], ["n"])))
    with pytest.warns(EdgekernWarning, match="If 'choice'"):
        assert_right(model(body(inner, node("Relu", ["i"], ["r"])), COPY), host=True)


def test_one_branch_on_the_host_does_not_keep_the_others_there():
    """The other holds an operator without a kernel."""
    made = model(PRODUCT, COPY)
    sorts = body(node("TopK", ["x", "six"], ["s", "at"]), node("Neg", ["s"], ["r"]))
    named = {"name": "other", "then_branch": sorts, "else_branch": body(node("Abs", ["x"], ["a"]))}
    made.graph.node.append(node("If", ["positive"], ["z"], **named))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    with pytest.warns(EdgekernWarning, match="If 'other'") as seen:
        program = assert_right(made, host=True)
    assert "choice" not in str(seen[0].message)
    assert "GEMM_F32" in kinds(program)


def test_a_body_that_data_can_keep_from_running_runs_alone():
    """An index that is outside where the other body is decided for."""
    picks = body(node("Cast", ["sum"], ["at"], to=TensorProto.INT64), node("Gather", ["x", "at"], ["g"], axis=1))
    row = body(node("ReduceMax", ["x"], ["m"], axes=[1], keepdims=0))
    with pytest.warns(EdgekernWarning, match="If 'choice'"):
        program = ek.compile(model(row, picks))
    x = both()[0] * 100
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    assert np.array_equal(found, x.max(axis=1))


@pytest.mark.parametrize("turned", [False, True])
def test_a_body_that_cannot_run_on_these_sizes_is_named_where_it_is_decided_for(turned):
    shaped = body(node("Reshape", ["x", "twelve"], ["a"]), node("Relu", ["a"], ["b"]))
    longer = body(node("Reshape", ["x", "thirteen"], ["c"]), node("Neg", ["c"], ["d"]))
    program = ek.compile(model(*((longer, shaped) if turned else (shaped, longer))), allow_host=False)
    holds, fails = both()[::-1] if turned else both()
    for isa in ek.cpu_info()["available"]:
        session = ek.InferenceSession(program, isa=isa)
        assert np.array_equal(session.run(None, {"x": holds})[0], np.maximum(holds, 0).reshape(1, 12))
        missing = "then_branch" if turned else "else_branch"
        with pytest.raises(ArgumentValueError, match=f"choice, whose {missing} cannot run on inputs of these sizes"):
            session.run(None, {"x": fails})
        assert np.array_equal(session.run(None, {"x": holds})[0], np.maximum(holds, 0).reshape(1, 12))


def test_bodies_of_two_shapes_are_refused_by_name():
    flat = body(node("Reshape", ["x", "twelve"], ["a"]))
    with pytest.raises(CompileError, match="the shape of 'y' depends on the data: If 'choice'"):
        ek.compile(model(flat, COPY, after=[node("Shape", ["y"], ["s"]), node("Cast", ["s"], ["r"], to=1)]))


UNARY = st.sampled_from(["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Erf"])  # none that blows rounding up


@given(then=st.lists(UNARY, min_size=1, max_size=5), otherwise=st.lists(UNARY, min_size=1, max_size=5))
def test_any_two_chains(then, otherwise):
    def chain(names):
        values = ["x", *(f"v{at}" for at in range(len(names)))]
        return body(*(node(name, [values[at]], [values[at + 1]]) for at, name in enumerate(names)))

    assert_right(model(chain(then), chain(otherwise)))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_model_for_two_rates_takes_its_rate_as_an_input(rate):
    """As voice detectors do: the length of the sound fits one of them."""
    own = {8000: "twelve", 16000: "thirteen"}
    bodies = [
        body(node("Reshape", ["x", own[at]], [f"row{at}"]), node("ReduceMax", [f"row{at}"], [f"m{at}"], keepdims=1))
        for at in (16000, 8000)
    ]
    choice = node("If", ["wide"], ["y"], name="choice", then_branch=bodies[0], else_branch=bodies[1])
    nodes = [node("Equal", ["rate", "high"], ["wide"]), choice]
    made = build(nodes, {**CONSTANTS, "high": np.array(16000)}, [2, 6])
    made.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    program = ek.compile(made, allow_host=False)
    feeds = {"x": both()[0], "rate": np.array(rate, np.int64)}
    if rate == 8000:
        assert results_everywhere(program, feeds)[0].item() == both()[0].max()
    else:
        with pytest.raises(ArgumentValueError, match="choice, whose then_branch cannot run"):
            ek.InferenceSession(program).run(None, feeds)


def test_results_whose_names_begin_alike_are_told_apart():
    """Exporters write names of more than 64 characters."""
    start = "/model/decoder/layers.0/self_attn/rotary_embedding/position_ids_cache/If"
    names = [f"{start}_output_0", f"{start}_1_output_0"]
    choices = [
        node("If", ["positive"], [name], then_branch=bodies[0], else_branch=bodies[1])
        for name, bodies in zip(names, ((PRODUCT, COPY), (COPY, PRODUCT)), strict=True)
    ]
    made = build([*DECIDE, *choices], CONSTANTS, [2, 6], tuple(names))
    assert_right(made)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    for branch in made.graph.node[-2:]:
        branch.input[0] = "always"
    assert_right(made)


def test_what_cannot_run_on_zeros_keeps_its_branch_on_the_host():
    """An index that is outside for zeros, and inside for what comes."""
    made = model(body(node("Add", ["x", "row"], ["t"])), COPY)
    made.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10]), "ten"))
    made.graph.node.insert(0, node("Gather", ["w", "at"], ["row"]))
    made.graph.node.insert(0, node("Sub", ["n", "ten"], ["at"]))
    with pytest.warns(EdgekernWarning, match="If 'choice'"):
        program = ek.compile(made)
    feeds = {"x": both()[0], "n": np.array([12])}
    [want] = onnxruntime_session(made, optimized=False).run(None, feeds)
    np.testing.assert_allclose(ek.InferenceSession(program).run(None, feeds)[0], want, rtol=1e-6)


def test_every_result_of_a_body_that_cannot_run_is_an_error():
    """The first one was looked at alone, and was no matter where nobody read it."""
    sides = [
        body(
            node("Reshape", ["x", name], ["a"]),
            node("Neg", ["a"], ["n"]),
            node("Exp", ["a"], ["m"]),
            results=["n", "m"],
        )
        for name in ("twelve", "thirteen")
    ]
    program = ek.compile(model(*sides, ("y", "z"), after=[node("Relu", ["z"], ["r"])]), allow_host=False)
    holds, fails = both()
    assert np.allclose(ek.InferenceSession(program).run(None, {"x": holds})[0], np.exp(holds).reshape(1, 12))
    with pytest.raises(ArgumentValueError, match="choice, whose else_branch cannot run"):
        ek.InferenceSession(program).run(None, {"x": fails})


def test_bodies_of_much_work_are_not_both_run():
    """Half of it would be for nothing: a decoder with and without its past."""
    rng = np.random.default_rng(5)
    wide = {"u": f32(rng.normal(size=(6, 4096))), "v": f32(rng.normal(size=(4096, 4096)))}
    chain = [node("MatMul", ["x", "u"], ["a"]), node("MatMul", ["a", "v"], ["b"]), node("MatMul", ["b", "v"], ["d"])]
    other = [node("Neg", ["x"], ["m"]), node("MatMul", ["m", "u"], ["a"]), node("MatMul", ["a", "v"], ["b"])]
    made = model(body(*chain), body(*other))
    made.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in wide.items())
    with pytest.warns(EdgekernWarning, match="If 'choice'"):
        ek.compile(made)


def test_values_may_be_called_like_those_that_joining_writes():
    made = model(PRODUCT, COPY, after=[node("Add", ["y", "edgekern.joined.constant.1"], ["r"])])
    made.graph.initializer.append(onnx.numpy_helper.from_array(f32(np.ones(6)), "edgekern.joined.constant.1"))
    made.graph.node.insert(0, node("Identity", ["x"], ["edgekern.joined.Reshape.2"]))
    assert_right(made)
