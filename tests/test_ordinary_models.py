"""Models that other tools write every day: they work, or are refused with a sentence that names the place."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern.calibration import Ranges, model_hash
from edgekern.errors import CompileError, EdgekernWarning, HostStepError, QuantizationError

from float_models import STATIC, all_the_way, build, f32, ranges_of, samples, small_cnn, sqnr_db
from graphs import Graph, onnxruntime_session
from qdq_models import image

node = helper.make_node


# --- products of other ranks


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("x", [(6,), (4, 6), (2, 4, 6), (3, 2, 4, 6), (2, 3, 2, 4, 6)], ids=len)
@pytest.mark.parametrize("w", [(6,), (6, 5), (2, 6, 5), (3, 2, 6, 5)], ids=len)
def test_matmul_takes_operands_of_any_rank(x, w, rng):
    """By a vector it ended in ValueError: repeated axis in `source` argument."""
    if len(x) > 2 and len(w) > 2 and x[-3] != w[-3]:
        pytest.skip("they do not broadcast")
    model = build([node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])], {"w": f32(rng.normal(size=w))}, x)
    [(ours, theirs)], _ = all_the_way(model, {"x": f32(rng.normal(size=x))})
    assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()


def test_a_scoring_head_needs_no_host(rng):
    weights = {"w": f32(rng.normal(size=(5, 6))), "v": f32(rng.normal(size=6)), "b": f32(rng.normal(size=1))}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["p"])]
    model = build([*nodes, node("Add", ["p", "b"], ["y"])], weights, ["n", 5])
    [(ours, theirs)], _ = all_the_way(model, {"x": f32(rng.normal(size=(4, 5)))}, batch=4, allow_host=False)
    assert ours.shape == (4,)
    assert np.abs(ours - theirs).max() < 0.04 * np.abs(theirs).max()


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_a_product_of_no_columns_stays_float(rng):
    model = build(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["x", "none"], ["y"])],
        {"w": f32(rng.normal(size=(6, 5))), "none": np.zeros((6, 0), np.float32)},
        [4, 6],
        ("h", "y"),
    )
    pairs, _ = all_the_way(model, {"x": f32(rng.normal(size=(4, 6)))})
    assert pairs[1][0].shape == (4, 0)


# --- inputs that are outputs


def test_an_input_is_an_output_as_it_was_given(rng):
    """quantize ended in ValueError: Value is an output of graph."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = build(nodes, {"w": f32(rng.normal(size=(6, 6)))}, [2, 6], ("y", "x"))
    feeds = {"x": f32(rng.normal(size=(2, 6)))}
    pairs, _ = all_the_way(model, feeds, allow_host=False)
    np.testing.assert_array_equal(pairs[1][0], feeds["x"])


# --- what is refused by name


@pytest.fixture(params=["EXTENDED", "ALL"])
def optimized(request, tmp_path, rng):
    """A float model and a QDQ model as onnxruntime writes them for itself."""
    cnn = small_cnn()

    def written(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / name)
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{request.param}")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(tmp_path / name)

    return written(cnn, "float.onnx"), written(ek.quantize(cnn, ranges_of(cnn, samples(rng))), f"{request.param}.onnx")


def test_a_file_that_onnxruntime_optimized_is_told_from_others(optimized, rng):
    """It was: ranges lack tensor 'f0', which becomes 8-bit; observe it when calibrating."""
    model, _ = optimized
    ranges = ek.Calibrator(model).collect({"x": samples(rng, 1)}).compute_ranges()
    message = r"quantize: the file was optimized for onnxruntime, and com\.microsoft\S* '.*give the model as it was exp"
    with pytest.raises(QuantizationError, match=message):
        ek.quantize(model, ranges)
    with pytest.warns(EdgekernWarning, match="the file was optimized for onnxruntime: compile the model as it was exp"):
        ek.compile(model)


def test_a_qdq_file_that_onnxruntime_optimized_runs_but_for_what_its_machine_has_alone(optimized):
    """ORT_ENABLE_ALL turns images, in operators of its own."""
    _, qdq = optimized
    if any(node.domain == "com.microsoft" and node.op_type == "QLinearConv" for node in qdq.graph.node):
        with pytest.warns(EdgekernWarning, match="QLinearConv .*quantization is written in integers: export the model"):
            ek.compile(qdq)
    else:
        assert not ek.compile(qdq, allow_host=False).host_steps


def qoperator():
    """x -> Q -> QLinearConv -> QLinearAdd -> DQ -> y, as onnxruntime's quantize_static writes it in that format."""
    g = Graph()
    scale, zero, weight_zero = g.const(0.05, np.float32), g.const(120, np.uint8), g.const(0, np.int8)
    w = g.const(g.rng.integers(-100, 100, (4, 3, 1, 1)), np.int8)
    x = g.op("QuantizeLinear", g.input("x", (1, 3, 4, 4)), scale, zero)
    c = g.op("QLinearConv", x, scale, zero, w, g.const(0.01, np.float32), weight_zero, scale, zero)
    a = g.op("QLinearAdd", c, scale, zero, c, scale, zero, scale, zero, domain="com.microsoft")
    return g.model(g.op("DequantizeLinear", a, scale, zero))


def test_a_model_in_qoperator_format_compiles_and_is_no_model_to_quantize():
    model = qoperator()
    assert "100.0% in 8 bits" in ek.compile(model, allow_host=False).summary()
    ranges = Ranges({}, model_hash(model), "max")
    with pytest.raises(QuantizationError, match="quantized already, by QuantizeLinear and DequantizeLinear"):
        ek.quantize(model, ranges)


def test_a_dynamically_quantized_model_is_not_told_to_be_without_operators():
    """ "model has no operator to quantize; it needs a float32 Conv, ..." before."""
    g = Graph()
    q, _, _ = g.op("DynamicQuantizeLinear", g.input("x", (2, 8)), outputs=3)
    model = g.model(g.op("MatMulInteger", q, g.const(np.ones((8, 4)), np.int8)))
    message = "quantized already, as DynamicQuantizeLinear, MatMulInteger; give the float model"
    with pytest.raises(QuantizationError, match=message):
        ek.quantize(model, Ranges({}, model_hash(model), "max"))


def test_kernels_beside_one_integer_operator_are_not_called_idle():
    g = Graph()
    y = g.qdq(g.op("MatMul", g.qdq(g.input("x", (2, 8))), g.weights(8, 4, axis=1)), 0.3)
    z = g.op("ConvInteger", *(g.input(name, (1, 2, 2, 2), TensorProto.UINT8) for name in ("a", "b")))
    with pytest.raises(HostStepError, match="weights that are not constant") as refused:
        ek.compile(g.model(y, z), allow_host=False)
    assert "Nothing of the model" not in str(refused.value)
    with pytest.warns(EdgekernWarning, match="^compile: 1 nodes run on the host"):
        ek.compile(g.model(y, z))


def fused(op, weights):
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node(op, ["m", "b" if op == "BiasGelu" else "w"], ["f"], domain="com.microsoft"),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    model = build(nodes, weights, [2, 8])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize("op", ["BiasGelu", "FusedMatMul"])
def test_fused_nodes_are_quantized_around_where_nothing_is_hidden_in_them(op, rng):
    """A product is hidden in the one."""
    model = fused(op, {"w": f32(rng.normal(size=(8, 8))), "b": f32(rng.normal(size=8))})
    x = f32(rng.normal(size=(2, 8)))
    message = rf"the file was optimized for onnxruntime, and com\.microsoft\.{op} 'f' hide what there is to quantize"
    ranges = ranges_of(model, x)
    if op == "FusedMatMul":
        with pytest.raises(QuantizationError, match=message):
            ek.quantize(model, ranges)
        return
    qdq = ek.quantize(model, ranges)
    with pytest.warns(EdgekernWarning, match=r"com\.microsoft\.BiasGelu '.*': the file was optimized for onnxruntime"):
        assert sum(step.op == "MatMul" for step in ek.compile(qdq).steps) == 2


def test_what_is_no_tensor_is_refused_by_name():
    sequence = build([node("SplitToSequence", ["x"], ["y"])], {}, [2, 6])
    sequence.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    with pytest.raises(CompileError, match=r"'y' is a Sequence\(Tensor\(FLOAT\)\), and a program holds tensors"):
        ek.compile(sequence)
    given = build([node("SequenceAt", ["x", "i"], ["y"])], {"i": np.array(0)}, [2, 6])
    given.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(CompileError, match="input 'x' is a sequence_type; a program takes tensors"):
        ek.compile(given)


def test_a_constant_that_nobody_can_compute_is_named():
    """An onnxruntime...Fail came out of compile."""
    nodes = [node("Reshape", ["c", "s"], ["d"]), node("Add", ["x", "d"], ["y"])]
    model = build(nodes, {"c": np.ones(5, np.float32), "s": np.array([2, 6])}, [2, 6])
    with pytest.raises(CompileError, match=r"onnxruntime cannot compute Reshape 'd': .*cannot be reshaped"):
        ek.compile(model)


# --- what passes a limit of the index


def test_names_of_any_length_are_taken(rng):
    """The index' own text came out of compile: a count of 5000 passes the limit of 4096."""
    x, w = "x" * 5000, f32(rng.normal(size=(6, 6)))
    model = build(
        [node("Gemm", [x, "w"], ["ä" * 3000], name="n" * 5000), node("Relu", ["ä" * 3000], ["y"])], {"w": w}, [2, 6]
    )
    model.graph.input[0].name = x
    [(ours, theirs)], _ = all_the_way(model, {x: f32(rng.normal(size=(2, 6)))}, allow_host=False)
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_more_dimensions_than_a_program_holds_are_refused_by_name():
    g = Graph()
    model = g.model(g.op("Relu", g.qdq(g.input("x", [1] * 8 + [4]))))
    with pytest.raises(CompileError, match="'x' has 9 dimensions, and a program holds 8 at most"):
        ek.compile(model)


def test_more_pieces_than_a_step_holds_go_to_the_host():
    g = Graph()
    x = image(g, 1, 4)
    with pytest.warns(EdgekernWarning, match="Concat of more than 4096 tensors has no kernel"):
        program = ek.compile(g.model(g.op("Concat", *[x] * 4097, axis=0)))
    result = ek.InferenceSession(program).run(None, {"x": np.ones((1, 4), np.float32)})[0]
    assert result.shape == (4097, 4)


# --- draws

NOISE = helper.make_function(
    "own",
    "Noise",
    ["p"],
    ["n"],
    [node("Bernoulli", ["p"], ["n"])],
    [helper.make_opsetid("", 17)],
)


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("op", ["Bernoulli", "Dropout"])
def test_two_draws_are_two_numbers(op):
    """They were merged, here and in onnxruntime's host session: their difference was 0 everywhere."""
    more = ["ratio", "training"] if op == "Dropout" else []
    nodes = [node(op, ["x", *more], [name]) for name in "ab"]
    constants = {"ratio": np.float32(0.5), "training": np.array(True)}
    model = build([*nodes, node("Sub", ["a", "b"], ["y"])], constants, [32, 32])
    x = np.full((32, 32), 0.5, np.float32)
    assert np.any(ek.InferenceSession(ek.compile(model)).run(None, {"x": x})[0])


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_what_a_function_draws_is_no_constant():
    """``quantize`` looked at the name of the call alone, and froze one draw."""
    nodes = [node("Noise", ["half"], ["n"], domain="own"), node("Mul", ["x", "n"], ["m"])]
    nodes.append(node("MatMul", ["m", "w"], ["y"]))
    constants = {"half": np.full((32, 32), 0.5, np.float32), "w": np.eye(32, dtype=np.float32)}
    model = build(nodes, constants, [32, 32])
    model.functions.append(NOISE)
    model.opset_import.append(helper.make_opsetid("own", 1))
    x = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    qdq = ek.quantize(model, ranges_of(model, x))
    assert any(made.op_type == "Noise" for made in qdq.graph.node)


# --- masks and limits


@pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float32).min, -1e9, -1e4])
@pytest.mark.parametrize("mask", ["constant", "input", "behind a Reshape"])
@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_a_mask_that_softmax_reads_costs_no_accuracy(mask, fill):
    """The sum had 8 bits from -1e9 to 5, one code for all that is not masked: 1.8 dB; of -inf it was refused."""
    rng = np.random.default_rng(2)
    names = ["q", "k", "v", "o"]
    weights = {name: rng.normal(size=(8, 8)).astype(np.float32) / 2 for name in names}
    values = np.triu(np.full((6, 6), fill, np.float32), 1)
    nodes = [node("MatMul", ["x", name], [f"x{name}"]) for name in names[:3]]
    nodes.append(node("Transpose", ["xk"], ["t"], perm=[1, 0]))
    nodes.append(node("MatMul", ["xq", "t"], ["scores"]))
    nodes.append(node("Add", ["scores", "mask"], ["sum"]))
    if mask == "behind a Reshape":
        nodes.append(node("Unsqueeze", ["sum", "first"], ["wide"]))
        nodes += [node("Softmax", ["wide"], ["p1"]), node("Squeeze", ["p1", "first"], ["p"])]
    else:
        nodes.append(node("Softmax", ["sum"], ["p"]))
    nodes += [node("MatMul", ["p", "xv"], ["c"]), node("MatMul", ["c", "o"], ["y"])]
    constants = {**weights, "first": np.array([0])} | ({} if mask == "input" else {"mask": values})
    model = build(nodes, constants, [6, 8])
    feeds = {"x": rng.normal(size=(6, 8)).astype(np.float32)}
    if mask == "input":
        model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [6, 6]))
        feeds["mask"] = values
    qdq = ek.quantize(model, ek.Calibrator(model, progress=False).collect(feeds).compute_ranges())
    [expected] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert sqnr_db(expected, ek.InferenceSession(ek.compile(qdq)).run(None, feeds)[0]) > 25


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=len)
def test_a_number_that_is_added_to_what_softmax_reads_is_no_mask(shape, rng):
    weights = {name: f32(rng.normal(size=(8, 8))) for name in "qkv"} | {"n": np.full(shape, 2, np.float32)}
    nodes = [node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"]
    nodes += [node("Transpose", ["xk"], ["t"], perm=[1, 0]), node("MatMul", ["xq", "t"], ["s"])]
    nodes += [node("Add", ["s", "n"], ["d"]), node("Softmax", ["d"], ["p"]), node("MatMul", ["p", "xv"], ["y"])]
    model = build(nodes, weights, [4, 8])
    qdq = ek.quantize(model, ranges_of(model, f32(rng.normal(size=(4, 8)))), STATIC)
    assert [made for made in qdq.graph.node if made.op_type == "QuantizeLinear" and made.input[0] == "d"]


def test_a_clip_from_above_its_upper_limit_gives_that():
    """ONNX: everything becomes the upper limit; it got the range of nothing, and gave 0."""
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Clip", ["c", "one", "half"], ["y"])]
    nodes.append(node("Conv", ["y", "v"], ["z"]))
    constants = {"w": f32(np.ones((2, 1, 1, 1))), "v": f32(np.ones((1, 2, 1, 1)))}
    model = build(nodes, constants | {"one": np.float32(1), "half": np.float32(-0.5)}, [1, 1, 3, 3], ("z",))
    x = np.random.default_rng(0).normal(size=(1, 1, 3, 3)).astype(np.float32)
    program = ek.compile(ek.quantize(model, ranges_of(model, x)), allow_host=False)
    np.testing.assert_allclose(ek.InferenceSession(program).run(None, {"x": x})[0], -1.0, rtol=0.02)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_16_bit_pairs_of_onnxruntimes_own_domain_stay_there(dtype, opset):
    """ONNX has them from 21 on; they were moved to its domain in any opset, and refused there."""
    parameters = {"s": np.float32(0.001), "z": np.array(7, dtype)}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft")]
    nodes.append(node("DequantizeLinear", ["q", "s", "z"], ["y"], domain="com.microsoft"))
    model = build(nodes, parameters, [4, 6], opset=opset)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    np.testing.assert_array_equal(ek.InferenceSession(ek.compile(model)).run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("op", "opset", "scale"),
    [(op, opset, scale) for op, opset in (("Upsample", 7), ("Upsample", 9), ("Resize", 10)) for scale in (1.7, 2.0)]
    + [("Resize", 10, 0.6)],
)
def test_resizing_means_what_it_meant_in_the_opset_of_the_file(op, opset, mode, scale):
    """onnx's converter gives Upsample the new default of Resize: off by half a pixel."""
    scales = [1.0, 1.0, scale, scale]
    inputs, attributes = (["x"], {"scales": scales}) if opset == 7 else (["x", "s"], {})
    stored = [] if opset == 7 else [numpy_helper.from_array(np.array(scales, np.float32), "s")]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], mode=mode, **attributes)],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = np.random.default_rng(3).normal(size=(1, 2, 5, 6)).astype(np.float32)
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    program = ek.compile(model, allow_host=False)
    np.testing.assert_allclose(ek.InferenceSession(program).run(None, {"x": x})[0], expected, atol=1e-5)


def test_nodes_in_any_order_are_sorted_those_in_bodies_too():
    """onnxruntime runs such files, and its quantizer writes them."""
    make, value = helper.make_node, helper.make_tensor_value_info
    inner = [make("Relu", ["n"], ["m"]), make("Neg", ["b"], ["n"])]
    bodies = [
        helper.make_graph(
            [*inner[:1], make(kind, ["m"], [name]), *inner[1:]], kind, [], [value(name, TensorProto.FLOAT, [3])]
        )
        for kind, name in (("Exp", "e"), ("Abs", "a"))
    ]
    nodes = [
        make("Add", ["c", "x"], ["y"]),
        make("If", ["choose"], ["c"], then_branch=bodies[0], else_branch=bodies[1]),
        make("Sigmoid", ["x"], ["b"]),
    ]
    model = build(nodes, {"choose": np.array(True)}, [3])
    x = np.array([-1.0, 0.5, 2.0], np.float32)
    [found] = ek.InferenceSession(ek.compile(model, allow_host=False)).run(None, {"x": x})
    np.testing.assert_allclose(found, np.exp(np.maximum(-1 / (1 + np.exp(-x)), 0)) + x, rtol=1e-6)
    assert [node.op_type for node in model.graph.node] == ["Add", "If", "Sigmoid"]
