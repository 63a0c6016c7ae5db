"""Items picked along each axis by a table: what Pad, Slice, Tile, Expand, nearest Resize, constant Gather are."""

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
GOLDEN = "1682f2d3249e72be"
DTYPES = st.sampled_from([np.uint8, np.int8, np.int32, np.float32, np.int64, np.bool_, np.float64])


def any_items(shape, dtype, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    items = rng.integers(0, 256, math.prod(shape) * np.dtype(dtype).itemsize, np.uint8).view(dtype).reshape(shape)
    return np.where(np.isnan(items), dtype(1), items) if dtype in (np.float32, np.float64) else items


def eight(sides):
    return [1] * (8 - len(sides)) + list(sides)


def pick(shape, dtype, tables, filler=0, **changes):
    """A program that takes tables[i] along axis i; ``filler`` as a number of the dtype."""
    whole = [[0]] * (8 - len(shape)) + [list(table) for table in tables]
    bits = int.from_bytes(np.array(filler, dtype).tobytes().ljust(8, b"\0"), "little", signed=True)
    arguments = {
        "x_shape": eight(shape),
        "y_shape": [len(table) for table in whole],
        "item_bytes": np.dtype(dtype).itemsize,
        "filler": bits,
    }
    blob = np.array([entry for table in whole for entry in table], np.int32)
    result = tuple(len(table) for table in tables)
    return one_step(StepKind.PICK, [np.empty(shape, dtype)], (result, dtype), [blob], **(arguments | changes))


@st.composite
def tables(draw, side):
    kind = draw(st.sampled_from(["all", "any", "some", "again", "backwards", "padded"]))
    if kind == "any":
        return draw(st.lists(st.integers(-1, side - 1), min_size=1, max_size=20))
    count = draw(st.integers(1, 3))
    return {
        "all": list(range(side)),
        "some": list(range(side))[draw(st.integers(0, side - 1)) :: count],
        "again": [i for i in range(side) for _ in range(count)],
        "backwards": list(range(side))[::-1],
        "padded": [-1] * count + list(range(side)) + [-1] * draw(st.integers(0, 2)),
    }[kind]


@given(data=st.data(), dtype=DTYPES, seed=st.integers(0, 99))
def test_any_tables_equal_the_reference(data, dtype, seed):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    program = pick(shape, dtype, [data.draw(tables(side)) for side in shape], filler=data.draw(st.integers(0, 1)))
    assert_equals_reference(program, [any_items(shape, dtype, seed)])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("pad", lambda x: np.pad(x, [(0, 0), (2, 1), (1, 3), (0, 0)], constant_values=7)),
        ("reflect", lambda x: np.pad(x, [(0, 0), (2, 1), (1, 3), (0, 0)], mode="reflect")),
        ("slice", lambda x: x[:, 1:20, ::-2]),
        ("tile", lambda x: np.tile(x, (2, 1, 3, 1))),
        ("nearest", lambda x: x.repeat(2, axis=1).repeat(2, axis=2)),
        ("channels", lambda x: x[..., ::2]),
    ],
)
def test_what_operators_are_made_of(dtype, what, expected):
    x = any_items((2, 31, 21, 17), dtype, 5)
    wanted = expected(x)
    # Along each axis: which entry came from where, told by numbers in the place of the items.
    found = []
    for axis, side in enumerate(x.shape):
        shape = [1] * 4
        shape[axis] = side
        numbers = np.broadcast_to(np.arange(side).reshape(shape) + 100, x.shape)
        row = np.moveaxis(expected(numbers), axis, 0).reshape(wanted.shape[axis], -1)
        found.append(np.where(row.max(axis=1) >= 100, row.max(axis=1) - 100, -1))
    program = pick(x.shape, dtype, found, filler=7)
    np.testing.assert_array_equal(assert_equals_reference(program, [x]), wanted)


@pytest.mark.parametrize("shape", [(3, 100_003), (40_001, 3), (64, 64, 33)])
def test_long_axes_are_shared_between_threads(shape):
    program = pick(shape, np.float32, [[-1, *range(side)[::-1], -1] for side in shape], filler=2.5)
    assert_equals_reference(program, [any_items(shape, np.float32, 3)])


def test_what_a_damaged_table_says_is_filled():
    program = pick((2, 5), np.float32, [[0, 1], [4, 5, -7, 2**31 - 1, 0]], filler=-1)
    x = any_items((2, 5), np.float32, 1)
    result = assert_equals_reference(program, [x])
    np.testing.assert_array_equal(result[:, 1:4], -1)
    np.testing.assert_array_equal(result[:, [0, 4]], x[:, [4, 0]])


def golden_program():
    return pick((5, 9, 6), np.float32, [[4, -1, 0, 0], range(1, 9, 2), [-1, *range(6), 5, 4]], filler=0.5)


def test_golden_bytes(isa):
    x = any_items((5, 9, 6), np.float32, 17)
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN
    assert golden_program().paths(isa=isa) == ("move",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_bytes": 8}, "damaged item"),
        ({"x_shape": eight([2, 4])}, "shapes do not match its tensors"),
        ({"y_shape": eight([2, 2])}, "shapes do not match its tensors"),
        ({"y_shape": eight([5, 6])}, "damaged tables"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(pick((2, 3), np.float32, [[1], [0, 1, 2] * 10], **changes))
