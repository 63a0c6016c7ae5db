"""Rotations of heads and of the residual stream: they change what rounds, not what is computed."""

import warnings

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import edgekern as ek
import transformers
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning, QuantizationError
from edgekern.quantization.methods.float_model import opened_float
from edgekern.quantization.methods.hadamard import keeping_ones, random_hadamard
from edgekern.quantization.methods.rotate import heads_of
from edgekern.quantization.methods.rotate_stream import streams_of
from test_smooth import behind_a_norm, constants, fed, results_of, same, values_given_out

SPELLINGS = {spelling.__name__: spelling for spelling in transformers.SPELLINGS}
quiet = pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")


# ---- the matrices ----


@given(size=st.integers(1, 200), seed=st.integers(0, 9))
def test_rotations_are_orthogonal_of_any_size(size, seed):
    found = random_hadamard(size, np.random.default_rng(seed))
    assert np.allclose(found @ found.T, np.eye(size), atol=1e-12)
    kept = keeping_ones(found)
    assert np.allclose(kept @ kept.T, np.eye(size), atol=1e-10)
    assert np.allclose(np.ones(size) @ kept, 1, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 48, 64, 80, 96, 384, 768])
def test_entries_of_hadamard_matrices_have_one_magnitude(size):
    found = random_hadamard(size, np.random.default_rng(3))
    assert np.allclose(np.abs(found), size**-0.5)


def test_signs_are_those_of_the_seed():
    one, again, other = (random_hadamard(16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


# ---- the same function ----


@quiet
@pytest.mark.parametrize("name", SPELLINGS)
def test_values_of_attention_are_rotated_in_all_its_spellings(name):
    model = behind_a_norm(SPELLINGS[name])
    heads, _ = heads_of(opened_float(model, function="rotate").graph)
    if name == "by_equations":
        assert not heads
        with pytest.raises(QuantizationError, match="rotate: nothing of model can be rotated"):
            ek.rotate(model)
        return
    [found] = heads
    assert found.channels.shape == (1 if name == "rotated" else transformers.H, transformers.D)
    made = ek.rotate(model)
    onnx.checker.check_model(made, full_check=True)
    assert same(model, made) > 110
    changed = [key for key, array in constants(made).items() if not np.array_equal(array, constants(model).get(key))]
    assert changed


@pytest.mark.parametrize("model", [transformers.vision_transformer, transformers.llama_layer])
@quiet
def test_the_stream_of_a_transformer_is_rotated(model):
    made = ek.rotate(model())
    onnx.checker.check_model(made, full_check=True)
    assert same(model(), made) > 110
    assert len(made.graph.node) <= len(model().graph.node)


def pre_norm(norm="LayerNormalization", end="head", layers=2, seed=3):
    """Tables of words and places, attention-free layers behind norms, and whatever comes last."""
    net = transformers.Net(seed)
    ids = net.input("ids", ("batch", 5), onnx.TensorProto.INT64)
    x = net.op("Gather", net.const(net.rng.normal(size=(9, 16))), ids)
    x = net.op("Add", x, net.const(net.rng.normal(size=(1, 5, 16))))
    for _ in range(layers):
        gain, bias = net.const(net.rng.uniform(0.5, 2, 16)), net.const(net.rng.normal(0, 0.1, 16))
        h = net.op(norm, x, gain, *([bias] if norm == "LayerNormalization" else []))
        h = net.dense(net.gelu(net.dense(h, 16, 24)), 24, 16)
        x = net.op("Add", x, h)
    if end == "out":
        return net.model(x, opset=23)
    x = net.op(norm, x, net.const(net.rng.uniform(0.5, 2, 16)))
    if end == "mean":
        x = net.op("ReduceMean", x, net.ints(1), keepdims=0)
    return net.model(net.op("MatMul", x, net.weights(16, 4)), opset=23 if norm == "RMSNormalization" else 20)


@pytest.mark.parametrize("end", ["head", "mean"])
@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_a_stream_takes_its_rotation_from_tables_and_gives_it_to_layers(norm, end):
    model = pre_norm(norm, end)
    opened = opened_float(model, function="rotate")
    if norm == "RMSNormalization" and not any(node.op_type == norm for node in opened.graph):
        pytest.skip("this onnx writes the norm out")
    [stream], left = streams_of(opened.graph)
    assert not left
    assert len(stream.norms) == 3
    assert len(stream.writers) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ek.rotate(model)
    if norm == "LayerNormalization":  # onnxruntime may not have the other one
        assert same(model, made) > 110
    before, after = constants(model), constants(made)
    gains = [key for key, array in before.items() if array.shape == (16,) and (array > 0.4).all()]
    assert gains
    assert all((after[key] == 1).all() for key in gains if key in after)


@pytest.mark.parametrize("seed", range(4))
def test_a_channel_that_is_far_out_is_spread_over_all(seed):
    """What layers read behind norms spans less beside its root mean square."""
    model = pre_norm(seed=seed)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.shape == (9, 16):
            array[:, 3] *= 30
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    [feeds] = fed(model, 1, 9)
    for name in norms:
        before, after = (results_of(given, name, feeds) for given in (model, ek.rotate(model)))
        peaks = [np.abs(x).max() / np.sqrt(np.square(x).mean()) for x in (before, after)]
        assert peaks[1] < 0.85 * peaks[0], peaks


# ---- what is said ----


def test_a_stream_that_norms_write_is_left_and_named():
    net = transformers.Net(8)
    x = net.input("x", (transformers.B, transformers.N, transformers.E))
    for _ in range(2):
        x = net.norm(
            net.op("Add", x, net.dense(transformers.scaled_on_both_sides(net, x), transformers.E, transformers.E)),
            transformers.E,
        )
    model = net.model(x)
    with pytest.warns(EdgekernWarning, match=r"rotate: 2 stay as they were: the stream .* reads .*"):
        made = ek.rotate(model)
    assert same(model, made) > 110


def test_a_stream_that_the_caller_reads_is_left():
    _, [said] = streams_of(opened_float(pre_norm(end="out", norm="LayerNormalization"), function="rotate").graph)
    assert "the caller reads it" in said


@pytest.mark.parametrize("model", [transformers.decoder, values_given_out])
def test_values_that_the_caller_reads_keep_their_channels(model):
    with pytest.raises(QuantizationError, match="rotate: nothing of model can be rotated"):
        ek.rotate(model())


def test_odd_arguments_are_refused():
    with pytest.raises(ArgumentTypeError, match="rotate: seed must be an integer"):
        ek.rotate(transformers.vision_transformer(), seed=0.5)
    with pytest.raises(ArgumentValueError, match="rotate: seed must be at least 0, got -1"):
        ek.rotate(transformers.vision_transformer(), seed=-1)


def test_a_seed_makes_the_same_model_again():
    model = transformers.vision_transformer()
    assert ek.rotate(model, seed=4) == ek.rotate(model, seed=4)
    assert ek.rotate(model, seed=4) != ek.rotate(model, seed=5)
