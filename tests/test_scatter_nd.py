"""Slices put where rows of indices say, or joined with what is there."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArgumentValueError, ArtifactError
from test_float_nets import assert_native, net

from one_step import assert_equals_reference, one_step

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "fc29633b67a0ffdd"
JOINS = [None, np.add, np.multiply, np.minimum, np.maximum]


def scatter_nd(data, indices, updates, how=0, **changes):
    depth = indices.shape[-1]
    arguments = {
        "count": math.prod(indices.shape[:-1]),
        "depth": depth,
        "sides": [*data.shape[:depth]] + [1] * (8 - depth),
        "slice": math.prod(data.shape[depth:]),
        "how": how,
    }
    inputs = [data, indices, updates]
    return one_step(StepKind.SCATTER_ND, inputs, (data.shape, data.dtype), **(arguments | changes))


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.float32, np.int64, np.int32]), wide=st.booleans())
def test_any_rows_of_indices_equal_the_reference(data, dtype, wide):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    depth = data.draw(st.integers(1, len(shape)))
    count = data.draw(st.integers(1, 7))
    how = 0 if dtype == np.uint8 else data.draw(st.integers(0, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    items, updates = (rng.integers(0, 9, side).astype(dtype) for side in (shape, (count, *shape[depth:])))
    if dtype == np.float32:
        items.flat[0] = updates.flat[-1] = np.nan
    indices = rng.integers(-np.array(shape[:depth]), shape[:depth], (count, depth))
    indices = indices.astype(np.int64 if wide else np.int32)
    expected = items.copy()
    for row, update in zip(indices.tolist(), updates, strict=True):
        to = tuple(row)
        expected[to] = update if how == 0 else JOINS[how](expected[to], update)
    found = assert_equals_reference(scatter_nd(items, indices, updates, how), [items, indices, updates])
    np.testing.assert_array_equal(found.reshape(shape), expected)


def test_an_index_that_leaves_its_axis_is_named_and_puts_nothing():
    data, indices = np.zeros((2, 3, 2), np.float32), np.array([[1, 3], [0, 0]])
    updates = np.ones((2, 2), np.float32)
    session = ek.InferenceSession(scatter_nd(data, indices, updates))
    with pytest.raises(ArgumentValueError, match=r"the index 3, which lies outside of \[-3, 2\]"):
        session.run(None, {"x0": data, "x1": indices, "x2": updates})
    [result] = session.run(None, {"x0": data, "x1": indices * 0 - 1, "x2": updates})
    np.testing.assert_array_equal(result, np.array([[[0, 0]] * 3, [[0, 0], [0, 0], [1, 1]]]))


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(29))
    data, updates = (rng.integers(0, 1000, shape).astype(np.float32) for shape in ((4, 5, 11), (9, 11)))
    return data, rng.integers(-4, 4, (9, 2)), updates


def golden_program():
    return scatter_nd(*golden_operands(), how=4)


def test_golden_bytes(isa):
    feeds = {f"x{at}": array for at, array in enumerate(golden_operands())}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64])
def test_onnxruntime_scatters_the_same(reduction, kind):
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)
    indices = np.array([[0, 2], [-1, 4], [0, 2]])
    assert_native(net([node], {"i": indices}, {"x": ((3, 5, 2), kind), "u": ((3, 2), kind)}, ["y"], opset=18))


def test_a_part_of_an_image_that_is_assigned_stays_on_kernels():
    """x[:, 1:3] = sigmoid(x[:, 1:3]), as torch exports it."""
    nodes = [
        helper.make_node("Slice", ["x", "one", "three", "one"], ["part"]),
        helper.make_node("Sigmoid", ["part"], ["s"]),
        helper.make_node("ScatterND", ["x", "places", "s"], ["y"]),
    ]
    places = np.stack(np.meshgrid([0, 1], [1, 2], indexing="ij"), -1)
    weights = {"one": np.array([1]), "three": np.array([3]), "places": places}
    assert_native(net(nodes, weights, {"x": (2, 4, 5)}, ["y"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"sides": [3, 3, 1, 1, 1, 1, 1, 1]},
        {"sides": [2, 3, 1, 1, 1, 1, 1, 2]},
        {"depth": 9},
        {"depth": 1},
        {"count": 3},
        {"slice": 1},
        {"how": 5},
    ],
)
def test_what_does_not_fit_is_refused(changes):
    data, indices, updates = np.zeros((2, 3, 2), np.float32), np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float32)
    with pytest.raises(ArtifactError, match=r"do not match|damaged"):
        ek.InferenceSession(scatter_nd(data, indices, updates, **changes))
