"""What becomes of each node is told with its reason, the price of the alternatives, and the remedy."""

import json

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.artifact import Program
from edgekern.errors import ArgumentValueError

from float_models import build, f32, helper, ranges_of
from graphs import Graph
from qdq_models import HOSTS, MODELS, conv, image, unary_model

node = helper.make_node


def by_operator(program):
    return {place.operator: place for place in program.nodes}


def test_prices_are_counted_from_shapes():
    """Conv of 1x8x9x7 by 16x8x1x1 without bias: 504 elements in, 1008 out, 128 weights."""
    g = Graph()
    x = g.input("x", (1, 8, 9, 7))
    program = ek.compile(g.model(g.op("Conv", x, g.const(np.ones((16, 8, 1, 1)), np.float32))))
    [place] = program.nodes
    assert place.runs == "float32"
    moved, macs = 504 + 1008 + 128, 1008 * 8
    assert {where: (cost.macs, cost.nbytes) for where, cost in place.prices.items()} == {
        "8 bits": (macs, moved + 5 * (504 + 1008)),  # x quantized before, y dequantized behind
        "float32": (macs, 4 * moved),
        "host": (macs, 4 * moved + 8 * (504 + 1008)),  # and copied to onnxruntime, and back
    }
    assert (place.reason, place.remedy.split(",")[0]) == (
        "nothing of the model is quantized",
        "collect ranges with edgekern.Calibrator",
    )


def test_an_operator_between_eight_bit_ones_is_cheapest_there():
    places = by_operator(ek.compile(unary_model(("Sigmoid", {}))))
    place = places["Sigmoid"]
    assert (place.runs, place.reason) == ("8 bits", "")
    assert place.prices["8 bits"].nbytes == 2 * 504
    assert place.prices["float32"].nbytes == (2 * 4 + 2 * 5) * 504  # and both ends converted
    assert places["QuantizeLinear"].runs == "fused"  # the one behind it


@pytest.mark.parametrize("name", MODELS)
def test_no_node_of_a_quantized_model_has_a_cheaper_place(name):
    """Those on 8 bits are where the fewest bytes move, views and single conversions apart."""
    places = ek.compile(MODELS[name]()).nodes
    computed = [p for p in places if p.runs == "8 bits" and {"8 bits", "float32"} <= p.prices.keys()]
    assert all(p.prices["8 bits"].nbytes <= p.prices["float32"].nbytes for p in computed)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_what_runs_in_float_or_on_the_host_has_a_reason(name):
    build_model, operators, reason = HOSTS[name]
    program = ek.compile(build_model())
    left = [place for place in program.nodes if place.runs in ("float32", "host")]
    assert {place.operator.split(".")[-1] for place in left} == operators
    assert any(reason in place.reason for place in left)
    assert all(place.reason for place in left)
    assert all(place.remedy for place in left if place.runs == "host")
    assert reason in program.explain()


def test_a_file_has_no_nodes_and_says_so(tmp_path):
    program = ek.compile(MODELS["conv"]())
    program.save(tmp_path / "p.ekm")
    loaded = Program.load(tmp_path / "p.ekm")
    assert loaded == program
    assert not loaded.nodes
    with pytest.raises(ArgumentValueError, match=r"edgekern\.compile returns"):
        loaded.explain()


def test_a_summary_counts_what_was_fused_and_moved():
    lines = ek.compile(MODELS["residual"]()).summary().splitlines()
    assert lines[1].startswith("6 operators in 4 steps, fused 1 Add, 1 Relu; 0 transpositions")


def test_inspect_begins_with_the_precision_and_gives_the_nodes_as_json(tmp_path, capsys):
    assert cli.run(["inspect", str(quickstart.MODEL)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("float32: nothing is quantized")
    [head] = [line for line in shown if line.startswith("operator ")]
    assert head.split() == ["operator", "node", "runs", "in", "MACs", "8", "bits", "float32", "host", "why"]
    path = tmp_path / "m.onnx"
    onnx.save(MODELS["conv"](), path)
    assert cli.run(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [place["runs"] for place in told["nodes"] if place["operator"] == "Conv"] == ["8 bits"]
    assert told["nodes"][0]["prices"]["8 bits"]["nbytes"] > 0
    assert told["host_steps"] == []
    ek.compile(path).save(tmp_path / "m.ekm")
    assert cli.run(["inspect", str(tmp_path / "m.ekm"), "--json"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded == {**told, "nodes": []}
    assert [step["kind"] for step in loaded["steps"]] == ["QUANTIZE_NCHW", "CONV", "DEQUANTIZE_NCHW"]


# --- quantize: no Q and DQ for a cheap operator between float ones

FLOAT_ENDS = {
    "MaxPool": ([node("MaxPool", ["x"], ["m"], kernel_shape=[2, 2]), node("LogSoftmax", ["m"], ["l"])], {}),
    "Add": ([node("Add", ["x", "c"], ["m"]), node("LogSoftmax", ["m"], ["l"])], {"c": np.ones((1, 3, 1, 1))}),
    "Relu": ([node("Relu", ["x"], ["m"]), node("LogSoftmax", ["m"], ["l"])], {}),
}


@pytest.mark.parametrize("name", FLOAT_ENDS)
def test_a_cheap_operator_between_an_input_and_floats_stays_float(name, rng):
    nodes, weights = FLOAT_ENDS[name]
    weights = {key: f32(value) for key, value in weights.items()}
    weights |= {"w": f32(rng.normal(size=(4, 3, 1, 1)))}
    model = build([*nodes, node("Conv", ["l", "w"], ["y"])], weights, [1, 3, 6, 6])
    program = ek.compile(ek.quantize(model, ranges_of(model, f32(rng.normal(size=(1, 3, 6, 6))))))
    runs = {place.operator: place.runs for place in program.nodes}
    assert {runs[made.op_type] for made in nodes} == {"float32"}
    assert runs["Conv"] == "8 bits"
    conversions = [step.kind for step in program.steps if "QUANTIZE" in step.kind]
    assert len(conversions) == 1


def test_operators_that_move_fewer_bytes_on_eight_bits_are_quantized_between_floats(rng):
    nodes = [node("Concat", ["x", "x"], ["j"], axis=1), node("Relu", ["j"], ["m"]), node("LogSoftmax", ["m"], ["l"])]
    weights = {"w": f32(rng.normal(size=(4, 6, 1, 1)))}
    model = build([*nodes, node("Conv", ["l", "w"], ["y"])], weights, [1, 3, 6, 6])
    program = ek.compile(ek.quantize(model, ranges_of(model, f32(rng.normal(size=(1, 3, 6, 6))))))
    runs = {place.operator: place.runs for place in program.nodes}
    assert [runs[made.op_type] for made in nodes] == ["8 bits", "8 bits", "float32"]


def test_a_cheap_operator_before_a_product_is_quantized_with_it(rng):
    weights = {"w": f32(rng.normal(size=(4, 3, 1, 1)))}
    model = build([node("Relu", ["x"], ["m"]), node("Conv", ["m", "w"], ["y"])], weights, [1, 3, 6, 6])
    program = ek.compile(ek.quantize(model, ranges_of(model, f32(rng.normal(size=(1, 3, 6, 6))))))
    assert by_operator(program)["Relu"].runs == "8 bits"


def test_a_model_without_a_product_is_quantized_as_asked(rng):
    model = build([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])], {}, [1, 3, 6, 6])
    program = ek.compile(ek.quantize(model, ranges_of(model, f32(rng.normal(size=(1, 3, 6, 6))))))
    assert by_operator(program)["MaxPool"].runs == "8 bits"


def test_a_float_operator_between_two_products_shares_no_conversion_with_others():
    """Two Convs on 8 bits around two operators on floats: the first reads floats, the last writes bytes by itself."""
    g = Graph()
    y = g.op("Clip", g.op("LogSoftmax", g.qdq(conv(g, image(g), 8, 8, 1, 1))), g.const(-3.0, np.float32))
    program = ek.compile(g.model(g.qdq(conv(g, g.qdq(y), 8, 8, 1, 1))))
    kinds = [step.kind for step in program.steps]
    assert kinds[1] == "CONV"
    assert sum(kind.startswith(("DEQUANTIZE", "QUANTIZE")) for kind in kinds[1:-1]) == 1


def test_products_of_integers_are_on_8_bits_and_their_model_is_not_called_float():
    g = Graph()
    codes, scale, zero = g.op("DynamicQuantizeLinear", g.input("x", (3, 8)), outputs=3)
    sums = g.op("MatMulInteger", codes, g.const(np.ones((8, 5)), np.int8), zero)
    model = g.model(g.op("Mul", g.op("Cast", sums, to=onnx.TensorProto.FLOAT), scale))
    places = by_operator(ek.compile(model, allow_host=False))
    product = places["MatMulInteger"]
    assert (product.runs, product.reason) == ("8 bits", "")
    assert product.prices["8 bits"].macs == 3 * 8 * 5
    assert all("nothing of the model is quantized" not in place.reason for place in places.values())
