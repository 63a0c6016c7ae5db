"""Slices that rows of indices name."""

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
GOLDEN = "2b481aa36f72f8f1"


def counted(shape, dtype=np.float32):
    return np.arange(math.prod(shape)).astype(dtype).reshape(shape)


def gather_nd(data, indices, batch_axes=0, **changes):
    depth = indices.shape[-1]
    sides, slices = data.shape[batch_axes : batch_axes + depth], data.shape[batch_axes + depth :]
    batches = math.prod(data.shape[:batch_axes])
    arguments = {
        "batches": batches,
        "count": math.prod(indices.shape[:-1]) // batches,
        "depth": depth,
        "sides": [*sides] + [1] * (8 - depth),
        "slice_bytes": math.prod(slices) * data.itemsize,
    }
    result = ((*indices.shape[:-1], *slices), data.dtype)
    return one_step(StepKind.GATHER_ND, [data, indices], result, **(arguments | changes))


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.float32, np.int64]), wide=st.booleans())
def test_any_rows_of_indices_equal_the_reference(data, dtype, wide):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    depth = data.draw(st.integers(1, len(shape)))
    batch_axes = data.draw(st.integers(0, len(shape) - depth))
    rng, sides = np.random.default_rng(data.draw(st.integers(0, 99))), shape[batch_axes : batch_axes + depth]
    rows = (*shape[:batch_axes], data.draw(st.integers(1, 6)), depth)
    indices = rng.integers(-np.array(sides), sides, rows).astype(np.int64 if wide else np.int32)
    items = counted(shape, dtype)
    result = assert_equals_reference(gather_nd(items, indices, batch_axes), [items, indices])
    for at in np.ndindex(rows[:-1]):
        np.testing.assert_array_equal(result[at], items[(*at[:batch_axes], *indices[at])])


def test_many_are_shared_between_threads():
    data, indices = counted((40, 50, 60)), np.random.default_rng(4).integers(0, 40, (3000, 2))
    assert_equals_reference(gather_nd(data, indices), [data, indices])


def test_an_index_that_leaves_its_axis_is_named():
    data, indices = counted((3, 4, 2)), np.array([[2, 3], [0, 4], [3, 0]])
    session = ek.InferenceSession(gather_nd(data, indices))
    with pytest.raises(ArgumentValueError, match=r"the index 4, which lies outside of \[-4, 3\]"):
        session.run(None, {"x0": data, "x1": indices})
    [result] = session.run(None, {"x0": data, "x1": indices * 0 - 1})
    np.testing.assert_array_equal(result, data[[-1, -1, -1], -1])


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(17))
    return rng.integers(0, 1000, (4, 5, 11, 6)).astype(np.float32), rng.integers(-5, 5, (4, 9, 2))


def golden_program():
    return gather_nd(*golden_operands(), batch_axes=1)


def test_golden_bytes(isa):
    data, indices = golden_operands()
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": data, "x1": indices})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize(
    "changes",
    [
        {"sides": [4, 4, 1, 1, 1, 1, 1, 1]},
        {"sides": [3, 4, 1, 1, 1, 1, 1, 2]},
        {"depth": 9},
        {"depth": 1},
        {"count": 4},
        {"batches": 2},
        {"slice_bytes": 4},
    ],
)
def test_what_does_not_fit_is_refused(changes):
    with pytest.raises(ArtifactError, match=r"do not match|damaged"):
        ek.InferenceSession(gather_nd(counted((3, 4, 2)), np.zeros((3, 2), np.int64), **changes))
