"""The recipe "auto", the default: rows get their own scales where one for the tensor would lose too much."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern.calibration import Ranges, TensorRange
from edgekern.errors import ArgumentValueError
from edgekern.quantization import plan_of

from float_models import STATIC, build, f32, ranges_of, run, samples, small_cnn, sqnr_db

node = helper.make_node
RNG = np.random.default_rng(11)
# In every eighth row one channel is a hundred times as large as all else, and the weights hardly read it, as it is with
# the first words of a transformer.
OUTLIER = np.where(np.arange(32) == 5, 100, 1)
ROWS = f32(RNG.normal(size=(64, 32)) * np.where(np.arange(64)[:, None] % 8 == 0, OUTLIER, 1))


def perceptron(first=1 / OUTLIER**2):
    rng = np.random.default_rng(5)
    weights = {"a": f32(rng.normal(size=(32, 48)) * first[:, None]), "b": f32(rng.normal(size=(48, 8)))}
    nodes = [
        node("MatMul", ["x", "a"], ["h"], "first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    return build(nodes, weights, [64, 32])


def recipes(qdq):
    return {choice.node: choice.recipe for choice in plan_of(qdq).choices}


def test_a_product_of_outliers_and_all_of_its_region_go_by_rows():
    model = perceptron()
    qdq = ek.quantize(model, ranges_of(model, ROWS))
    assert recipes(qdq) == {"first": "w8a8-dynamic", "second": "w8a8-dynamic"}
    program = ek.compile(qdq, allow_host=False)
    [found] = ek.InferenceSession(program).run(None, {"x": ROWS})
    one_scale = ek.compile(ek.quantize(model, ranges_of(model, ROWS), STATIC))
    static = ek.InferenceSession(one_scale).run(None, {"x": ROWS})
    wanted = run(model, ROWS)[0]
    assert sqnr_db(wanted, found) > sqnr_db(wanted, static[0]) + 10


def test_a_convolutional_net_is_as_in_w8a8():
    model = small_cnn()
    ranges = ranges_of(model, samples(RNG))
    chosen, static = ek.quantize(model, ranges), ek.quantize(model, ranges, STATIC)
    assert chosen.graph == static.graph
    assert recipes(chosen) == dict.fromkeys(recipes(chosen), "w8a8")


def test_where_no_convolution_gives_codes_all_products_go_by_rows():
    model = perceptron(np.ones(32))
    qdq = ek.quantize(model, ranges_of(model, f32(RNG.normal(size=(64, 32)))))
    assert all(choice.w8a8_db > 35 for choice in plan_of(qdq).choices)
    assert recipes(qdq) == {"first": "w8a8-dynamic", "second": "w8a8-dynamic"}


@pytest.mark.parametrize(("stride", "recipe"), [(4, "w8a8-dynamic"), (2, "w8a8")])
def test_patches_of_a_picture_are_rows(stride, recipe):
    """Windows that lie side by side, as a vision transformer's; others share numbers."""
    rng = np.random.default_rng(4)
    weights = {"a": f32(rng.normal(size=(8, 3, 4, 4))), "b": f32(rng.normal(size=(8, 6)))}
    nodes = [
        node("Conv", ["x", "a"], ["h"], "cut", strides=[stride, stride]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 3, 1]),
        node("MatMul", ["t", "b"], ["y"], "first"),
    ]
    model = build(nodes, weights, [2, 3, 8, 8])
    qdq = ek.quantize(model, ranges_of(model, f32(RNG.normal(size=(2, 3, 8, 8)))))
    assert recipes(qdq) == {"cut": "w8a8", "first": recipe}


def cancelling():
    """Three convolutions; the weights of the second one hardly read its two large channels."""
    rng = np.random.default_rng(2)
    large = np.where(np.arange(8) < 2, 2000, 1)
    weights = {
        "a": f32(rng.normal(size=(8, 3, 1, 1)) * large[:, None, None, None]),
        "b": f32(rng.normal(size=(8, 8, 3, 3)) / large[:, None, None] ** 2),
        "c": f32(rng.normal(size=(8, 8, 3, 3))),
    }
    nodes = [
        node("Conv", ["x", "a"], ["h"], "first"),
        node("Conv", ["h", "b"], ["i"], "second", pads=[1, 1, 1, 1]),
        node("Conv", ["i", "c"], ["y"], "third", pads=[1, 1, 1, 1]),
    ]
    return build(nodes, weights, [2, 3, 8, 8])


def test_the_convolution_that_loses_most_stays_float():
    model, x = cancelling(), f32(RNG.normal(size=(2, 3, 8, 8)))
    ranges = ranges_of(model, x)
    qdq = ek.quantize(model, ranges)
    assert recipes(qdq) == {"first": "w8a8", "second": "float32", "third": "w8a8"}
    program, static = (ek.compile(q) for q in (qdq, ek.quantize(model, ranges, STATIC)))
    wanted = run(model, x)[0]
    found, worse = (ek.InferenceSession(p).run(None, {"x": x})[0] for p in (program, static))
    assert sqnr_db(wanted, found) > 25 > 10 > sqnr_db(wanted, worse)


def test_the_plan_foretells_what_rounding_the_input_costs():
    model = perceptron()
    ranges = ranges_of(model, ROWS)
    foretold = plan_of(ek.quantize(model, ranges)).choices[0].w8a8_db
    scale = (ranges["x"].hi - ranges["x"].lo) / 255
    zero_point = np.rint(-ranges["x"].lo / scale)
    rounded = (np.clip(np.rint(ROWS / scale) + zero_point, 0, 255) - zero_point) * scale
    stored = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "a"))
    assert foretold == pytest.approx(sqnr_db(ROWS @ stored, f32(rounded) @ stored), abs=1.5)


def test_the_plan_foretells_what_rounding_the_weights_costs():
    """Of a difference of large numbers: what they have in common cancels, but not in what rounding adds to weights."""
    rng = np.random.default_rng(4)
    x, weights = f32(20 + rng.normal(size=(64, 32))), rng.normal(size=(32, 8))
    weights = f32(weights - weights.mean(axis=0))
    model = build([node("MatMul", ["x", "a"], ["y"], "only")], {"a": weights}, [64, 32])
    foretold = plan_of(ek.quantize(model, ranges_of(model, x))).choices[0].w8a8_db
    step = np.abs(weights).max(axis=0) / 127
    assert foretold == pytest.approx(sqnr_db(x @ weights, x @ f32(np.rint(weights / step) * step)), abs=2)
    assert foretold < 22


@pytest.mark.parametrize("group", [8, 1])
def test_weights_that_meet_nothing_but_zeros_are_not_counted(group):
    """As in MobileNetV2: a dead channel, and behind it weights that its BatchNormalization has made enormous."""
    x = f32(np.random.default_rng(6).uniform(0, 1, (4, 8, 9, 9)))
    x[:, 5] = 0
    dead = (5, slice(None)) if group == 8 else (slice(None), 5)
    foretold, measured = [], []
    for size in (1, 60):
        weights = np.random.default_rng(7).normal(size=(8, 8 // group, 3, 3))
        weights[dead] *= size
        model = build([node("Conv", ["x", "k"], ["y"], "only", group=group)], {"k": f32(weights)}, [4, 8, 9, 9])
        qdq = ek.quantize(model, ranges_of(model, x), STATIC)
        foretold.append(plan_of(qdq).choices[0].w8a8_db)
        [found] = ek.InferenceSession(ek.compile(qdq)).run(None, {"x": x})
        measured.append(sqnr_db(run(model, x)[0], found))
    # Above what is foretold, as filters are rounded to keep their sums.
    assert all(0 < more - told < 7 for told, more in zip(foretold, measured, strict=True))
    if group == 8:  # the scales of other channels are their own
        assert foretold[0] == foretold[1]


def test_a_convolution_ends_a_region():
    """Its products are 8-bit though the head behind it has outliers."""
    scale = np.where(np.arange(8) == 3, 300, 1)
    weights = {
        "k": f32(RNG.normal(size=(8, 3, 3, 3)) * scale[:, None, None, None]),
        "a": f32(RNG.normal(size=(8, 16)) / scale[:, None] ** 2),
    }
    nodes = [
        node("Conv", ["x", "k"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("GlobalMaxPool", ["c"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "a"], ["y"], "head"),
    ]
    model = build(nodes, weights, [16, 3, 8, 8])
    qdq = ek.quantize(model, ranges_of(model, f32(RNG.normal(size=(16, 3, 8, 8)))))
    assert recipes(qdq) == {"conv": "w8a8", "head": "w8a8-dynamic"}


def test_a_rule_has_the_last_word():
    model = perceptron()
    config = ek.QuantConfig(overrides={"first": "w8a8"}, keep_float=["second"])
    assert recipes(ek.quantize(model, ranges_of(model, ROWS), config)) == {"first": "w8a8", "second": "float32"}


def test_ranges_that_know_no_powers_choose_nothing():
    """Those of a file that an older edgekern wrote."""
    model = cancelling()
    seen = ranges_of(model, f32(RNG.normal(size=(2, 3, 8, 8))))
    old = Ranges({name: TensorRange(r.lo, r.hi, r.count) for name, r in seen.items()}, seen.model_hash, seen.method)
    plan = plan_of(ek.quantize(model, old))
    assert [(choice.recipe, choice.w8a8_db) for choice in plan.choices] == [("w8a8", None)] * 3


def test_ranges_carry_powers_through_their_file(tmp_path):
    ranges = ranges_of(perceptron(), ROWS)
    ranges.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == ranges
    assert ranges["x"].power == pytest.approx(np.square(ROWS.astype(np.float64)).mean(), rel=1e-2)


def test_a_plan_is_a_table_and_no_other_file_has_one():
    qdq = ek.quantize(perceptron(), ranges_of(perceptron(), ROWS))
    plan = plan_of(qdq.SerializeToString())
    assert plan.counts() == {"w8a8-dynamic": 2}
    header, first, _ = str(plan).splitlines()
    assert header.split() == ["node", "operator", "recipe", "dB", "in", "w8a8"]
    assert first.split()[:3] == ["first", "MatMul", "w8a8-dynamic"]
    with pytest.raises(ArgumentValueError, match=r"plan_of: model must be one that edgekern\.quantize wrote"):
        plan_of(perceptron())
    broken = onnx.ModelProto.FromString(qdq.SerializeToString())
    broken.metadata_props[0].value = json.dumps({"plan": [{"node": 1}]})
    with pytest.raises(ArgumentValueError, match="plan_of: model must be one"):
        plan_of(broken)
