"""Free dimensions get their sizes from ``shapes`` in every room, and opsets reach from 7 to the newest installed."""

import copy
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from edgekern import cli
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CalibrationError,
    CompileError,
    EdgekernWarning,
    QuantizationError,
)
from edgekern.graph import opset
from edgekern.graph.opset import newest_opset, newest_running_opset

from float_models import build, f32, ranges_of, samples, small_cnn
from graphs import Graph, onnxruntime_session

node = helper.make_node
WEIGHTS = {"s": np.ones(4, np.float32), "w": f32(np.eye(4))}


def two_inputs(*shapes: list[int | str | None] | None) -> onnx.ModelProto:
    """y = (x + z) @ w, of sizes that inputs leave free."""
    w = f32(np.random.default_rng(0).normal(size=(5, 4)))
    nodes = [helper.make_node("Add", ["x", "z"], ["sum"]), helper.make_node("MatMul", ["sum", "w"], ["y"])]
    model = build(nodes, {"w": w}, [])
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xz", shapes, strict=True)
    )
    return model


def feeds_for(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: f32(rng.normal(size=shape)) for name, shape in zip("xz", shapes, strict=True)}


def check(model: onnx.ModelProto, shapes, *sizes: tuple[int, ...]) -> ek.Program:
    """Calibrated, quantized, compiled with these shapes, it is close to float."""
    feeds = feeds_for(*sizes)
    ranges = ek.Calibrator(model, shapes=shapes).collect(feeds).compute_ranges()
    program = ek.compile(ek.quantize(model, ranges), shapes=shapes)
    assert [info.shape for info in program.inputs] == list(sizes)
    expected = (feeds["x"] + feeds["z"]) @ onnx.numpy_helper.to_array(model.graph.initializer[0])
    result = ek.InferenceSession(program).run(None, feeds)[0]
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() < 0.05 * np.abs(expected).max()
    return program


@pytest.mark.parametrize(
    "shapes",
    [
        {"x": (2, 7, 5)},
        {"batch": 2, "sequence": 7},
        {"x": (None, 7, None), "batch": 2},
        {"z": (2, np.int64(7), 5), "sequence": 7},
    ],
)
def test_a_dimension_is_fixed_by_place_or_by_name_wherever_it_stands(shapes):
    """Refused before: input 'x' has a free dimension 1 (sequence); only the first may be free."""
    check(two_inputs(["batch", "sequence", 5], ["batch", "sequence", 5]), shapes, (2, 7, 5), (2, 7, 5))


@pytest.mark.usefixtures("no_float_kernels")
def test_batch_fills_what_shapes_leave_free():
    model = two_inputs(["batch", "sequence", 5], ["batch", "sequence", 5])
    with pytest.warns(EdgekernWarning):
        program = ek.compile(model, batch=3, shapes={"sequence": 7})
    assert [info.shape for info in program.inputs] == [(3, 7, 5)] * 2
    with pytest.raises(CompileError, match=r"free dimension 1 \(n\)"):
        ek.compile(two_inputs([7, "n", 5], [7, "n", 5]), batch=2)


def test_a_batch_for_sizes_that_are_all_given_is_refused_with_the_remedy_of_either():
    """ "export the model with a free first dimension", which it had."""
    model = two_inputs(["n", 5], ["n", 5])
    message = r"batch is 4, .* \[\[1, 5\], \[1, 5\]\] with shapes; leave a first dimension out of shapes, or leave"
    with pytest.raises(CompileError, match=message):
        ek.compile(model, batch=4, shapes={"x": (1, 5)})
    with pytest.raises(CompileError, match=r"shapes \[\[1, 5\], \[1, 5\]\]; export the model with a free first dim"):
        ek.compile(two_inputs([1, 5], [1, 5]), batch=4)


@pytest.mark.usefixtures("no_float_kernels")
def test_batch_is_the_size_of_its_name_everywhere():
    nodes = [helper.make_node("Transpose", ["z"], ["t"], perm=[1, 0, 2]), helper.make_node("Add", ["x", "t"], ["y"])]
    model = two_inputs(["n", 7, 5], [7, "n", 5])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.warns(EdgekernWarning):
        assert [info.shape for info in ek.compile(model, batch=2).inputs] == [(2, 7, 5), (7, 2, 5)]


@pytest.mark.filterwarnings("ignore:compile. 1 nodes run on the host")
def test_inputs_of_different_names_have_different_sizes():
    check(two_inputs(["n", 5], ["m", 5]), {"x": (4, 5), "z": (1, 5)}, (4, 5), (1, 5))


@pytest.mark.parametrize("free", [None, "n", 0, -1])
def test_free_sizes_in_all_the_ways_that_tools_write_them(free):
    check(two_inputs([free, 5], [free, 5]), {"x": (4, 5), "z": (4, 5)}, (4, 5), (4, 5))


@pytest.mark.filterwarnings("ignore:compile. 1 nodes run on the host")
def test_sizes_that_are_all_called_by_a_question_mark_have_no_name():
    """PaddlePaddle's: "shapes['x'] gives the dimension '?' the size 192, and shapes['x'] gives it 48"."""
    check(two_inputs(["?", "?"], ["?", "?"]), {"x": (4, 5), "z": (1, 5)}, (4, 5), (1, 5))


def test_an_input_without_a_shape_is_given_one():
    """ "Field 'shape' of 'type' is required but missing" before."""
    model = two_inputs(None, [4, 5])
    check(model, {"x": (4, 5)}, (4, 5), (4, 5))
    ek.Calibrator(model).collect(feeds_for((4, 5), (4, 5))).collect(feeds_for((1, 5), (4, 5)))
    with pytest.raises(
        CompileError, match=r"input 'x' has no shape in the model; give it one: shapes=\{'x': \(1, ...\)\}"
    ):
        ek.compile(model)


def test_what_is_free_still_is_named_with_its_remedy():
    with pytest.raises(
        CompileError, match=r"free dimension 1 \(s\), .* shapes=\{'s': ...\} or shapes=\{'x': \(1, ..., 5\)\}"
    ):
        ek.compile(two_inputs(["n", "s", 5], ["n", "s", 5]))
    with pytest.raises(CompileError, match=r"free dimension 1 \(unnamed\), .* a size: shapes=\{'x': \(2, ..., 5\)\}"):
        ek.compile(two_inputs([2, None, 5], [2, None, 5]))


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ([("x", (1, 2))], ArgumentTypeError, "shapes must be a mapping such as"),
        ({"x": "1,2"}, ArgumentTypeError, r"shapes\['x'\] must be a size or a tuple of sizes, got '1,2'"),
        ({"x": (1, 2.5, 5)}, ArgumentTypeError, "a size or a tuple of sizes, got 2.5"),
        ({"s": True}, ArgumentTypeError, "got True"),
        ({"y": (1,)}, ArgumentValueError, r"has 'y', but the inputs are \['x', 'z'\], .* names \['n', 's'\]"),
        ({"x": (1, 5)}, ArgumentValueError, r"shapes\['x'\] has 2 sizes, but the input has 3 dimensions: \(n, s, 5\)"),
        ({"x": (1, 7, 6)}, ArgumentValueError, r"shapes\['x'\] has 6 for dimension 2, which is 5 in the model"),
        ({"x": (1, 0, 5)}, ArgumentValueError, "has the size 0; sizes are at least 1"),
        ({"": 8}, ArgumentValueError, r"shapes has '', but the inputs are \['x', 'z'\]"),
        ({"s": -3}, ArgumentValueError, "has the size -3"),
        ({"x": (1, 2**63, 5)}, ArgumentValueError, "has the size 9223372036854775808; .* at most 2147483647"),
        ({"s": 2**31}, ArgumentValueError, "has the size 2147483648; sizes are at least 1 and at most 2147483647"),
        ({"x": (1, 7, 5), "z": (1, 8, 5)}, ArgumentValueError, r"'s' the size 8, and shapes\['x'\] gives it 7"),
        ({"s": 7, "z": (1, 8, 5)}, ArgumentValueError, r"the dimension 's' the size 8, and shapes\['s'\] gives it 7"),
    ],
)  # fmt: skip
def test_sizes_that_contradict_are_refused(shapes, error, message):
    model = two_inputs(["n", "s", 5], ["n", "s", 5])
    for function, call in (("compile", ek.compile), ("Calibrator", ek.Calibrator)):
        with pytest.raises(error, match=f"{function}: .*{message}"):
            call(model, shapes=shapes)


@pytest.mark.parametrize("batch", [2**31, 2**60, 2**63])
def test_a_batch_that_no_tensor_may_have_is_refused(batch):
    """It was a TypeError of plan_memory, a ValueError of protobuf, or an ArtifactError about bytes that nobody gave."""
    with pytest.raises(ArgumentValueError, match=f"compile: batch must be at least 1 and at most .*, got {batch}"):
        ek.compile(two_inputs(["n", 5], ["n", 5]), batch=batch)


@pytest.mark.parametrize("size", [2**20, 2**28, 2**31 - 1])
def test_sizes_that_are_too_large_together_are_refused_by_name(size):
    graph = Graph()
    x = graph.qdq(graph.input("x", ["n", "s", 8]))
    model = graph.model(graph.qdq(graph.op("MatMul", x, graph.weights(8, 8, axis=1))))
    with pytest.raises(CompileError, match=rf"compile: '.*' would have the shape \[{size}, {size}, 8\], .* more than"):
        ek.compile(model, shapes={"n": size, "s": size})


def test_a_calibrator_of_given_sizes_wants_them_and_keeps_them_in_copies():
    model = two_inputs(["n", "s", 5], ["n", "s", 5])
    calibrator = ek.Calibrator(model, shapes={"s": 7})
    assert calibrator.input_shapes == {"x": ("n", 7, 5), "z": ("n", 7, 5)}
    for one in (calibrator, copy.copy(calibrator)):
        with pytest.raises(ArgumentValueError, match=r"shape \(2, 6, 5\), but the model takes \(n, 7, 5\)"):
            one.collect(feeds_for((2, 6, 5), (2, 6, 5)))
    assert calibrator.model_hash == ek.Calibrator(model).model_hash


def test_quantize_writes_the_sizes(rng):
    model, x = small_cnn(), samples(rng)
    qdq = ek.quantize(model, ranges_of(model, x), shapes={"n": 4})
    assert [side.dim_value for side in qdq.graph.input[0].type.tensor_type.shape.dim] == [4, 3, 12, 12]
    assert ek.compile(qdq).outputs[0].shape == (4, 5)


def test_a_size_by_name_may_be_given_again_where_it_is_fixed(rng):
    """The same shapes in Calibrator, quantize and compile: "shapes has 'n', but the inputs are ['x']" at the last."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = build(nodes, {"w": rng.normal(size=(6, 4)).astype(np.float32)}, ["n", "t", 6])
    shapes = {"n": 2, "t": 3}
    calibrator = ek.Calibrator(model, shapes=shapes, progress=False)
    ranges = calibrator.collect({"x": rng.normal(size=(2, 3, 6)).astype(np.float32)}).compute_ranges()
    qdq = ek.quantize(model, ranges, shapes=shapes)
    assert ek.compile(qdq, shapes=shapes).inputs[0].shape == (2, 3, 6)
    assert ek.compile(qdq, shapes={"t": 3}).inputs[0].shape == (2, 3, 6)
    with pytest.raises(ArgumentValueError, match=r"shapes\['t'\] is 4, but the model was made for 3"):
        ek.compile(qdq, shapes={"n": 2, "t": 4})
    qdq.metadata_props[0].value, qdq.metadata_props[1].value = "[", "["
    with pytest.raises(ArgumentValueError, match="shapes has 't', but the inputs are"):
        ek.compile(qdq, shapes={"t": 3})


def test_commands_take_sizes(tmp_path, capsys):
    model, data, ranges, qdq, ekm = (tmp_path / name for name in ("m.onnx", "d.npz", "r.json", "q.onnx", "p.ekm"))
    onnx.save(two_inputs(["batch", "sequence", 5], ["batch", "sequence", 5]), model)
    np.savez(data, **feeds_for((2, 7, 5), (2, 7, 5)))
    assert cli.run(["calibrate", str(model), str(data), "-o", str(ranges), "--shape", "x=2,7,5"]) == 0
    assert cli.run(["quantize", str(model), str(ranges), "-o", str(qdq), "--shape", "sequence=7"]) == 0
    command = ["compile", str(qdq), "-o", str(ekm)]
    assert cli.run([*command, "--shape", "x=2,?,5"]) == 0
    assert [info.shape for info in ek.Program.load(ekm).inputs] == [(2, 7, 5)] * 2
    capsys.readouterr()
    assert cli.run([*command, "--shape", "2,7"]) == 2
    assert "compile: --shape takes NAME=SIZE or NAME=SIZE,SIZE,..., got '2,7'" in capsys.readouterr().err


# --- opsets


@pytest.mark.parametrize("version", sorted({7, 12, 13, 18, 23, 24, newest_running_opset(), newest_opset()}))
def test_every_opset_is_quantized_into_one_that_onnxruntime_runs(version, rng):
    """24 and later were refused; onnx 1.23 writes 28, in which onnxruntime 1.32 has no QuantizeLinear."""
    model, x = small_cnn(opset=version), samples(rng)
    qdq = ek.quantize(model, ranges_of(model, x))
    assert qdq.opset_import[0].version == min(max(version, 13), newest_running_opset())
    feeds = {"x": x[:1]}
    expected = onnxruntime_session(qdq, optimized=False).run(None, feeds)[0]
    result = ek.InferenceSession(ek.compile(qdq, allow_host=False)).run(None, feeds)[0]
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


def test_a_model_on_which_the_converter_of_onnx_breaks_is_not_called_invalid():
    """Softmax of opset 12 whose result a body reads: "Assertion `from->owningGraph() == graph_` failed"."""
    inner = [helper.make_node("Mul", ["s", "s"], ["t"])], [helper.make_node("Neg", ["s"], ["e"])]
    bodies = [
        helper.make_graph(
            nodes, "body", [], [helper.make_tensor_value_info(nodes[0].output[0], TensorProto.FLOAT, None)]
        )
        for nodes in inner
    ]
    nodes = [helper.make_node("Softmax", ["x"], ["s"], axis=1)]
    nodes.append(helper.make_node("ReduceMax", ["s"], ["m"], keepdims=0))
    nodes.append(helper.make_node("Greater", ["m", "half"], ["p"]))
    nodes.append(helper.make_node("If", ["p"], ["y"], then_branch=bodies[0], else_branch=bodies[1]))
    model = build(nodes, {"half": np.float32(0.5)}, [1, 2, 3, 4], opset=12)
    with pytest.raises(
        ArgumentValueError, match="opset 12: onnx's version converter, which brings it to 13, fails on it"
    ):
        ek.compile(model)


def test_what_another_tool_writes_in_the_newest_opset_compiles():
    g = Graph(opset=newest_opset())
    x = g.qdq(g.input("x", (2, 33)))
    program = ek.compile(g.model(g.qdq(g.op("MatMul", x, g.weights(33, 20, axis=1)), 0.3)), allow_host=False)
    assert program.outputs[0].shape == (2, 20)


def test_what_cannot_be_written_in_an_older_opset_is_named(monkeypatch, rng):
    model = small_cnn(opset=newest_opset())
    ranges = ranges_of(model, samples(rng))
    monkeypatch.setattr(opset, "newest_running_opset", lambda: 22)
    assert ek.quantize(model, ranges).opset_import[0].version == 22
    norm = build(
        [node("RMSNormalization", ["x", "s"], ["n"]), node("MatMul", ["n", "w"], ["y"])], WEIGHTS, [2, 4], opset=23
    )
    message = "quantize: RMSNormalization 'n' is of opset 23, and this onnxruntime runs Q and DQ up to opset 22; export"
    ranges = ek.Calibrator(norm).collect({"x": f32(rng.normal(size=(2, 4)))}).compute_ranges()
    with pytest.raises(QuantizationError, match=message):
        ek.quantize(norm, ranges)


@pytest.mark.skipif(newest_opset() < 28, reason="onnx before 1.23")
def test_types_and_meanings_of_the_newest_opset_stay():
    """BitShift takes int8 since 28, Mod takes floats; nothing is written as an older opset where nobody needs it."""
    shifted = build([node("BitShift", ["c", "c"], ["y"], direction="LEFT")], {"c": np.ones(3, np.int8)}, [2], opset=28)
    modulo = build([node("Mod", ["x", "c"], ["y"])], {"c": np.full(2, -2, np.float32)}, [2], opset=28)
    for model, expected in ((shifted, [2, 2, 2]), (modulo, [-1, -1])):
        x = np.ones(2, np.float32)
        try:
            onnxruntime_session(model, optimized=False)
        except Exception:  # onnxruntime raises a class per status, all private
            continue
        with warnings.catch_warnings(action="ignore", category=EdgekernWarning):
            program = ek.compile(model)
        np.testing.assert_array_equal(ek.InferenceSession(program).run(None, {"x": x})[0], expected)


@pytest.mark.skipif(newest_opset() < 28, reason="onnx before 1.23")
def test_a_meaning_of_the_newest_opset_in_a_function_is_named():
    """Mod of floats took the sign of the dividend without a word once the function was written in opset 27 or less."""
    g = Graph(opset=28)
    newest = [helper.make_opsetid("", 28)]
    rest = helper.make_function("own", "Rest", ["a", "b"], ["m"], [node("Mod", ["a", "b"], ["m"])], newest)
    g.op("Rest", g.qdq(g.input("x", (2,))), g.const([-2, -2], np.float32), domain="own")
    imports = [*newest, helper.make_opsetid("own", 1)]
    value = helper.make_tensor_value_info(g.nodes[-1].output[0], TensorProto.FLOAT, [2])
    graph = helper.make_graph(g.nodes, "graph", g.inputs, [value], g.constants)
    model = helper.make_model(graph, opset_imports=imports, functions=[rest], ir_version=10)
    with pytest.raises(ArgumentValueError, match="Mod 'm' is of opset 28, and this onnxruntime runs Q and DQ up to"):
        ek.compile(model)


def test_an_operator_that_has_changed_since_we_looked_is_named(monkeypatch):
    monkeypatch.setattr(opset, "_KNOWN_OPSET", 21)
    with pytest.raises(ArgumentValueError, match="Conv 'c0' has changed in opset 22, and this edgekern knows"):
        ek.Calibrator(small_cnn(opset=22))


def test_an_operator_that_onnxruntime_lacks_is_named_by_the_calibrator():
    model = build([helper.make_node("Swish", ["x"], ["y"])], {}, [2, 4], opset=newest_opset())
    try:
        onnxruntime_session(model)
    except Exception:  # onnxruntime raises a class per status, all private
        with pytest.raises(CalibrationError, match=r"onnxruntime cannot run the model: .*Swish"):
            ek.Calibrator(model)
