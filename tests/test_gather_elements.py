"""An item for every index, along one axis."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArgumentValueError, ArtifactError

from one_step import assert_equals_reference, one_step

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "455db9dd142dcc10"


def counted(shape, dtype=np.float32):
    return np.arange(math.prod(shape)).astype(dtype).reshape(shape)


def gather_elements(data, indices, axis, **changes):
    """np.take_along_axis, where the other axes of the indices may be shorter than those of the data."""
    lead = 8 - data.ndim
    steps = [math.prod(data.shape[k + 1 :]) for k in range(data.ndim)]
    arguments = {
        "y_shape": [1] * lead + list(indices.shape),
        "x_step": [0] * lead + [0 if k == axis else step for k, step in enumerate(steps)],
        "n": data.shape[axis],
        "axis_step": steps[axis],
        "item_bytes": data.itemsize,
    }
    result = (indices.shape, data.dtype)
    return one_step(StepKind.GATHER_ELEMENTS, [data, indices], result, **(arguments | changes))


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.float32, np.int64, np.bool_]), wide=st.booleans())
def test_any_indices_equal_the_reference(data, dtype, wide):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    taken = [data.draw(st.integers(1, 9 if k == axis else side)) for k, side in enumerate(shape)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    indices = rng.integers(-shape[axis], shape[axis], taken).astype(np.int64 if wide else np.int32)
    items = counted(shape, dtype)
    result = assert_equals_reference(gather_elements(items, indices, axis), [items, indices])
    corner = items[tuple(slice(None) if k == axis else slice(side) for k, side in enumerate(taken))]
    np.testing.assert_array_equal(result, np.take_along_axis(corner, indices % shape[axis], axis))


@pytest.mark.parametrize(("shape", "axis"), [((300, 401), 0), ((300, 401), 1), ((10, 60, 7, 9), 1)])
def test_many_are_shared_between_threads(shape, axis):
    data, indices = counted(shape), np.random.default_rng(4).integers(0, shape[axis], shape)
    assert_equals_reference(gather_elements(data, indices, axis), [data, indices])


def test_an_index_that_leaves_its_axis_is_named():
    data, indices = counted((3, 4)), np.array([[0, -5], [1, 9]])
    session = ek.InferenceSession(gather_elements(data, indices, 1))
    with pytest.raises(ArgumentValueError, match=r"the index -5, which lies outside of \[-4, 3\]"):
        session.run(None, {"x0": data, "x1": indices})
    [result] = session.run(None, {"x0": data, "x1": np.abs(indices) % 4})
    np.testing.assert_array_equal(result, [[0, 1], [5, 5]])


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(17))
    return rng.integers(0, 1000, (5, 11, 6)).astype(np.float32), rng.integers(-11, 11, (4, 9, 6))


def golden_program():
    return gather_elements(*golden_operands(), 1)


def test_golden_bytes(isa):
    data, indices = golden_operands()
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": data, "x1": indices})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 5},
        {"axis_step": 2},
        {"axis_step": 2**31 - 1},
        {"x_step": [0] * 6 + [5, 0]},
        {"x_step": [0] * 6 + [-1, 0]},
        {"x_step": [0] * 6 + [2**62, 0]},
        {"item_bytes": 8},
        {"y_shape": [1] * 6 + [2, 4]},
    ],
)
def test_what_does_not_fit_is_refused(changes):
    with pytest.raises(ArtifactError, match=r"gathers outside|do not match|damaged x_step"):
        ek.InferenceSession(gather_elements(counted((2, 4)), np.zeros((2, 3), np.int64), 1, **changes))
