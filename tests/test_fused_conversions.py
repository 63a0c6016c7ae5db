"""Conversions that stand beside a step on floats are that step's own: the same bits in one pass."""

import numpy as np
import pytest
from onnx import helper

import edgekern as ek
from edgekern.compiler import pipeline
from test_float_nets import feeds_of, kinds, net

from float_models import all_the_way, f32, sqnr_db
from reference.program import run_program

RNG = np.random.default_rng(4)


def conv(x, w, y, **attributes):
    return helper.make_node("Conv", [x, w], [y], **attributes)


def squeeze_excite():
    """x * sigmoid(pool(x)), between two products."""
    weights = {"w0": f32(RNG.normal(0, 0.3, (24, 3, 3, 3))), "w1": f32(RNG.normal(0, 0.3, (8, 24, 1, 1)))}
    weights |= {"down": f32(RNG.normal(0, 0.3, (6, 24, 1, 1))), "up": f32(RNG.normal(0, 0.3, (24, 6, 1, 1)))}
    nodes = [
        conv("x", "w0", "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"]),
        conv("pooled", "down", "c"),
        helper.make_node("Relu", ["c"], ["d"]),
        conv("d", "up", "e"),
        helper.make_node("Sigmoid", ["e"], ["gate"]),
        helper.make_node("Mul", ["b", "gate"], ["scaled"]),
        conv("scaled", "w1", "y"),
    ]
    return net(nodes, weights, {"x": (1, 3, 10, 9)}, ["y"], opset=17)


def two_tensors(op):
    """An element-wise operator of two results of products, and a product behind it."""
    weights = {f"w{i}": f32(RNG.normal(0, 0.3, (12, 5, 3, 3))) for i in range(2)}
    weights["w"] = f32(RNG.normal(0, 0.3, (4, 12, 1, 1)))
    nodes = [
        conv("x", "w0", "a"),
        conv("x", "w1", "n"),
        helper.make_node("Sigmoid", ["n"], ["b"]),
        helper.make_node(op, ["a", "b"], ["c"]),
        conv("c", "w", "y"),
    ]
    return net(nodes, weights, {"x": (1, 5, 8, 7)}, ["y"], opset=17)


def mobile_block(gate="HardSigmoid", pooling="GlobalAveragePool"):
    """An inverted residual with squeeze-excite and hard-swish, as MobileNetV3 and PP-LCNet have them."""
    shapes = {"stem": (16, 3, 3, 3), "expand": (24, 16, 1, 1), "depthwise": (24, 1, 5, 5), "down": (8, 24, 1, 1)}
    shapes |= {"up": (24, 8, 1, 1), "project": (16, 24, 1, 1), "head": (5, 16, 1, 1)}
    weights = {name: f32(RNG.normal(0, 0.3, shape)) for name, shape in shapes.items()}
    nodes = [
        conv("x", "stem", "a", pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["a"], ["b"]),
        conv("b", "expand", "c"),
        helper.make_node("HardSwish", ["c"], ["d"]),
        conv("d", "depthwise", "dw", pads=[2, 2, 2, 2], group=24),
        helper.make_node("HardSwish", ["dw"], ["e"]),
        helper.make_node(pooling, ["e"], ["p"], **({} if pooling[0] == "G" else {"axes": [2, 3]})),
        conv("p", "down", "f"),
        helper.make_node("Relu", ["f"], ["g"]),
        conv("g", "up", "h"),
        helper.make_node(gate, ["h"], ["gate"]),
        helper.make_node("Mul", ["e", "gate"], ["s"]),
        conv("s", "project", "u"),
        helper.make_node("Add", ["u", "b"], ["v"]),
        conv("v", "head", "y"),
    ]
    return net(nodes, weights, {"x": (1, 3, 12, 10)}, ["y"], opset=17)


@pytest.mark.parametrize(("gate", "pooling"), [("HardSigmoid", "GlobalAveragePool"), ("Sigmoid", "ReduceMean")])
def test_squeeze_excite_stays_on_bytes_from_end_to_end(gate, pooling):
    """The gate is five small steps, and the image it is for is read and written once."""
    model = mobile_block(gate, pooling)
    feeds = feeds_of(model)
    [(found, want)], program = all_the_way(model, feeds, allow_host=False)
    steps = ["QUANTIZE_NCHW", "CONV", "LOOKUP", "CONV", "LOOKUP", "DEPTHWISE", "LOOKUP", "AVERAGE_POOL"]
    assert kinds(program) == [*steps, "CONV", "CONV", "LOOKUP", "MAP", "CONV", "CONV", "TRANSPOSE"]
    assert np.array_equal(found, run_program(program.index, program.container.blobs, list(feeds.values()))[0])
    assert sqnr_db(want, found) > 20


def resized(mode):
    """A linear or cubic Resize between two products."""
    weights = {"w0": f32(RNG.normal(0, 0.3, (24, 3, 3, 3))), "w1": f32(RNG.normal(0, 0.3, (8, 24, 1, 1)))}
    weights["scales"] = f32(np.array([1, 1, 2, 1.5]))
    nodes = [
        conv("x", "w0", "a", pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode=mode),
        conv("b", "w1", "y"),
    ]
    return net(nodes, weights, {"x": (1, 3, 10, 8)}, ["y"], opset=17)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_a_resize_between_products_reads_and_writes_bytes(mode, monkeypatch):
    model = resized(mode)
    feeds = feeds_of(model)
    [(found, want)], program = all_the_way(model, feeds, allow_host=False)
    assert kinds(program) == ["QUANTIZE_NCHW", "CONV", "RESAMPLE", "RESAMPLE", "CONV", "TRANSPOSE"]
    assert sqnr_db(want, found) > 25
    assert np.array_equal(found, run_program(program.index, program.container.blobs, list(feeds.values()))[0])
    monkeypatch.setattr(pipeline, "fuse_conversions", lambda items, outputs: items)
    [(apart, _)], longer = all_the_way(model, feeds, allow_host=False)
    assert len(longer.steps) == len(program.steps) + 2
    assert np.array_equal(found, apart)


@pytest.mark.parametrize(
    "model", [squeeze_excite(), *map(two_tensors, ("Mul", "Sub", "Max"))], ids=["squeeze-excite", "Mul", "Sub", "Max"]
)
def test_what_stands_between_products_reads_and_writes_bytes(model, monkeypatch):
    feeds = feeds_of(model)
    [(found, want)], program = all_the_way(model, feeds, allow_host=False)
    assert kinds(program).count("MAP") == 1
    assert "DEQUANTIZE" not in kinds(program)
    assert "QUANTIZE" not in kinds(program)
    assert sqnr_db(want, found) > 25
    assert np.array_equal(found, run_program(program.index, program.container.blobs, list(feeds.values()))[0])
    monkeypatch.setattr(pipeline, "fuse_conversions", lambda items, outputs: items)
    [(apart, _)], longer = all_the_way(model, feeds, allow_host=False)
    assert len(longer.steps) > len(program.steps)
    assert np.array_equal(found, apart)


def test_a_float_product_stores_the_bytes_that_the_next_one_reads():
    model = squeeze_excite()
    ranges = ek.Calibrator(model).collect(feeds_of(model)).compute_ranges()
    qdq = ek.quantize(model, ranges, ek.QuantConfig(keep_float=["a"]))
    program = ek.compile(qdq, allow_host=False)
    [first] = [step for step in program.index.steps if step.kind.name == "CONV_F32"]
    assert program.index.tensors[first.outputs[0]].dtype.name == "U8"


def test_floats_that_others_read_are_kept():
    model = two_tensors("Mul")
    model.graph.output.append(helper.make_empty_tensor_value_info("c"))
    pairs, _ = all_the_way(model, feeds_of(model), allow_host=False)
    assert all(sqnr_db(want, found) > 25 for found, want in pairs)
