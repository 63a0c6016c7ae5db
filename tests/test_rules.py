"""Which nodes stay float32: by a rule of QuantConfig, or as a front end that no 8 bits hold."""

import json
import pickle
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning, QuantizationError

from float_models import build, f32, ranges_of, run, samples, small_cnn, sqnr_db


def quantized(model, rng, **options):
    return ek.quantize(model, ranges_of(model, samples(rng)), ek.QuantConfig(**options))


def integer_products(qdq):
    """Types and first outputs of the products whose weights are dequantized."""
    dequantized = {node.output[0] for node in qdq.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in qdq.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {node.output[0] for node in products if node.input[1] in dequantized}


@pytest.mark.parametrize(
    ("options", "float_products"),
    [
        ({"keep_float": ["Gemm"]}, {"y"}),
        ({"keep_float": ["c*"]}, {"r0", "c2"}),
        ({"overrides": {"Conv": "float32"}}, {"r0", "d0", "c2"}),
        ({"overrides": {"Conv": "float32", "c2": "w8a8"}}, {"r0", "d0"}),
        ({"overrides": {"c2": "w8a8", "Conv": "float32"}}, {"r0", "d0", "c2"}),
        ({"overrides": {"*": "w8a8"}, "keep_float": ["Gemm", "c2"]}, {"y", "c2"}),
        ({"recipe": "float32", "overrides": {"Gemm": "w8a8"}}, {"r0", "d0", "c2"}),
    ],
)
def test_a_rule_names_operators_or_nodes_and_the_last_one_counts(options, float_products, rng):
    model = small_cnn()
    everything = integer_products(quantized(model, rng))
    names = {"r0": "n0", "d0": "dw"}
    kept = {names.get(name, name) for name in float_products}
    assert integer_products(quantized(model, rng, **options)) == everything - kept


def residual_chain():
    """Two sums along a residual stream, each read by a convolution and by the next sum."""
    shape = (8, 8, 3, 3)
    weights = {f"w{at}": np.random.default_rng(at).normal(0, 0.1, shape).astype(np.float32) for at in range(3)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1] * 4),
        helper.make_node("Conv", ["c0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Add", ["c0", "c1"], ["s1"]),
        helper.make_node("Conv", ["s1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Add", ["s1", "c2"], ["y"]),
    ]
    return build(nodes, weights, [1, 8, 6, 6])


def test_sums_that_stay_float_read_what_no_code_has_rounded(rng):
    model = residual_chain()
    x = rng.normal(size=(1, 8, 6, 6)).astype(np.float32)
    ranges = ranges_of(model, x)
    codes = ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8"))
    floats = ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8", keep_float=["Add"]))
    makers = {output: node.op_type for node in floats.graph.node for output in node.output}
    sums = [node for node in floats.graph.node if node.op_type == "Add"]
    assert [[makers[name] for name in node.input] for node in sums] == [["Conv", "Conv"], ["Add", "Conv"]]
    assert len(integer_products(floats)) == 3
    expected = run(model, x)[0]
    assert sqnr_db(expected, run(floats, x)[0]) > sqnr_db(expected, run(codes, x)[0]) + 1
    got = ek.InferenceSession(ek.compile(floats, allow_host=False)).run(None, {"x": x})[0]
    assert sqnr_db(run(floats, x)[0], got) > 60


def test_a_float_recipe_gives_the_float_model_back(rng):
    model, x = small_cnn(), samples(rng)
    same = ek.quantize(model, ranges_of(model, x), ek.QuantConfig(recipe="float32"))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in same.graph.node}
    assert sqnr_db(run(model, x)[0], run(same, x)[0]) > 100


def test_what_is_kept_is_more_accurate_and_is_written_down(rng):
    model, x = small_cnn(), samples(rng)
    ranges = ranges_of(model, x)
    config = ek.QuantConfig(overrides={"*": "float32", "c0": "w8a8"}, keep_float=["Gemm"])
    qdq = ek.quantize(model, ranges, config)
    truth = run(model, x)[0]
    assert sqnr_db(truth, run(qdq, x)[0]) > sqnr_db(truth, run(ek.quantize(model, ranges), x)[0]) + 3
    metadata = json.loads(qdq.metadata_props[0].value)
    assert metadata["config"]["keep_float"] == ["Gemm"]
    assert metadata["config"] == config.to_dict()
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("argument", ["overrides", "keep_float"])
def test_a_rule_that_names_nothing_is_an_error(argument, rng):
    rules = {"conv_*": "float32"} if argument == "overrides" else ["conv_*"]
    with pytest.raises(QuantizationError, match=rf"the rule 'conv_\*' of {argument} names no node of the model"):
        quantized(small_cnn(), rng, **{argument: rules})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recipe": "w4a4"}, ArgumentValueError, r"one of \['auto', 'mixed', .*, 'w8a8', .*, 'float32'\], got 'w4a4'"),
        ({"overrides": {"Conv": "int8"}}, ArgumentValueError, r"overrides\['Conv'\] must be one of .* got 'int8'"),
        ({"overrides": ["Conv"]}, ArgumentTypeError, "overrides must be a mapping from rules to recipes, got list"),
        ({"overrides": {3: "w8a8"}}, ArgumentTypeError, "a rule of overrides must be an operator's type .* got 3"),
        ({"keep_float": "Conv"}, ArgumentTypeError, "keep_float must be a list of rules, got 'Conv'"),
        ({"keep_float": [""]}, ArgumentTypeError, "a rule of keep_float must be an operator's type"),
    ],
)
def test_wrong_rules_are_typed_errors(options, error, message):
    with pytest.raises(error, match=message):
        ek.QuantConfig(**options)


def spectral(last="Log", learned=True):
    """Power of a linear transformation, its logarithm, and a small net behind."""
    rng = np.random.default_rng(3)
    weights = {"dft": f32(rng.normal(size=(24, 3, 5, 5))), "w": f32(rng.normal(size=(6, 24, 3, 3)) / 9)}
    weights |= {"two": np.float32(2), "tiny": np.float32(1e-6), "third": np.float32(0.3)}
    nodes = [
        helper.make_node("Conv", ["x", "dft"], ["linear"]),
        helper.make_node("Pow", ["linear", "two"], ["power"]),
        helper.make_node("Add", ["power", "tiny"], ["floor"]),
        helper.make_node(last, ["floor", "third"] if last == "Pow" else ["floor"], ["level"]),
        *([helper.make_node("Conv", ["level", "w"], ["y"])] if learned else []),
    ]
    return build(nodes, weights, ["n", 3, 12, 12], ("y",) if learned else ("level",))


@pytest.mark.parametrize("last", ["Log", "Pow"])
def test_a_front_end_with_a_logarithm_stays_float_and_is_said(last, rng):
    model, x = spectral(last), samples(rng)
    ranges = ranges_of(model, x)
    with pytest.warns(EdgekernWarning, match=f"4 nodes up to {last} 'level' stay float32"):
        qdq = ek.quantize(model, ranges)
    assert integer_products(qdq) == {"y"}
    assert json.loads(qdq.metadata_props[0].value)["front_end"] == ["linear", "power", "floor", "level"]
    truth = run(model, x)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = ek.quantize(model, ranges, ek.QuantConfig(overrides={"*": "w8a8"}))
    assert integer_products(whole) >= {"linear", "y"}
    assert sqnr_db(truth, run(qdq, x)[0]) > 30


def test_a_logarithm_at_the_end_is_no_front_end(rng):
    model = spectral(learned=False)
    assert integer_products(quantized(model, rng)) == {"linear"}
    assert isinstance(model, onnx.ModelProto)
