"""Whole graphs in float16 and bfloat16: their float32 twins between two borders, and half the bytes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern import _core
from edgekern._core import Storage
from test_float_nets import feeds_of, net, transformer

from float_models import f32, small_cnn
from graphs import onnxruntime_session

HALVES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
FLOAT16 = TensorProto.FLOAT16


def mlp():
    rng = np.random.default_rng(3)
    weights = {"w1": f32(rng.normal(0, 0.2, (48, 96))), "b1": f32(rng.normal(size=96)), "g": f32(rng.normal(size=96))}
    weights |= {"b": f32(rng.normal(size=96)), "w2": f32(rng.normal(0, 0.2, (96, 10))), "tenth": np.float32(0.1)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "g", "b"], ["n"]),
        helper.make_node("Tanh", ["n"], ["t"]),
        helper.make_node("MatMul", ["t", "w2"], ["m"]),
        helper.make_node("Mul", ["m", "tenth"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]
    return net(nodes, weights, {"x": (5, 48)}, ["y"])


def picture():
    """Its result is an image, whose channels lie last where it is made."""
    weights = {"w": f32(np.random.default_rng(4).normal(0, 0.2, (5, 3, 3, 3)))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2]),
    ]
    return net(nodes, weights, {"x": (1, 3, 11, 9)}, ["y"])


NETS = {"cnn": small_cnn, "mlp": mlp, "picture": picture, "transformer": transformer}
BATCH = {"cnn": 2, "mlp": 1, "picture": 1, "transformer": 1}  # of those that leave one free


def halved(model, kind):
    """The model with every float32 of it in halves; and its twin: the same numbers in float32."""
    half, twin = onnx.ModelProto(), onnx.ModelProto()
    half.CopyFrom(model)
    twin.CopyFrom(model)
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(HALVES[kind])
            half.graph.initializer[place].CopyFrom(numpy_helper.from_array(array, tensor.name))
            twin.graph.initializer[place].CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    return half, twin


def run(program, feeds, **options):
    return ek.InferenceSession(program, **options).run(None, feeds)


def same_numbers(a, b):
    return np.array_equal(a.astype(np.float32), b.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", NETS)
def test_a_graph_in_halves_is_its_float32_twin_between_two_borders(name, kind):
    half, twin = halved(NETS[name](), kind)
    feeds, given = feeds_of(half), half.SerializeToString()
    program = ek.compile(half, allow_host=False, batch=BATCH[name])
    assert half.SerializeToString() == given
    assert [info.dtype for info in program.outputs] == [HALVES[kind]]
    wide = {key: x.astype(np.float32) if x.dtype == HALVES[kind] else x for key, x in feeds.items()}
    [expected] = run(ek.compile(twin, allow_host=False, batch=BATCH[name]), wide)
    for isa in _core.available_isas():
        [found] = run(program, feeds, isa=isa, num_threads=2)
        assert found.dtype == HALVES[kind]
        assert same_numbers(found, expected.astype(HALVES[kind]))


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_agrees_to_half_precision(name):
    half, _ = halved(NETS[name](), FLOAT16)
    feeds = feeds_of(half)
    [expected] = onnxruntime_session(half, optimized=False).run(None, feeds)
    [found] = run(ek.compile(half, batch=BATCH[name]), feeds)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * 2**-10 * float(np.abs(expected).max()))


def blobs_of(program):
    return {blob.name.partition(".")[2]: blob for blob in program.index.blobs}


@pytest.mark.parametrize("kind", HALVES)
def test_weights_take_half_the_bytes_and_none_of_the_time(kind):
    rng = np.random.default_rng(0)
    weights = {name: f32(rng.normal(0, 0.1, (256, 256))) for name in ("w1", "w2")} | {"b": f32(rng.normal(size=256))}
    nodes = [helper.make_node("Gemm", ["x", "w1", "b"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    half, twin = halved(net(nodes, weights, {"x": (3, 256)}, ["y"]), kind)
    small, large = (ek.compile(model, allow_host=False) for model in (half, twin))
    assert small.container.data.size < 0.52 * large.container.data.size
    stored = Storage.F16 if kind == FLOAT16 else Storage.BF16
    assert [blob.stored for blob in small.index.blobs if blob.bytes > 1024] == [stored] * 2
    assert all(blob.stored == Storage.WHOLE for blob in large.index.blobs)
    # Widened once: a session of each holds and reads the same.
    assert [step.nbytes for step in small.steps if step.kind == "GEMM_F32"] == [
        step.nbytes for step in large.steps if step.kind == "GEMM_F32"
    ]


def test_a_program_of_halves_is_a_file_like_any_other(tmp_path):
    half, _ = halved(mlp(), FLOAT16)
    program, feeds = ek.compile(half, allow_host=False), feeds_of(half)
    program.save(tmp_path / "half.ekm")
    [expected], [found] = run(program, feeds), run(tmp_path / "half.ekm", feeds)
    assert np.array_equal(found, expected)
    out = np.empty_like(found)
    ek.InferenceSession(program).run(None, feeds, out=[out])
    assert np.array_equal(out, expected)
    session = ek.InferenceSession(program)
    assert [arg.type for arg in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float16)"] * 2
    with pytest.raises(ek.errors.ArgumentTypeError, match="input 'x' must be float16, got float32; convert it with"):
        run(program, {"x": feeds["x"].astype(np.float32)})


def rounding(kind):
    """A float32 graph that rounds to halves on its way."""
    nodes = [
        helper.make_node("Mul", ["x", "third"], ["m"]),
        helper.make_node("Cast", ["m"], ["h"], to=kind),
        helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["w", "three"], ["y"]),
    ]
    return net(nodes, {"third": np.float32(1 / 3), "three": np.float32(3)}, {"x": (4, 100)}, ["y"])


@pytest.mark.parametrize("kind", HALVES)
def test_a_cast_in_a_float32_graph_rounds_within_one_step(kind):
    program, feeds = ek.compile(rounding(kind), allow_host=False), feeds_of(rounding(kind))
    assert [step.kind for step in program.steps] == ["MAP"]
    [found] = run(program, feeds)
    rounded = (feeds["x"] * np.float32(1 / 3)).astype(HALVES[kind]).astype(np.float32)
    assert np.array_equal(found, rounded * np.float32(3))


@pytest.mark.filterwarnings("ignore:compile. 1 nodes run on the host:edgekern.errors.EdgekernWarning")  # the If
def test_a_graph_of_both_rounds_at_its_casts():
    """Some nodes in float32 between Casts, as converters leave them, and an If with halves in its bodies."""
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["h", "w"], [name])], name, [], [value(name, FLOAT16, None)]
        )
        for name, op in (("then", "Add"), ("else", "Mul"))
    }
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["wide"], ["e"]),
        helper.make_node("Cast", ["e"], ["back"], to=FLOAT16),
        helper.make_node("If", ["choice"], ["i"], **branches),
        helper.make_node("Add", ["back", "i"], ["y"]),
    ]
    inputs = {"x": ((6, 8), FLOAT16), "choice": ((1,), TensorProto.BOOL)}
    model = net(nodes, {"w": np.float16(0.3)}, inputs, ["y", "back"])
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float16)
    product = x.astype(np.float32) * np.float32(np.float16(0.3))
    program = ek.compile(model)
    for choice in (True, False):
        y, back = run(program, {"x": x, "choice": np.array([choice])})
        assert y.dtype == back.dtype == np.float16
        np.testing.assert_allclose(back, np.exp(product).astype(np.float16), rtol=2**-10)
        branch = product + np.float32(np.float16(0.3)) if choice else product * np.float32(np.float16(0.3))
        assert np.array_equal(y, (back.astype(np.float32) + branch).astype(np.float16))


def pooled():
    """What an input is given to is quantized where a node that was quantized gives it, too."""
    weights = {"w": f32(np.random.default_rng(4).normal(0, 0.2, (5, 3, 3, 3)))}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    return net(nodes, weights, {"x": ("n", 3, 12, 12)}, ["y"])


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("make", [small_cnn, pooled])
def test_quantize_takes_halves_by_their_float32_values(make, kind):
    half, twin = halved(make(), kind)
    x = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(HALVES[kind])
    qdqs = []
    for model, feed in ((half, x), (twin, x.astype(np.float32))):
        ranges = ek.Calibrator(model, progress=False).collect({"x": feed}).compute_ranges()
        qdqs.append(ek.quantize(model, ranges))
    programs = [ek.compile(qdq, batch=8, allow_host=False) for qdq in qdqs]
    [found], [expected] = run(programs[0], {"x": x}), run(programs[1], {"x": x.astype(np.float32)})
    assert found.dtype == HALVES[kind]
    assert same_numbers(found, expected.astype(HALVES[kind]))
    report = ek.compare(half, programs[0], {"x": x})
    assert min(row.sqnr_db for row in report.rows) > 20


@pytest.mark.parametrize("kind", HALVES)
def test_constants_in_halves_are_outputs_like_any_other(kind):
    weights = {"w": np.float32([0.1, -2.5, 1e-6]).astype(HALVES[kind])}
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Neg", ["w"], ["z"])]
    program = ek.compile(net(nodes, weights, {"x": ((2, 3), kind)}, ["y", "z", "w"]), allow_host=False)
    x = np.ones((2, 3), HALVES[kind])
    y, z, w = run(program, {"x": x})
    assert y.dtype == z.dtype == w.dtype == HALVES[kind]
    assert same_numbers(w, weights["w"])
    assert same_numbers(z, -weights["w"])
    assert same_numbers(y, np.broadcast_to(weights["w"], (2, 3)))


@pytest.mark.filterwarnings("ignore:compile. :edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("kind", HALVES)
def test_operators_of_other_domains_run_on_the_host_between_half_borders(kind):
    """Only onnxruntime knows type and shape of what they give."""
    nodes = [helper.make_node("QuickGelu", ["x"], ["g"], domain="com.microsoft"), helper.make_node("Neg", ["g"], ["y"])]
    model = net(nodes, {}, {"x": ((4, 6), kind)}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = np.linspace(-3, 3, 24).reshape(4, 6).astype(HALVES[kind])
    program = ek.compile(model)
    assert [step.operators for step in program.host_steps] == [("QuickGelu",)]
    [found] = run(program, {"x": x})
    wide = x.astype(np.float32)
    np.testing.assert_allclose(found.astype(np.float32), -wide / (1 + np.exp(-1.702 * wide)), rtol=2**-8)
