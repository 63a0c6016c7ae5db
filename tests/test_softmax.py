"""8-bit Softmax over the last axis: one result on all ISAs and threads, within one code of the float one."""

import hashlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern import _core
from edgekern.errors import EdgekernWarning, HostStepError

from graphs import S8, U8, Graph, feeds_of, onnxruntime_session
from qdq_models import conv, image
from reference.program import run_program

# SHA-256 of the codes that every machine gives for fixed ones of this shape; tests/reference computed it.
GOLDEN = "4cb68a4cc86c0fcc"
GOLDEN_SHAPE = (7, 61)


def softmax_model(*shape, scale=0.05, dtype=U8, result=1 / 256, result_dtype=U8, clip=None, **attributes):
    g = Graph()
    y = g.op("Softmax", image(g, *shape, scale=scale, zero_point=3, dtype=dtype), **attributes)
    if clip is not None:
        y = g.op("Clip", y, *(g.const(np.float32(limit)) for limit in clip))
    return g.model(g.qdq(y, result, 0 if result_dtype == U8 else -128, dtype=result_dtype))


def run(program, feeds, **options):
    return ek.InferenceSession(program, **options).run(None, feeds)[0]


def kinds(program):
    return [step.kind for step in program.steps]


def float_softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@given(
    shape=st.tuples(st.lists(st.integers(1, 5), max_size=3), st.integers(1, 80)).map(lambda s: (*s[0], s[1])),
    scale=st.sampled_from([1e-6, 0.004, 0.05, 0.3, 20.0]),
    dtype=st.sampled_from([U8, S8]),
    result=st.sampled_from([(1 / 256, U8), (1 / 256, S8), (1 / 40, U8)]),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_any_softmax_equals_the_reference_and_is_a_code_from_float(shape, scale, dtype, result, seed, spread):
    model = softmax_model(*shape, scale=scale, dtype=dtype, result=result[0], result_dtype=result[1])
    program = ek.compile(model, allow_host=False)
    assert kinds(program).count("SOFTMAX") == 1
    feeds = {"x": np.random.default_rng(seed).normal(0, spread * scale * 60, shape).astype(np.float32)}
    [expected] = run_program(program.index, program.container.blobs, [feeds["x"]])
    for isa in _core.available_isas():
        for threads in (1, 3):
            np.testing.assert_array_equal(run(program, feeds, isa=isa, num_threads=threads), expected)
    lowest = 0 if dtype == U8 else -128
    x = (np.clip(np.rint(feeds["x"] / np.float32(scale)) + 3, lowest, lowest + 255) - 3) * np.float64(scale)
    truth = np.rint(float_softmax(x) / result[0]).clip(0, 255)
    assert np.abs(expected / np.float32(result[0]) - truth).max() <= 1


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 63, 64, 65, 1000, 70_001])
def test_long_rows_and_tails_on_every_isa(columns, isa):
    model = softmax_model(3, columns, scale=0.1)
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model)
    [expected] = run_program(program.index, program.container.blobs, [feeds["x"]])
    np.testing.assert_array_equal(run(program, feeds, isa=isa, num_threads=2), expected)
    assert np.abs(expected - onnxruntime_session(model, optimized=False).run(None, feeds)[0]).max() <= 1.001 / 256
    assert "softmax" in program.paths(isa=isa)


def golden_program():
    return ek.compile(softmax_model(*GOLDEN_SHAPE, scale=0.07, dtype=S8), allow_host=False)


def test_golden_bytes(isa):
    codes = np.random.Generator(np.random.PCG64(17)).integers(-128, 128, GOLDEN_SHAPE)
    result = run(golden_program(), {"x": ((codes - 3) * np.float32(0.07)).astype(np.float32)}, isa=isa)
    codes = np.rint(result * 256).astype(np.uint8)
    assert hashlib.sha256(codes.tobytes()).hexdigest()[:16] == GOLDEN


def test_a_clip_behind_it_and_an_image_before_it():
    clipped = softmax_model(4, 9, scale=0.01, clip=(0.1, 0.12))
    feeds = feeds_of(clipped)
    result = run(ek.compile(clipped, allow_host=False), feeds)
    assert np.abs(result - onnxruntime_session(clipped, optimized=False).run(None, feeds)[0]).max() <= 1.001 / 256
    g = Graph()
    y = g.qdq(conv(g, image(g), 5, 8, 3, 3), 0.02)
    model = g.model(g.qdq(g.op("Softmax", y, axis=3), 1 / 256, 0))
    feeds = feeds_of(model)
    result = run(ek.compile(model, allow_host=False), feeds)
    assert np.abs(result - onnxruntime_session(model, optimized=False).run(None, feeds)[0]).max() <= 2.001 / 256


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_another_axis_goes_to_the_host_and_says_why(axis):
    with pytest.raises(HostStepError, match="Softmax has a kernel for the last axis alone"):
        ek.compile(softmax_model(3, 4, 5, axis=axis), allow_host=False)


def mixture(opset, rank=2, mask=False, last=False, **attributes):
    """Gemm or MatMul, Relu, the same, Softmax, and weights that mix what it chose; or ending with it."""
    rng = np.random.default_rng(8)
    weights = {"w": rng.normal(size=(12, 10)), "v": 0.3 * rng.normal(size=(10, 6)), "m": rng.normal(size=(6, 5))}
    op = "Gemm" if rank == 2 else "MatMul"
    nodes = [
        helper.make_node(op, ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(op, ["b", "v"], ["scores"]),
        *([helper.make_node("Where", ["mask", "scores", "off"], ["masked"])] if mask else []),
        helper.make_node("Softmax", ["masked" if mask else "scores"], ["y" if last else "p"], **attributes),
        *([] if last else [helper.make_node(op, ["p", "m"], ["y"])]),
    ]
    sides = ["N", *[3] * (rank - 2)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*sides, 12])]
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    if mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, [*sides, 6]))
        stored.append(numpy_helper.from_array(np.array(-np.inf, np.float32), "off"))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*sides, 6 if last else 5])
    graph = helper.make_graph(nodes, "mixture", inputs, [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def quantized(model, feeds, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # Relu's zeros; infinities behind a mask
        ranges = ek.Calibrator(model, progress=False).collect_many(feeds).compute_ranges()
        return ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8", **options))


def feeds_for(rank, count=20):
    shape = (1, *[3] * (rank - 2), 12)
    return [{"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)} for seed in range(count)]


@pytest.mark.parametrize(
    ("opset", "rank", "attributes"),
    [(11, 2, {}), (11, 3, {"axis": -1}), (12, 3, {"axis": 2}), (13, 2, {}), (13, 3, {}), (17, 2, {"axis": 1})],
)
@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_between_8_bit_operators_it_needs_no_host(opset, rank, attributes, activations):
    model, feeds = mixture(opset, rank, **attributes), feeds_for(rank)
    program = ek.compile(quantized(model, feeds, activations=activations), allow_host=False, batch=1)
    assert "SOFTMAX" in kinds(program)
    assert min(row.sqnr_db for row in ek.compare(model, program, feeds).rows) > 25


def test_an_old_softmax_over_several_axes_keeps_its_meaning():
    """Before opset 13 axis 1 meant all axes from 1 on."""
    model, feeds = mixture(11, 3), feeds_for(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # the host may get it
        program = ek.compile(quantized(model, feeds), batch=1)
    assert min(row.sqnr_db for row in ek.compare(model, program, feeds).rows) > 25


@pytest.mark.parametrize("mask", [False, True])
def test_the_quantizer_leaves_it_in_float_at_the_end_and_behind_a_mask(mask):
    """255 steps rank few classes, and minus infinity has no code: a masked place would get the weight of the least."""
    model = mixture(13, mask=mask, last=not mask)
    feeds = [one | ({"mask": np.arange(6)[None] % 2 == 0} if mask else {}) for one in feeds_for(2)]
    graph = quantized(model, feeds).graph
    [softmax] = [node for node in graph.node if node.op_type == "Softmax"]
    producers = {name: node.op_type for node in graph.node for name in node.output}
    assert producers[softmax.input[0]] == ("Where" if mask else "Gemm")
    if not mask:
        assert softmax.output[0] == graph.output[0].name


def test_the_quantizer_leaves_another_axis_in_float():
    g = Graph()
    y = g.op("Softmax", g.op("MatMul", g.input("x", (2, 3, 4)), g.const(np.eye(4), np.float32)), axis=1)
    model = g.model(y)
    ranges = ek.Calibrator(model, progress=False).collect(feeds_of(model)).compute_ranges()
    readers = [node.op_type for node in ek.quantize(model, ranges).graph.node]
    assert readers[-1] == "Softmax"
