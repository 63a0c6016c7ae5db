"""Items put along an axis where indices of their own say, or joined with what is there."""

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
GOLDEN = "6abb6e75e5845cfd"
JOINS = [None, np.add, np.multiply, np.minimum, np.maximum]


def scatter_elements(data, indices, updates, axis, how=0, **changes):
    steps = [math.prod(data.shape[at + 1 :]) for at in range(data.ndim)]
    arguments = {
        "shape": [1] * (8 - data.ndim) + [*indices.shape],
        "y_step": [0] * (8 - data.ndim) + [0 if at == axis else step for at, step in enumerate(steps)],
        "n": data.shape[axis],
        "axis_step": steps[axis],
        "how": how,
    }
    inputs = [data, indices, updates]
    return one_step(StepKind.SCATTER_ELEMENTS, inputs, (data.shape, data.dtype), **(arguments | changes))


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.float32, np.int64, np.int32]), wide=st.booleans())
def test_any_indices_equal_the_reference(data, dtype, wide):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rows = [data.draw(st.integers(1, side)) for side in shape]
    axis = data.draw(st.integers(0, len(shape) - 1))
    rows[axis] = data.draw(st.integers(1, 7))  # some of them twice
    how = 0 if dtype == np.uint8 else data.draw(st.integers(0, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    items, updates = (rng.integers(0, 9, side).astype(dtype) for side in (shape, rows))
    if dtype == np.float32:
        items.flat[0] = updates.flat[-1] = np.nan
    indices = rng.integers(-shape[axis], shape[axis], rows).astype(np.int64 if wide else np.int32)
    expected = items.copy()
    for at in np.ndindex(*rows):
        to = (*at[:axis], indices[at], *at[axis + 1 :])
        expected[to] = updates[at] if how == 0 else JOINS[how](expected[to], updates[at])
    found = assert_equals_reference(
        scatter_elements(items, indices, updates, axis, how), [items, indices, updates]
    ).reshape(shape)
    np.testing.assert_array_equal(found, expected)


def test_an_index_that_leaves_its_axis_is_named_and_puts_nothing():
    data, indices, updates = np.zeros((2, 3), np.float32), np.array([[1, 3]]), np.ones((1, 2), np.float32)
    session = ek.InferenceSession(scatter_elements(data, indices, updates, 1))
    with pytest.raises(ArgumentValueError, match=r"the index 3, which lies outside of \[-3, 2\]"):
        session.run(None, {"x0": data, "x1": indices, "x2": updates})
    [result] = session.run(None, {"x0": data, "x1": indices - 4, "x2": updates})
    np.testing.assert_array_equal(result, [[1, 0, 1], [0, 0, 0]])


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(23))
    data, updates = (rng.integers(0, 1000, shape).astype(np.float32) for shape in ((4, 11, 7), (3, 16, 7)))
    return data, rng.integers(-11, 11, (3, 16, 7)), updates


def golden_program():
    return scatter_elements(*golden_operands(), axis=1, how=1)


def test_golden_bytes(isa):
    feeds = {f"x{at}": array for at, array in enumerate(golden_operands())}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64])
def test_onnxruntime_scatters_the_same(reduction, kind):
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=-1, reduction=reduction)
    indices = np.array([[0, 2, -1, 0], [4, 4, -5, 1]])
    assert_native(net([node], {"i": indices}, {"x": ((3, 5), kind), "u": ((2, 4), kind)}, ["y"], opset=18))


def test_what_has_no_kernel_says_why():
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="add")
    for kind, at, message in (
        (TensorProto.BOOL, 0, "joins bools or 8-bit integers"),
        (TensorProto.FLOAT, 3, "its index is outside of its data"),
    ):
        model = net([node], {"i": np.array([at])}, {"x": ((3,), kind), "u": ((1,), kind)}, ["y"], opset=18)
        with pytest.raises(ek.errors.HostStepError, match=message):
            ek.compile(model, allow_host=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 4},
        {"axis_step": 2},
        {"axis_step": -1},
        {"y_step": [0, 0, 0, 0, 0, 0, -3, 0]},
        {"y_step": [0, 0, 0, 0, 0, 0, 2**62, 0]},
        {"shape": [1, 1, 1, 1, 1, 1, 2, 3]},
        {"how": 5},
    ],
)
def test_what_does_not_fit_is_refused(changes):
    data, indices, updates = np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float32)
    with pytest.raises(ArtifactError, match=r"do not match|outside|damaged"):
        ek.InferenceSession(scatter_elements(data, indices, updates, 1, **changes))


def test_types_that_do_not_fit_are_refused():
    data, indices = np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int64)
    for bad in ((data, indices, indices), (data, data[:, :2], data[:, :2]), (data > 0, indices, indices > 0)):
        with pytest.raises(ArtifactError, match="do not match its result"):
            ek.InferenceSession(scatter_elements(*bad, axis=1, how=1))
