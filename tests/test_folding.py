"""Constants are computed once before anything is placed: ranges, hash and names stay those of the model as given."""

import warnings

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern.errors import CompileError
from edgekern.graph import fold_constants
from edgekern.graph.evaluate import evaluate
from edgekern.graph.fold_constants import folded
from edgekern.graph.model import model_hash, open_model

from float_models import FLOAT, STATIC, View, build, f32, helper, numpy_helper, ranges_of, sqnr_db
from graphs import S8, U8, Graph, feeds_of, onnxruntime_session
from qdq_models import image

node = helper.make_node
RNG = np.random.default_rng(0)
KERNEL = f32(RNG.normal(size=(8, 3, 3, 3)) / 5)
SHAPE = {"shape": np.array([8, 3, 3, 3])}
# From ``stored`` to ``w``, the weights of a Conv.
WEIGHTS = {
    "Transpose": (KERNEL.transpose(1, 0, 3, 2), {}, [node("Transpose", ["stored"], ["w"], perm=[1, 0, 3, 2])]),
    "Reshape": (KERNEL.reshape(-1), SHAPE, [node("Reshape", ["stored", "shape"], ["w"])]),
    "Identity": (KERNEL, {}, [node("Identity", ["stored"], ["w"])]),
    "Cast": (KERNEL.astype(np.float16), {}, [node("Cast", ["stored"], ["w"], to=FLOAT)]),
    "Unsqueeze": (KERNEL[..., 0], {"axis": np.array([3])}, [node("Unsqueeze", ["stored", "axis"], ["w0"])]),
    "Constant": (KERNEL, {}, [node("Constant", [], ["w"], value=numpy_helper.from_array(KERNEL))]),
    "Mul": (KERNEL, {"half": np.float32(0.5)}, [node("Mul", ["stored", "half"], ["w"])]),
    "Slice": (
        np.concatenate([KERNEL, KERNEL]),
        {"zero": np.array([0]), "eight": np.array([8])},
        [node("Slice", ["stored", "zero", "eight"], ["w"])],
    ),
    "Transpose, Reshape, Cast": (
        KERNEL.reshape(8, 27).T.astype(np.float64),
        SHAPE,
        [
            node("Transpose", ["stored"], ["t"]),
            node("Reshape", ["t", "shape"], ["r"]),
            node("Cast", ["r"], ["w"], to=FLOAT),
        ],
    ),
}


def both(model, x, **options):
    """What onnxruntime gives for the float model, and what its program gives without a host step."""
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    program = ek.compile(ek.quantize(model, ranges_of(model, x, **options), STATIC), allow_host=False)
    return expected, ek.InferenceSession(program).run(None, {"x": x})[0], program


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_behind_other_nodes_are_quantized(kind):
    """Before, their Conv stayed float32, and the model was refused for having nothing to quantize."""
    stored, others, nodes = WEIGHTS[kind]
    w = nodes[-1].output[0]
    model = build([*nodes, node("Conv", ["x", w], ["y"])], {"stored": stored, **others}, ["n", 3, 8, 8])
    x = f32(RNG.normal(size=(2, 3, 8, 8)))
    before = model.SerializeToString()
    ranges = ranges_of(model, x)
    assert ranges.model_hash == model_hash(model)
    view = View(ek.quantize(model, ranges))
    assert {made.op_type for made in view.nodes} == {"QuantizeLinear", "DequantizeLinear", "Conv"}
    assert view.integers(view.of("Conv")[0].input[1])[0].shape[:2] == (8, 3)
    assert model.SerializeToString() == before
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = ek.InferenceSession(ek.compile(ek.quantize(model, ranges), batch=2, allow_host=False)).run(None, {"x": x})
    assert sqnr_db(expected, found) > 35


def test_linear_layers_as_pytorch_writes_them_run_on_kernels():
    """MatMul with a transposed weight and a bias, twice, and a product of matrices whose weights are Constants."""
    weights = {f"w{i}": f32(RNG.normal(size=(16, 16)) / 4) for i in (0, 1)} | {"b": f32(RNG.normal(size=16))}
    nodes = [
        node("Transpose", ["w0"], ["t0"], perm=[1, 0]),
        node("MatMul", ["x", "t0"], ["m0"]),
        node("Add", ["b", "m0"], ["a0"]),
        node("Relu", ["a0"], ["r0"]),
        node("Transpose", ["w1"], ["t1"], perm=[1, 0]),
        node("MatMul", ["r0", "t1"], ["m1"]),
        node("Relu", ["m1"], ["r1"]),
        node("Constant", [], ["c"], value=numpy_helper.from_array(weights["w0"])),
        node("MatMul", ["r1", "c"], ["y"]),
    ]
    expected, found, program = both(build(nodes, weights, [1, 5, 16]), f32(RNG.normal(size=(1, 5, 16))))
    assert sqnr_db(expected, found) > 30
    assert [step.op for step in program.steps if step.kind == "GEMM"] == ["MatMul+Add+Relu", "MatMul+Relu", "MatMul"]


@pytest.mark.parametrize("behind", [[], ["Relu"], ["Sigmoid", "Relu"]])
@pytest.mark.parametrize("row", [(16,), (1, 16), (1, 1, 16)])
def test_a_row_added_to_a_product_of_any_rank_is_its_bias(row, behind):
    """The Add took a step of its own, and its constant 8 bits. A column of weights near 0 has a bias of 1."""
    w = f32(RNG.normal(size=(16, 16)) / 4)
    w[:, 3] *= np.float32(1e-20)
    bias = f32(RNG.normal(size=row))
    bias[..., 3] = 1
    nodes, y = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"])], "a"
    for kind in behind:
        nodes.append(node(kind, [y], [kind]))
        y = kind
    model = build([*nodes, node("MatMul", [y, "v"], ["y"])], {"w": w, "b": bias, "v": w.T.copy()}, [1, 5, 16])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*wider weight scale.*")
        expected, found, program = both(model, f32(RNG.normal(size=(1, 5, 16))))
    assert [step.kind for step in program.steps].count("GEMM") == 2
    assert "ADD" not in [step.kind for step in program.steps]
    assert sqnr_db(expected, found) > 30


PER_CHANNEL = {
    "Add behind Reshape": [node("Reshape", ["flat", "shape4"], ["k"]), node("Add", ["c", "k"], ["a"])],
    "Add, the constant first": [node("Add", ["channels", "c"], ["a"])],
    "Sub": [node("Sub", ["c", "channels"], ["a"])],
    "Sub from the constant": [node("Sub", ["channels", "c"], ["a"])],
    "Mul": [node("Mul", ["c", "channels"], ["a"])],
    "Div": [node("Div", ["c", "channels"], ["a"])],
    "Mul, Add, BatchNormalization": [
        node("Mul", ["c", "channels"], ["c1"]),
        node("Add", ["c1", "channels"], ["c2"]),
        node("BatchNormalization", ["c2", "positive", "flat", "flat", "positive"], ["a"]),
    ],
}
CHANNELS = {
    "w1": f32(RNG.normal(size=(8, 3, 3, 3)) / 5),
    "w2": f32(RNG.normal(size=(4, 8, 1, 1))),
    "flat": f32(RNG.normal(size=8)),
    "positive": f32(RNG.uniform(0.5, 2, 8)),
    "channels": f32(RNG.uniform(0.5, 2, (8, 1, 1))),
    "shape4": np.array([1, 8, 1, 1]),
}


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_constants_for_each_channel_belong_to_the_conv(kind):
    """As Paddle writes biases: behind Reshape they ended in an AssertionError, else they took 8 bits and a step."""
    nodes = [node("Conv", ["x", "w1"], ["c"]), *PER_CHANNEL[kind], node("Relu", ["a"], ["r"])]
    model = build([*nodes, node("Conv", ["r", "w2"], ["y"])], CHANNELS, [1, 3, 8, 8])
    expected, found, program = both(model, f32(RNG.normal(size=(1, 3, 8, 8))))
    assert [step.kind for step in program.steps] == ["QUANTIZE_NCHW", "CONV", "CONV", "TRANSPOSE"]
    assert sqnr_db(expected, found) > 35


def test_a_sum_that_others_read_keeps_its_constant():
    nodes = [node("Conv", ["x", "w1"], ["c"]), node("Add", ["c", "channels"], ["a"]), node("Mul", ["c", "a"], ["y"])]
    model = build(nodes, CHANNELS, [1, 3, 8, 8])
    qdq = ek.quantize(model, ranges_of(model, f32(RNG.normal(size=(1, 3, 8, 8)))))
    assert [made.op_type for made in qdq.graph.node].count("Add") == 1


def test_a_row_behind_a_conv_whose_rank_nobody_knows_is_added_along_the_width():
    """It was folded along the channels, of which there are as many: 2.0 dB."""
    weights = {f"w{i}": f32(RNG.normal(size=(4, 4, 1, 1))) for i in (1, 2)} | {"row": f32(3 * RNG.normal(size=(1, 4)))}
    nodes = [
        node("Conv", ["x", "w1"], ["c"]),
        node("Add", ["c", "row"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["y"]),
    ]
    model = build(nodes, weights, ["n", 4, 4, 4])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    x = f32(RNG.normal(size=(1, 4, 4, 4)))
    qdq = ek.quantize(model, ranges_of(model, x))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})
    assert sqnr_db(expected, found) > 30
    program = ek.compile(qdq, shapes={"x": x.shape}, allow_host=False)
    assert sqnr_db(expected, ek.InferenceSession(program).run(None, {"x": x})[0]) > 30


def test_a_row_behind_a_gemm_belongs_to_it_whatever_is_known_of_its_input():
    nodes = [node("Gemm", ["x", "w"], ["g"]), node("Add", ["g", "row"], ["y"])]
    model = build(nodes, {"w": f32(RNG.normal(size=(6, 4))), "row": f32(RNG.normal(size=(1, 4)))}, ["n", 6])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    x = f32(RNG.normal(size=(3, 6)))
    qdq = ek.quantize(model, ranges_of(model, x))
    assert "Add" not in {made.op_type for made in qdq.graph.node}
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    assert sqnr_db(expected, onnxruntime_session(qdq, optimized=False).run(None, {"x": x})[0]) > 30


def with_odd_channel(op, bad):
    channels = CHANNELS["positive"].copy()
    channels[3] = bad
    odd = channels if op == "BatchNormalization" else channels.reshape(8, 1, 1)
    nodes = [
        node("Conv", ["x", "w1"], ["c"]),
        node(op, ["c", "positive", "odd", "flat", "positive"] if op == "BatchNormalization" else ["c", "odd"], ["a"]),
        node("Clip", ["a", "low", "high"], ["r"]),
        node("Conv", ["r", "w2"], ["y"]),
    ]
    return build(nodes, CHANNELS | {"odd": odd, "low": np.float32(-2), "high": np.float32(2)}, [1, 3, 8, 8])


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("op", ["Mul", "BatchNormalization"])
def test_constants_that_are_not_finite_stay_where_they_are(op, bad):
    """Refused: "'y_weight' holds NaN or Inf", which is no tensor of the model."""
    model = with_odd_channel(op, bad)
    x = f32(RNG.normal(size=(1, 3, 8, 8)))
    with warnings.catch_warnings(action="ignore", category=ek.errors.EdgekernWarning):
        qdq = ek.quantize(model, ranges_of(model, x))
    assert op in {made.op_type for made in qdq.graph.node}
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    assert sqnr_db(expected, onnxruntime_session(qdq, optimized=False).run(None, {"x": x})[0]) > 30


def test_an_added_constant_that_is_not_finite_is_refused_by_its_own_name():
    model = with_odd_channel("Add", np.inf)
    x = f32(RNG.normal(size=(1, 3, 8, 8)))
    with (
        warnings.catch_warnings(action="ignore", category=ek.errors.EdgekernWarning),
        pytest.raises(ek.errors.QuantizationError, match="constant 'odd' holds NaN or Inf"),
    ):
        ek.quantize(model, ranges_of(model, x))


@pytest.mark.usefixtures("no_float_kernels")
def test_a_constant_that_is_quantized_twice_is_refused_by_name():
    """DequantizeLinear, QuantizeLinear, DequantizeLinear on a constant: no integers of their own. An AssertionError."""
    g = Graph()
    twice = g.qdq(g.qdq(g.const(np.ones((1, 8, 9, 7)), np.float32)))
    model = g.model(g.qdq(g.op("Add", image(g), twice), 0.2))
    with pytest.raises(ek.errors.HostStepError, match="its constant operand is not quantized"):
        ek.compile(model, allow_host=False)


def test_what_is_made_of_shapes_runs_on_any_batch():
    """Sizes stay computed in the QDQ model, though the compiler knows them."""
    nodes = [
        node("Conv", ["x", "w1"], ["c"]),
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["to"], axis=0),
        node("Reshape", ["c", "to"], ["y"]),
    ]
    model = build(nodes, CHANNELS | {"zero": np.array([0]), "rest": np.array([-1])}, ["n", 3, 8, 8])
    x = f32(RNG.normal(size=(4, 3, 8, 8)))
    qdq = ek.quantize(model, ranges_of(model, x))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})
    assert sqnr_db(expected, found) > 35


@pytest.mark.parametrize("domain", ["of.somebody", "com.microsoft"])
def test_nodes_that_onnxruntime_cannot_compute_stay(domain):
    nodes = [
        node("Unheard", ["w1"], ["u"], domain=domain),
        node("Transpose", ["w1"], ["t"], perm=[0, 1, 3, 2]),
        node("Conv", ["x", "t"], ["c"]),
        node("Take", ["c", "u"], ["y"], domain=domain),
    ]
    model = build(nodes, CHANNELS, [1, 3, 8, 8])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    left = [made.op_type for made in folded(open_model(model, function="test"), function="test").proto.graph.node]
    assert left == ["Unheard", "Conv", "Take"]


def test_heavy_results_are_computed_when_they_are_read(monkeypatch):
    """So that no second copy of all transposed weights is held."""
    large = f32(RNG.normal(size=(1024, 300)))
    nodes = [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"])]
    model = build(nodes, {"w": large}, ["n", 300])
    calls = []
    monkeypatch.setattr(
        fold_constants, "evaluate", lambda *given, **to: calls.append(given[3]) or evaluate(*given, **to)
    )
    made = folded(open_model(model, function="test"), function="test")
    assert calls == []
    value = made.to_ir().graph.initializers["t"].const_value
    np.testing.assert_array_equal(value.numpy(), large.T)
    np.testing.assert_array_equal(value.numpy(), large.T)
    assert calls == [["t"], ["t"]]


FAILS = [  # onnxruntime has no Erf of doubles
    node("Erf", ["wide"], ["e"]),
    node("Cast", ["e"], ["f"], to=FLOAT),
    node("Mul", ["x", "f"], ["z"]),
]
# A node of which somebody reads some results only, beside the constants that it has.
HALF_READ = {
    "TopK": [node("TopK", ["row", "two"], ["p", "places"]), node("Add", ["z", "p"], ["y"])],
    "Split": [node("Split", ["row", "halves"], ["p", "q"]), node("Add", ["z", "p"], ["y"])],
    "MaxPool": [node("MaxPool", ["image"], ["p", ""], kernel_shape=[1]), node("Add", ["z", "p"], ["y"])],
    "a result for what fails": [
        node("Split", ["wide_row", "halves"], ["p", "q"]),
        node("Cast", ["p"], ["narrow"], to=FLOAT),
        node("Erf", ["q"], ["r"]),
        node("Cast", ["r"], ["s"], to=FLOAT),
        node("Add", ["z", "narrow"], ["u"]),
        node("Add", ["u", "s"], ["y"]),
    ],
    "one that is read, and feeds what fails": [
        node("Split", ["wide_row", "halves"], ["p", "q"]),
        node("Erf", ["q"], ["r"]),
        node("Cast", ["x"], ["doubled"], to=onnx.TensorProto.DOUBLE),
        node("Add", ["doubled", "p"], ["u"]),
        node("Add", ["u", "r"], ["v"]),
        node("Cast", ["v"], ["y"], to=FLOAT),
    ],
}


@pytest.mark.parametrize("kind", HALF_READ)
def test_folding_beside_a_constant_that_nobody_computes_gives_a_valid_graph(kind):
    """The node stayed for the result that nobody reads, and an initializer had the name of the one that is."""
    constants = {
        "wide": np.ones(2),
        "row": f32(np.arange(4)),
        "wide_row": np.arange(4.0),
        "image": f32(np.ones((1, 1, 2))),
        "two": np.array([2]),
        "halves": np.array([2, 2]),
    }
    model = build([*FAILS, *HALF_READ[kind]], constants, ["n", 2])
    made = folded(open_model(model, function="test"), function="test").to_proto()
    onnx.checker.check_model(made, full_check=True)
    names = {name for one in made.graph.node for name in one.output}
    assert not names & {tensor.name for tensor in made.graph.initializer}


def test_a_large_constant_that_nobody_computes_stays():
    """It was believed before it was tried, and quantize ended in an error of compile's."""
    nodes = [
        node("Erf", ["large"], ["e"]),
        node("Cast", ["e"], ["w"], to=FLOAT),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "v"], ["y"]),
    ]
    stored = {"large": RNG.normal(size=(512, 512)), "v": f32(RNG.normal(size=(512, 16)))}
    made = folded(open_model(build(nodes, stored, ["n", 512]), function="test"), function="test")
    assert [one.op_type for one in made.proto.graph.node] == ["Erf", "Cast", "MatMul", "MatMul"]


def test_an_error_of_folding_names_who_folds():
    broken = build([node("Reshape", ["w1", "zero"], ["r"]), node("Mul", ["x", "r"], ["y"])], CHANNELS, [1, 3, 8, 8])
    broken.graph.initializer.append(numpy_helper.from_array(np.array([5, 5]), "zero"))
    with pytest.raises(CompileError, match=r"^quantize: "):
        fold_constants.fold_constants(open_model(broken, function="test"), function="quantize")


# --- BatchNormalization in other tools' QDQ models


def norm(g, y, channels, *, quantized_gamma=False, gamma=None):
    gamma = RNG.uniform(0.5, 2, channels) if gamma is None else np.asarray(gamma)
    first = g.const(gamma, np.float32)
    if quantized_gamma:  # as onnxruntime's quantize_static leaves it
        codes = g.const(np.rint(gamma * 50), S8)
        first = g.op("DequantizeLinear", codes, g.const(0.02, np.float32), g.const(0, S8))
    return g.op("BatchNormalization", y, first, *(g.const(RNG.uniform(0.5, 2, channels), np.float32) for _ in range(3)))


@pytest.mark.parametrize("gamma", [None, [1, -1, 0.5, -0.5, 2, 0, 1e-12, 1]], ids=["ordinary", "of any sign, and dead"])
@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("between", ["Q and DQ", "nothing"])
def test_batch_normalization_behind_a_conv_runs_on_kernels(between, dtype, gamma):
    """Before, each was a host step: 35 of them in a face detector."""
    g = Graph()
    codes = g.const(RNG.integers(-127, 127, (8, 8, 3, 3)), S8)  # no -128, which has no negative
    w = g.op("DequantizeLinear", codes, g.const(RNG.uniform(0.001, 0.01, 8), np.float32), axis=0)
    y = g.op("Conv", image(g, dtype=dtype), w, g.vector(8))
    y = g.qdq(y, 0.3, dtype=dtype) if between == "Q and DQ" else y
    y = g.op("Relu", norm(g, y, 8, quantized_gamma=between == "Q and DQ" and gamma is None, gamma=gamma))
    model = g.model(g.qdq(y, 0.1, dtype=dtype))
    program = ek.compile(model, allow_host=False)
    kinds = [step.kind for step in program.steps]
    assert kinds.count("CONV") + kinds.count("DEPTHWISE") == (2 if between == "Q and DQ" else 1)
    feeds = feeds_of(model)
    [found] = ek.InferenceSession(program).run(None, feeds)
    [expected] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert np.abs(found - expected).max() <= 0.1 * 1.001  # one step, where a bias or a tie is rounded the other way
    assert np.mean(found != expected) < 0.02


@pytest.mark.usefixtures("no_float_kernels")
def test_batch_normalization_of_a_float_stays_on_the_host():
    g = Graph()
    model = g.model(norm(g, g.input("x", (1, 8, 9, 7)), 8))
    with pytest.warns(ek.errors.EdgekernWarning, match="BatchNormalization"):
        program = ek.compile(model)
    feeds = feeds_of(model)
    [expected] = onnxruntime_session(model, optimized=False).run(None, feeds)
    np.testing.assert_allclose(ek.InferenceSession(program).run(None, feeds)[0], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("variance", [0.0, -1.0])
def test_a_batch_normalization_that_divides_by_nothing_stays_one(variance):
    """NumPy warned, and quantize refused weights that it had made itself: Conv 'y': 'y_weight' holds NaN or Inf."""
    weights = {"w": KERNEL, "g": f32(np.arange(1, 9)), "v": f32(np.array([1, variance, *[1] * 6]))}
    norm = node("BatchNormalization", ["c", "g", "g", "g", "v"], ["y"], epsilon=0.0)
    model = build([node("Conv", ["x", "w"], ["c"]), norm], weights, ["n", 3, 8, 8], ("y", "c"))
    x = f32(np.random.default_rng(2).normal(size=(1, 3, 8, 8)))
    calibrator = ek.Calibrator(model, progress=False, tensors=["x", "c"]).collect({"x": x})
    qdq = ek.quantize(model, calibrator.compute_ranges())
    assert "BatchNormalization" in [node.op_type for node in qdq.graph.node]
    for given in (model, qdq):
        expected = onnxruntime_session(given, optimized=False).run(None, {"x": x})[0]
        ours = ek.InferenceSession(ek.compile(given)).run(None, {"x": x})[0]
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
        assert sqnr_db(expected[:, [0, *range(2, 8)]], ours[:, [0, *range(2, 8)]]) > 30


@pytest.mark.usefixtures("no_float_kernels")
def test_weights_of_minus_128_are_not_turned_around():
    g = Graph()
    w = g.op("DequantizeLinear", g.const(np.full((2, 8, 1, 1), -128), S8), g.const(0.01, np.float32), g.const(0, S8))
    y = norm(g, g.op("Conv", image(g), w), 2, gamma=[1, -1])
    model = g.model(g.qdq(y, 0.3))
    with pytest.warns(ek.errors.EdgekernWarning, match="BatchNormalization"):
        program = ek.compile(model)
    feeds = feeds_of(model)
    [expected] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert np.abs(ek.InferenceSession(program).run(None, feeds)[0] - expected).max() <= 0.3 * 1.001
