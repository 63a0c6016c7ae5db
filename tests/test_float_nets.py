"""Float models compiled as they are: nets on kernels alone, with onnxruntime's numbers and one result everywhere."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek

from float_models import f32, small_cnn
from graphs import onnxruntime_session, results_everywhere

RNG = np.random.default_rng(11)
TOLERANCE = 1e-5


def net(nodes, weights, inputs, outputs, opset=21):
    """A model; ``inputs`` by name: shape, or shape and type."""
    kinds = {name: kind if isinstance(kind[0], tuple) else (kind, TensorProto.FLOAT) for name, kind in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def feeds_of(model, seed=0):
    rng, feeds = np.random.default_rng(seed), {}
    for value in model.graph.input:
        shape = [side.dim_value or 2 for side in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        drawn = rng.normal(0, 1, shape) if dtype.kind == "f" else rng.integers(0, 2 if dtype.kind == "b" else 9, shape)
        feeds[value.name] = drawn.astype(dtype)
    return feeds


def assert_native(model, *, tolerance=TOLERANCE, batch=1, feeds=None):
    """No host step, onnxruntime's numbers, and the same bits on every instruction set and number of threads."""
    program = ek.compile(model, allow_host=False, batch=batch)
    feeds = feeds_of(model) if feeds is None else feeds
    expected = onnxruntime_session(model, optimized=False).run(None, feeds)
    for found, want in zip(results_everywhere(program, feeds), expected, strict=True):
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        largest = float(np.abs(want).max(initial=0)) or 1.0
        np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * largest)
    return program


def kinds(program):
    return [step.kind for step in program.steps]


def test_a_cnn_with_residuals_pools_and_a_norm():
    program = assert_native(small_cnn(), batch=2)
    assert "host" not in program.paths()
    # Norm, Relu and Clip are in the products; so is the sum with the Relu behind it.
    assert kinds(program).count("CONV_F32") == 2
    assert kinds(program).count("DEPTHWISE_F32") == 1
    assert "MAP" not in kinds(program)


def test_nothing_is_transposed_between_operators_on_images():
    weights = {f"w{i}": f32(RNG.normal(0, 0.2, (8, 8, 3, 3))) for i in range(2)}
    weights |= {"k": f32(RNG.normal(size=(8, 1, 1))), "up": f32(np.array([1, 1, 2, 2]))}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("Resize", ["b", "", "up"], ["c"], mode="linear"),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["d", "a"], ["e"], axis=1),
        helper.make_node("Split", ["e"], ["f", "g"], axis=1, num_outputs=2),
        helper.make_node("GlobalAveragePool", ["f"], ["pooled"]),
        helper.make_node("Sigmoid", ["pooled"], ["gate"]),
        helper.make_node("Mul", ["g", "gate"], ["h"]),
        helper.make_node("Conv", ["h", "w1"], ["y"]),
    ]
    program = assert_native(net(nodes, weights, {"x": (1, 8, 10, 6)}, ["y"]))
    # One at each border.
    assert kinds(program).count("TRANSPOSE") == 2
    assert "PERMUTE" not in kinds(program)


def transformer(tokens=10, width=32, heads=4, written_out=False, mask=True):
    """One layer as BERT has it, on token numbers."""
    depth = width // heads
    weights = {name: f32(RNG.normal(0, 0.3, (width, width))) for name in ("wq", "wk", "wv", "wo")}
    weights |= {"table": f32(RNG.normal(size=(9, width))), "w1": f32(RNG.normal(0, 0.3, (width, 64)))}
    weights |= {"w2": f32(RNG.normal(0, 0.3, (64, width))), "scale": np.float32(1 / np.sqrt(depth))}
    weights |= {"g": f32(RNG.normal(size=width)), "b": f32(RNG.normal(size=width)), "eps": np.float32(1e-5)}
    weights |= {
        "bias": f32(RNG.normal(size=width)),
        "two": np.float32(2),
        "half": np.float32(0.5),
        "one": np.float32(1),
    }
    weights |= {
        "split": np.array([0, 0, heads, depth]),
        "join": np.array([0, 0, width]),
        "root": np.float32(np.sqrt(2)),
    }
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"])]
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}m"]),
            helper.make_node("Add", [f"{name}m", "bias"], [f"{name}b"]),
            helper.make_node("Reshape", [f"{name}b", "split"], [f"{name}s"]),
            helper.make_node("Transpose", [f"{name}s"], [name], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scores"]),
        *([helper.make_node("Add", ["scores", "mask"], ["masked"])] if mask else []),
        helper.make_node("Softmax", ["masked" if mask else "scores"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "wo"], ["o"]),
        helper.make_node("Add", ["o", "x"], ["sum"]),
    ]
    if written_out:
        nodes += [
            helper.make_node("ReduceMean", ["sum", "last"], ["mean"]),
            helper.make_node("Sub", ["sum", "mean"], ["deviation"]),
            helper.make_node("Pow", ["deviation", "two"], ["square"]),
            helper.make_node("ReduceMean", ["square", "last"], ["variance"]),
            helper.make_node("Add", ["variance", "eps"], ["safe"]),
            helper.make_node("Sqrt", ["safe"], ["spread"]),
            helper.make_node("Div", ["deviation", "spread"], ["unit"]),
            helper.make_node("Mul", ["unit", "g"], ["scaled"]),
            helper.make_node("Add", ["scaled", "b"], ["n"]),
        ]
        weights["last"] = np.array([-1])
    else:
        nodes.append(helper.make_node("LayerNormalization", ["sum", "g", "b"], ["n"]))
    nodes += [
        helper.make_node("MatMul", ["n", "w1"], ["h"]),
        helper.make_node("Div", ["h", "root"], ["e0"]),
        helper.make_node("Erf", ["e0"], ["e1"]),
        helper.make_node("Add", ["e1", "one"], ["e2"]),
        helper.make_node("Mul", ["h", "e2"], ["e3"]),
        helper.make_node("Mul", ["e3", "half"], ["gelu"]),
        helper.make_node("MatMul", ["gelu", "w2"], ["y"]),
    ]
    inputs = {"ids": ((2, tokens), TensorProto.INT64)} | ({"mask": (2, 1, 1, tokens)} if mask else {})
    return net(nodes, weights, inputs, ["y"])


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_a_transformer_layer_holds_no_scores_and_moves_no_heads(written_out, mask):
    program = assert_native(transformer(written_out=written_out, mask=mask))
    found = kinds(program)
    assert found.count("ATTENTION_F32") == 1
    assert found.count("NORMALIZE") == 1
    assert not {"SOFTMAX_F32", "REDUCE", "MATMUL_F32"} & set(found)
    sizes = [int(np.prod(tensor.shape)) for tensor in program.index.tensors]
    assert max(sizes) <= 2 * 10 * 64


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_with_lengths_and_states(cell, direction):
    steps, batch, inputs, hidden = 7, 3, 5, 18
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell], 2 if direction == "bidirectional" else 1
    weights = {
        "w": f32(RNG.normal(0, 0.4, (directions, gates * hidden, inputs))),
        "r": f32(RNG.normal(0, 0.4, (directions, gates * hidden, hidden))),
        "bias": f32(RNG.normal(0, 0.4, (directions, 2 * gates * hidden))),
        "lengths": np.array([7, 2, 5], np.int32),
    }
    states = {"h0": (directions, batch, hidden)} | ({"c0": (directions, batch, hidden)} if cell == "LSTM" else {})
    outputs = ["y", "h", "c"][: 3 if cell == "LSTM" else 2]
    names, shapes = ["x", "w", "r", "bias", "lengths", *states], {"x": (steps, batch, inputs), **states}
    node = helper.make_node(cell, names, outputs, hidden_size=hidden, direction=direction)
    model = net([node], weights, shapes, outputs)
    assert_native(model)
    node.attribute.append(helper.make_attribute("layout", 1))  # which onnxruntime has not
    turned = net([node], weights, {name: (b, a, *rest) for name, (a, b, *rest) in shapes.items()}, outputs)
    feeds = feeds_of(model)
    found, want = (
        ek.InferenceSession(ek.compile(one, allow_host=False)).run(None, given)
        for one, given in (
            (turned, {name: np.ascontiguousarray(x.swapaxes(0, 1)) for name, x in feeds.items()}),
            (model, feeds),
        )
    )
    np.testing.assert_array_equal(found[0], want[0].transpose(2, 0, 1, 3))
    for state, other in zip(found[1:], want[1:], strict=True):
        np.testing.assert_array_equal(state, other.swapaxes(0, 1))


def test_integers_and_truths_are_data():
    weights = {"seven": np.array(7), "tenth": np.float32(0.1), "low": np.float32(-1e9), "zero": np.array(0)}
    nodes = [
        helper.make_node("Mod", ["ids", "seven"], ["m"]),
        helper.make_node("Equal", ["m", "zero"], ["pad"]),
        helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "tenth"], ["t"]),
        helper.make_node("Where", ["pad", "low", "t"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("ArgMax", ["p"], ["best"], axis=-1),
        helper.make_node("CumSum", ["m", "zero"], ["sums"]),
    ]
    model = net(nodes, weights, {"ids": ((4, 6), TensorProto.INT64)}, ["p", "best", "sums", "pad"])
    large = {"ids": np.arange(24).reshape(4, 6) + 2**40}
    assert_native(model, feeds=large)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8])
def test_a_cast_of_floats_to_8_bits_cuts_off_toward_zero(kind):
    """They were rounded, as QuantizeLinear rounds."""
    model = net([helper.make_node("Cast", ["x"], ["y"], to=kind)], {}, {"x": (5,)}, ["y"])
    x = np.array([1.7, 2.5, 0.5, 100.9, -0.75], np.float32)
    assert_native(model, feeds={"x": x})


def test_a_mixed_program_needs_no_second_runtime():
    """A layer that stays float32 between 8-bit ones."""
    model, rng = small_cnn(), np.random.default_rng(0)
    x = f32(rng.normal(size=(8, 3, 12, 12)))
    ranges = ek.Calibrator(model, progress=False).collect({"x": x}).compute_ranges()
    qdq = ek.quantize(model, ranges, ek.QuantConfig(keep_float=["dw", "Gemm"]))
    program = ek.compile(qdq, batch=8, allow_host=False)
    assert {"CONV", "DEPTHWISE_F32", "GEMM_F32"} <= set(kinds(program))
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    [expected] = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})
    noise = np.abs(expected - onnxruntime_session(model, optimized=False).run(None, {"x": x})[0]).max()
    assert np.abs(found - expected).max() <= 2 * noise


def test_a_float_program_is_a_file_like_any_other(tmp_path):
    model = small_cnn()
    ek.compile(model).save(tmp_path / "float.ekm")
    feeds = feeds_of(model)
    feeds = {"x": feeds["x"][:1]}
    [found] = ek.InferenceSession(tmp_path / "float.ekm", allow_host=False).run(None, feeds)
    [expected] = onnxruntime_session(model, optimized=False).run(None, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model, onnx.ModelProto)


@pytest.mark.filterwarnings("ignore:compare. program does not say which:edgekern.errors.EdgekernWarning")
def test_a_float_program_can_be_compared_with_its_model():
    model = transformer()
    report = ek.compare(model, ek.compile(model), [feeds_of(model, seed) for seed in range(2)])
    assert len(report.rows) > 5
    assert min(row.sqnr_db for row in report.rows) > 90


def test_an_average_counts_its_padding_and_not_what_lies_behind_it():
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[3], pads=[1, 1], ceil_mode=1, count_include_pad=1
    )
    program = ek.compile(net([node], {}, {"x": (1, 1, 6)}, ["y"]), allow_host=False)
    [y] = ek.InferenceSession(program).run(None, {"x": np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6)})
    np.testing.assert_allclose(y.reshape(-1), [(0 + 1 + 2) / 3, (3 + 4 + 5) / 3, (6 + 0) / 2], rtol=1e-6)


def test_a_stated_shape_of_a_transposed_convolution_comes_before_valid_padding():
    weights = {"w": f32(RNG.normal(size=(3, 3, 2, 3)))}
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], auto_pad="VALID", output_shape=[4, 4], strides=[1, 2], dilations=[3, 1]
    )
    assert_native(net([node], weights, {"x": (1, 3, 2, 2)}, ["y"], opset=13))


def test_an_average_over_a_window_larger_than_its_image_is_refused():
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 1], strides=[2, 1], count_include_pad=1)
    with pytest.raises(ek.errors.HostStepError, match="a window larger than its image"):
        ek.compile(net([node], {}, {"x": (1, 3, 1, 1)}, ["y"]), allow_host=False)
