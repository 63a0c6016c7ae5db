"""Axes in any order, up to eight of them, and items of every size."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "29ba6c374efe663f"
GOLDEN_SHAPE, GOLDEN_ORDER = (2, 3, 5, 7, 4), (3, 0, 4, 2, 1)


def permute(shape, dtype, order, **changes):
    lead = 8 - len(shape)
    arguments = {
        "x_shape": [1] * lead + list(shape),
        "perm": [*range(lead), *(lead + axis for axis in order)],
        "item_bytes": np.dtype(dtype).itemsize,
    }
    result = tuple(shape[axis] for axis in order)
    return one_step(StepKind.PERMUTE, [np.empty(shape, dtype)], (result, dtype), **(arguments | changes))


def counted(shape, dtype):
    return np.arange(math.prod(shape)).astype(dtype).reshape(shape)


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.int64, np.bool_]))
def test_any_order_of_axes_equals_the_reference(data, dtype):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)))
    order = data.draw(st.permutations(range(len(shape))))
    assert_equals_reference(permute(shape, dtype, order), [counted(shape, dtype)])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((1, 3, 61, 67), (0, 2, 3, 1)),
        ((1, 61, 67, 3), (0, 3, 1, 2)),
        ((2, 70, 130), (0, 2, 1)),
        ((5, 12, 4, 33), (0, 2, 1, 3)),
        ((2, 3, 4, 5, 6, 7), (0, 3, 1, 4, 2, 5)),
        ((2, 4, 4, 3, 5, 7), (0, 4, 1, 5, 3, 2)),
        ((300, 301), (1, 0)),
        ((1, 1, 7), (2, 0, 1)),
    ],
)
def test_orders_that_models_have(shape, order, dtype):
    x = counted(shape, dtype)
    np.testing.assert_array_equal(assert_equals_reference(permute(shape, dtype, order), [x]), x.transpose(order))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 2, 3), (2, 0, 3, 1)])
def test_a_transpose_of_four_axes_takes_items_of_every_size(order, dtype):
    shape = (2, 9, 21, 17)
    x = counted(shape, dtype)
    result = tuple(shape[axis] for axis in order)
    arguments = {"x_shape": list(shape), "perm": list(order), "item_bytes": np.dtype(dtype).itemsize}
    program = one_step(StepKind.TRANSPOSE, [x], (result, dtype), **arguments)
    np.testing.assert_array_equal(assert_equals_reference(program, [x]), x.transpose(order))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, np.bool_])
def test_pieces_of_any_type_are_put_side_by_side(dtype):
    pieces = [counted((4, columns), dtype) for columns in (3, 17, 1)]
    rows = {"rows": 4, "bytes": [piece.nbytes // 4 for piece in pieces]}
    program = one_step(StepKind.CONCAT, pieces, ((4, 21), dtype), **rows)
    np.testing.assert_array_equal(assert_equals_reference(program, pieces), np.concatenate(pieces, axis=1))


def golden_program():
    return permute(GOLDEN_SHAPE, np.float32, GOLDEN_ORDER)


def test_golden_bytes(isa):
    x = np.random.Generator(np.random.PCG64(17)).integers(0, 1000, GOLDEN_SHAPE).astype(np.float32)
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN
    assert golden_program().paths(isa=isa) == ("move",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_bytes": 1}, "damaged item"),
        ({"x_shape": [1] * 5 + [2, 3, 5]}, "shapes do not match its tensors"),
        ({"perm": [0, 1, 2, 3, 4, 5, 6, 8]}, "damaged permutation"),
        ({"perm": [0, 1, 2, 3, 4, 5, 7, 7]}, "damaged permutation"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(permute((2, 3, 4), np.float32, (2, 1, 0), **changes))
