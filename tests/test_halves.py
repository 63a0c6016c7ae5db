"""float16 and bfloat16: every half, every border between two, stored weights, and whole graphs in halves."""

from __future__ import annotations

import hashlib
import sys

import ml_dtypes
import numpy as np
import pytest

import edgekern as ek
from edgekern._core import MapOp, StepKind
from edgekern.errors import ArgumentValueError

from map_chains import chain
from one_step import assert_equals_reference, one_step
from reference.maps import bfloat16

BFLOAT16 = ml_dtypes.bfloat16
HALVES = (np.float16, BFLOAT16)
EVERY = np.arange(65536, dtype=np.uint16)
# SHA-256 of the bytes that every machine gives for what is no NaN; tests/reference computed it.
GOLDEN = {np.float16: "0b144778d16517c9", BFLOAT16: "944dfeb21ca6bfd4"}


def wide(halves):
    """As float32: of bfloat16 by its definition."""
    if halves.dtype == np.float16:
        return halves.astype(np.float32)
    return (halves.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def around_borders(dtype):
    """The float32 in the middle between neighbors, where ties go to even, and those beside it; what lies beyond."""
    finite = EVERY.view(dtype)
    values = np.unique(wide(finite[np.isfinite(finite.astype(np.float32))]))
    values += np.float32(0)  # which of the two zeros is left depends on how this CPU sorts
    middle = ((values[:-1].astype(np.float64) + values[1:]) / 2).astype(np.float32)
    last = values[-1] + (values[-1].astype(np.float64) - values[-2]) / 2
    ends = np.array([last, -last, 3e38, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 0.0, -0.0], np.float32)
    x = np.concatenate([values, middle, ends])
    return np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_read_as_the_float32_that_it_is(dtype):
    x = EVERY.view(dtype)
    found = assert_equals_reference(chain([x], [("COPY", 0)]), [x])
    assert np.array_equal(found, wide(x), equal_nan=True)
    assert np.array_equal(np.signbit(found), EVERY >= 0x8000)


@pytest.mark.parametrize("dtype", HALVES)
def test_float32_beside_every_border_becomes_the_nearest_half(dtype):
    x = around_borders(dtype)
    found = assert_equals_reference(chain([x], [("COPY", 0)], dtype=dtype), [x])
    with np.errstate(over="ignore"):
        assert np.array_equal(wide(found), wide(x.astype(dtype)), equal_nan=True)


@pytest.mark.parametrize(("dtype", "op"), [(np.float16, MapOp.ROUND_F16), (BFLOAT16, MapOp.ROUND_BF16)])
def test_rounding_in_a_chain_is_storing_and_reading(dtype, op):
    x = around_borders(dtype)
    found = assert_equals_reference(chain([x], [(op.name, 0)]), [x])
    with np.errstate(over="ignore"):
        assert np.array_equal(found, wide(x.astype(dtype)), equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_become_halves_of_their_own_type_again(dtype):
    x = EVERY.view(dtype)
    found = assert_equals_reference(chain([x], [("COPY", 0)], dtype=dtype), [x])
    number = ~np.isnan(wide(x))
    assert np.array_equal(found.view(np.uint16)[number], EVERY[number])


def test_the_reference_rounds_bfloat16_as_ml_dtypes_does():
    x = around_borders(BFLOAT16)
    with np.errstate(over="ignore"):
        expected = x.astype(BFLOAT16)
    assert np.array_equal(wide(bfloat16(x).view(BFLOAT16)), wide(expected), equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_broadcast_like_any_operand(dtype):
    rng = np.random.default_rng(0)
    x, row, column = (rng.normal(size=shape).astype(dtype) for shape in ((7, 1, 33), (5, 1), (33,)))
    program = chain([x, row, column], [("MUL", 0, 1), ("ADD", 3, 2)], dtype=dtype)
    assert_equals_reference(program, [x, row, column])


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)])
def test_halves_are_transposed_like_any_item(perm):
    x = np.arange(2 * 19 * 70 * 33, dtype=np.uint16).reshape(2, 19, 70, 33).view(np.float16)
    y = x.transpose(perm)
    program = one_step(StepKind.TRANSPOSE, [x], (y.shape, np.float16), x_shape=x.shape, perm=perm, item_bytes=2)
    assert np.array_equal(assert_equals_reference(program, [x]).view(np.uint16), y.view(np.uint16))


@pytest.mark.parametrize("dtype", HALVES)
def test_golden_bytes(dtype):
    x = around_borders(dtype)
    x = x[~np.isnan(x)]
    found = assert_equals_reference(chain([x], [("COPY", 0)], dtype=dtype), [x])
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN[dtype]


def test_bfloat16_borders_want_ml_dtypes(monkeypatch):
    x = EVERY[:64].view(BFLOAT16)
    program = chain([x], [("COPY", 0)])
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ArgumentValueError, match="a tensor is bfloat16, which NumPy has from ml_dtypes alone; pip"):
        ek.InferenceSession(program)
