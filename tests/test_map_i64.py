"""Chains of element-wise operations on whole numbers: one result on all ISAs and threads, equal to NumPy's."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import MapOp
from edgekern.errors import ArtifactError

from map_chains import chain
from one_step import assert_equals_reference

GOLDEN = "e61f41d57db208c5"
REAL_ONLY = [
    op for op in MapOp if MapOp.SQRT <= op <= MapOp.ROUND or op in (MapOp.IS_NAN, MapOp.IS_INF) or op >= MapOp.ROUND_F16
]
WHOLE = [op for op in MapOp if op not in REAL_ONLY]
EDGES = np.array([0, 1, -1, 2, -2, 7, -7, 63, 64, 2**31, -(2**31), 2**63 - 1, -(2**63)], np.int64)


def arity(op):
    return 3 if op >= MapOp.WHERE else 2 if op >= MapOp.ADD else 1


def numbers(rng, *shape):
    return np.where(rng.random(shape) < 0.5, rng.choice(EDGES, shape), rng.integers(-40, 40, shape))


@pytest.mark.parametrize("op", WHOLE, ids=lambda op: op.name)
def test_every_operation_is_its_definition(op):
    rng = np.random.default_rng(op)
    operands = [numbers(rng, 501) for _ in range(arity(op))]
    assert_equals_reference(chain(operands, [(op.name, *range(arity(op)))], dtype=np.int64), operands)


@pytest.mark.parametrize("op", REAL_ONLY, ids=lambda op: op.name)
def test_functions_of_reals_are_refused(op):
    x = np.zeros(4, np.int64)
    with pytest.raises(ArtifactError, match="unknown operation"):
        ek.InferenceSession(chain([x], [(op.name, 0)], dtype=np.int64))


def test_division_is_cut_off_and_by_zero_is_zero():
    a, b = np.array([7, -7, 7, -7, 5, -(2**63)]), np.array([2, 2, -2, -2, 0, -1])
    [found] = ek.InferenceSession(chain([a, b], [("DIV", 0, 1)], dtype=np.int64)).run(None, {"x0": a, "x1": b})
    assert found.tolist() == [3, -3, -3, 3, 0, -(2**63)]
    [found] = ek.InferenceSession(chain([a, b], [("MOD", 0, 1)], dtype=np.int64)).run(None, {"x0": a, "x1": b})
    assert found.tolist() == [1, 1, -1, -1, 0, 0]


@given(st.lists(st.sampled_from([1, 2, 3, 9, 33]), min_size=1, max_size=4), st.integers(0, 2**32))
def test_any_chain_over_any_broadcast_equals_the_reference(sides, seed):
    rng = np.random.default_rng(seed)
    operands = [numbers(rng, *sides)]
    for _ in range(rng.integers(0, 4)):
        x = numbers(rng, *(side if rng.random() < 0.6 else 1 for side in sides))
        dtype = [np.int64, np.int32, np.bool_, np.uint8, np.int8][rng.integers(0, 5)]
        operands.append((x != 0) if dtype == np.bool_ else x.astype(dtype))
    if rng.random() < 0.5:
        operands.append(numbers(rng, 1))
    blobs = int(rng.integers(0, 2)) if operands[-1].dtype == np.int64 and len(operands) > 1 else 0
    ops = [op for op in WHOLE if op not in (MapOp.POW, MapOp.DIV, MapOp.MOD, MapOp.FMOD)]
    code = []
    for number in range(rng.integers(1, 8)):
        op = ops[rng.integers(0, len(ops))]
        code.append((op.name, *(int(rng.integers(0, len(operands) + number)) for _ in range(arity(op)))))
    dtype = [np.int64, np.int32, np.bool_, np.float32][rng.integers(0, 4)]
    program = chain(operands, code, shape=tuple(sides), dtype=dtype, blobs=blobs)
    assert_equals_reference(program, operands[: len(operands) - blobs])


def golden_program():
    x = np.zeros((5, 40), np.int64)
    return chain(
        [x, x[0]], [("MUL", 0, 1), ("MOD", 2, 1), ("POW", 3, 1), ("DIV", 2, 3), ("WHERE", 3, 4, 5)], dtype=np.int64
    )


def test_golden_bytes(isa):
    rng = np.random.Generator(np.random.PCG64(25))
    feeds = {"x0": rng.integers(-99, 99, (5, 40)), "x1": rng.integers(-9, 9, 40)}
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN
