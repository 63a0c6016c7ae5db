"""What fills up an input is not seen in the results, or sizes run alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern.errors import (
    ArgumentValueError,
    CompileError,
    EdgekernWarning,
)

from graphs import Graph
from sized_models import LENGTHS, encoder, same, text


@pytest.mark.parametrize(
    "model",
    [encoder(masked=False), encoder(masked=False, pooled=True), encoder(dynamic=True)],
    ids=["bare", "mean", "scale"],
)
def test_what_is_not_masked_runs_in_the_sizes_given_alone(model):
    with pytest.warns(EdgekernWarning, match=r"length: (with 1, .* is not what a program|.* takes the largest of all)"):
        program = ek.compile(model, shapes={"length": LENGTHS})
    assert program.buckets.dimensions[0].padded is False
    session = ek.InferenceSession(program)
    feeds = {node.name: text(1, 9)[node.name] for node in session.get_inputs()}
    same(ek.InferenceSession(ek.compile(model, shapes={"length": 9})).run(None, feeds), session.run(None, feeds))
    between = {name: array[:, :5] for name, array in feeds.items()}
    with pytest.raises(ArgumentValueError, match=r"'length' is 5, and the program has the sizes \[4, 9, 16\] alone"):
        session.run(None, between)
    with pytest.raises(CompileError, match="pad is given, but what fills up is seen: length: with "):
        ek.compile(model, shapes={"length": LENGTHS}, pad={"ids": 0})


def test_rows_that_know_each_other_are_not_filled_up():
    g = Graph(opset=17)
    x = g.input("x", ["N", 5])
    model = g.model(g.op("Softmax", x, axis=0))
    with pytest.warns(EdgekernWarning, match="N: with 3"):
        program = ek.compile(model, batch=(1, 2, 4))
    session = ek.InferenceSession(program)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].sum(0), 1, rtol=1e-6)
    with pytest.raises(ArgumentValueError, match="'N' is 3"):
        session.run(None, {"x": x[:3]})
    with pytest.raises(ArgumentValueError, match="'N' is 8, and the program has the sizes"):
        session.run(None, {"x": np.tile(x, (2, 1))})


def test_a_running_sum_is_filled_up_but_not_cut():
    g = Graph(opset=17)
    x = g.input("x", ["T", 5])
    program = ek.compile(g.model(g.op("CumSum", x, g.const(0, np.int64))), shapes={"T": (4, 8)})
    assert [(one.padded, one.rows) for one in program.buckets.dimensions] == [(True, False)]
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    same([np.cumsum(x[:7], 0)], ek.InferenceSession(program).run(None, {"x": x[:7]}))
    with pytest.raises(ArgumentValueError, match=r"'T' is 9, and the program has the sizes \[4, 8\]"):
        ek.InferenceSession(program).run(None, {"x": x})


def test_pads_are_the_callers():
    g = Graph(opset=17)
    x = g.input("x", [1, "n"])
    model = g.model(g.op("ReduceMax", x, keepdims=0))
    with pytest.warns(
        EdgekernWarning, match=r"n: .* \(ReduceMax\) takes the largest of all, which a trial may not show"
    ):
        ek.compile(model, shapes={"n": (4, 8)})
    with pytest.raises(CompileError, match="n: with 1"):
        ek.compile(model, shapes={"n": (4, 8)}, pad={"x": 0})
    program = ek.compile(model, shapes={"n": (4, 8)}, pad={"x": -np.inf})
    reloaded = ek.Program.load(program.container.data)
    x = -np.random.default_rng(0).uniform(1, 2, (1, 5)).astype(np.float32)
    same([x.max()[...]], ek.InferenceSession(reloaded).run(None, {"x": x}))


def test_a_pad_must_fit_its_input():
    with pytest.raises(ArgumentValueError, match=r"pad\['ids'\] is 0.5, which int64 cannot hold"):
        ek.compile(encoder(), shapes={"length": LENGTHS}, pad={"ids": 0.5})


def _mixes_ranks():
    g = Graph(opset=17)
    x = g.input("x", ["batch", "seq", 3])
    return g.model(g.op("Reshape", g.op("Transpose", x, perm=[1, 0, 2]), g.op("Shape", x)))


def _sums_over_rows_of_rows():
    g = Graph(opset=17)
    x = g.input("x", ["batch", "seq", 3])
    flat = g.op("Reshape", g.op("Add", x, g.vector(3)), g.const([-1, 3]))
    return g.model(g.op("Reshape", g.op("CumSum", flat, g.const(0, np.int64)), g.op("Shape", x)))


def _mean_of_logarithms():
    g = Graph(opset=17)
    x = g.op("Log", g.op("Add", g.input("x", ["batch", "seq", 10]), g.const(0.001, np.float32)))
    y = g.op("Relu", g.op("MatMul", x, g.const(g.rng.normal(size=(10, 8)), np.float32)))
    return g.model(g.op("ReduceMean", y, axes=[1], keepdims=0))


def _mean_of_rows_behind_roots():
    g = Graph(opset=17)
    x = g.op("MatMul", g.input("x", ["batch", 6]), g.const(g.rng.normal(size=(6, 6)), np.float32))
    y = g.op("MatMul", g.op("Sqrt", x), g.const(g.rng.normal(size=(6, 6)), np.float32))
    return g.model(g.op("Sub", y, g.op("ReduceMean", y, axes=[0])))


def _largest(kind, **attributes):
    g = Graph(opset=17)
    return g.model(g.op(kind, g.input("x", ["batch", "seq", 1]), **attributes))


def _mean_of_codes():
    g = Graph(opset=17)
    x = g.qdq(g.input("x", ["batch", 3, 8, "seq"]), 1.0, 0)
    return g.model(g.qdq(g.op("GlobalAveragePool", x), 1.0, 0))


def _class_of_mean():
    g = Graph(opset=17)
    y = g.op("ReduceMean", g.input("x", ["batch", "seq", 4]), axes=[1], keepdims=0)
    return g.model(g.op("ArgMax", g.op("MatMul", y, g.const(g.rng.normal(size=(4, 2)), np.float32)), axis=1))


def _scale_of_all_rows():
    g = Graph(opset=17)
    y = g.op("MatMul", g.input("x", ["batch", 6]), g.const(g.rng.normal(size=(6, 4)), np.float32))
    codes = g.op("DynamicQuantizeLinear", g.op("Add", y, g.vector(4, 9)), outputs=3)
    return g.model(g.op("DequantizeLinear", *codes))


HIDING = {
    "ranks": (_mixes_ranks, {"batch": (1, 4), "shapes": {"seq": (1, 8)}}, "both"),
    "sums": (_sums_over_rows_of_rows, {"batch": (1, 4), "shapes": {"seq": (4, 8)}}, "seq"),
    "logarithms": (_mean_of_logarithms, {"batch": (1, 4), "shapes": {"seq": (4, 9)}}, "seq"),
    "roots": (_mean_of_rows_behind_roots, {"batch": (2, 8)}, "batch"),
    "argmax": (lambda: _largest("ArgMax", axis=1, keepdims=0), {"shapes": {"batch": 2, "seq": (1, 16)}}, "seq"),
    "maximum": (lambda: _largest("ReduceMax", axes=[1], keepdims=0), {"shapes": {"batch": 2, "seq": (2, 8)}}, "seq"),
    "codes": (_mean_of_codes, {"batch": 1, "shapes": {"seq": (8, 24)}}, "seq"),
    "classes": (_class_of_mean, {"batch": 2, "shapes": {"seq": (4, 12)}}, "seq"),
    "scale": (_scale_of_all_rows, {"batch": (1, 4)}, "batch"),
}


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_from_a_few_draws_is_not_filled_up(name):
    make, options, dimension = HIDING[name]
    with pytest.warns(EdgekernWarning, match="sizes between those given will be refused"):
        program = ek.compile(make(), **options)
    padded = {one.name for one in program.buckets.dimensions if one.padded}
    assert not padded if dimension == "both" else dimension not in padded
    assert not any(one.rows for one in program.buckets.dimensions if one.name == "batch" and name in ("sums", "scale"))


def test_the_smallest_size_is_the_models():
    g = Graph(opset=17)
    x = g.input("x", [1, 3, "seq"])
    model = g.model(g.op("Conv", x, g.const(g.rng.normal(size=(2, 3, 5)), np.float32)))
    program = ek.compile(model, shapes={"seq": (8, 16)})
    assert "seq 8, 16, and all below down to 5" in str(program.buckets)
    session = ek.InferenceSession(program)
    assert session.get_outputs()[0].shape == [1, 2, "seq - 4"]
    x = np.random.default_rng(0).normal(size=(1, 3, 16)).astype(np.float32)
    for length in range(5, 17):
        part = np.ascontiguousarray(x[..., :length])
        alone = ek.InferenceSession(ek.compile(model, shapes={"seq": length}))
        same(alone.run(None, {"x": part}), session.run(None, {"x": part}))
    with pytest.raises(ArgumentValueError, match="'seq' is 4, and must be at least 5"):
        session.run(None, {"x": np.ascontiguousarray(x[..., :4])})
    g = Graph(opset=17)
    y = g.op("Slice", g.input("x", ["N", 2]), g.const([0]), g.const([-3]))
    program = ek.compile(g.model(y), batch=(5, 8))
    assert [(one.padded, one.rows, one.least) for one in program.buckets.dimensions] == [(True, False, 3)]


def test_a_mask_of_floats_is_told_by_its_pad():
    g = Graph(opset=17)
    x, mask = g.input("x", [1, "seq", 4]), g.input("mask", [1, "seq"])
    hidden = g.op("Mul", g.op("Sub", g.const(1, np.float32), mask), g.const(-1e4, np.float32))
    scores = g.op(
        "Add", g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1])), g.op("Unsqueeze", hidden, g.const([1]))
    )
    model = g.model(g.op("MatMul", g.op("Softmax", scores, axis=-1), x))
    with pytest.warns(EdgekernWarning, match="if 'mask' is a mask of 0 and 1, give its pad"):
        assert not ek.compile(model, shapes={"seq": (4, 8)}).buckets.dimensions[0].padded
    assert ek.compile(model, shapes={"seq": (4, 8)}, pad={"mask": np.float32(0)}).buckets.dimensions[0].padded


def test_places_may_be_told_by_a_pad_of_their_own():
    g = Graph(opset=17)
    ids = g.input("ids", [1, "seq"], TensorProto.INT64)
    x = g.op("Gather", g.const(g.rng.normal(size=(9, 4)), np.float32), ids)
    gone = g.op("Cast", g.op("Equal", ids, g.const(1)), to=TensorProto.FLOAT)
    hidden = g.op("Unsqueeze", g.op("Mul", gone, g.const(-1e4, np.float32)), g.const([1]))
    scores = g.op("Add", g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1])), hidden)
    model = g.model(g.op("MatMul", g.op("Softmax", scores, axis=-1), x))
    program = ek.compile(model, shapes={"seq": (4, 8)}, pad={"ids": 1})
    feeds = {"ids": np.array([[3, 8, 2, 5, 7]])}
    alone = ek.InferenceSession(ek.compile(model, shapes={"seq": 5}))
    same(alone.run(None, feeds), ek.InferenceSession(program).run(None, feeds))
