"""MATMUL_F32: both operands at run time, from any strides, one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError
from float_steps import assert_close, digest, floats

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "c9d89991e350cbfa"


def axes_of(shape, perm):
    """Element steps of a dense tensor whose axes are read in the order of ``perm``."""
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return [steps[axis] for axis in perm]


def matmul(a, b, a_perm, b_perm, c_perm, scale=1.0, spread=()):
    """``perm``: the stored axes of batch 0 and 1, rows and columns. ``spread``: batch axes of b that are 1."""
    rows, k = (a.shape[a_perm[axis]] for axis in (2, 3))
    columns, batch = b.shape[b_perm[3]], [a.shape[a_perm[0]], a.shape[a_perm[1]]]
    result = (*batch, rows, columns)
    stored = [0] * 4
    for axis, place in enumerate(c_perm):
        stored[place] = result[axis]
    a_steps, b_steps = axes_of(a.shape, a_perm), axes_of(b.shape, b_perm)
    c_steps = axes_of(stored, c_perm)
    arguments = {
        "batch": [1, 1, *batch],
        "rows": rows,
        "k": k,
        "columns": columns,
        "a_batch": [0, 0, *a_steps[:2]],
        "b_batch": [0, 0, *(0 if axis in spread else b_steps[axis] for axis in (0, 1))],
        "c_batch": [0, 0, *c_steps[:2]],
        "a_row": a_steps[2],
        "a_k": a_steps[3],
        "b_k": b_steps[2],
        "b_column": b_steps[3],
        "c_row": c_steps[2],
        "scale": scale,
    }
    return one_step(StepKind.MATMUL_F32, [a, b], (tuple(stored), np.float32), **arguments)


def stored(seed, shape, perm):
    """Floats of a product's ``shape`` whose axes are stored in the order of ``perm``."""
    sizes = [0] * 4
    for axis, place in enumerate(perm):
        sizes[place] = shape[axis]
    return floats(seed, *sizes)


PERMS = st.sampled_from([(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (0, 2, 3, 1), (3, 1, 2, 0)])


@given(
    batch=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rows=st.integers(1, 30),
    k=st.integers(0, 40),
    columns=st.integers(1, 50),
    a_perm=PERMS,
    b_perm=PERMS,
    c_perm=st.sampled_from([(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3)]),
    scale=st.sampled_from([1.0, 0.125, -3.3]),
    spread=st.sampled_from([(), (0,), (1,), (0, 1)]),
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(batch, rows, k, columns, a_perm, b_perm, c_perm, scale, spread, seed):
    a = stored(seed, (*batch, rows, k), a_perm)
    of_b = [1 if axis in spread else side for axis, side in enumerate(batch)]
    b = stored(seed + 1, (*of_b, k, columns), b_perm)
    assert_equals_reference(matmul(a, b, a_perm, b_perm, c_perm, scale, spread), [a, b])


@pytest.mark.parametrize(
    ("batch", "rows", "k", "columns", "turned"),
    [
        (1, 1, 700, 100, False),
        (1, 1, 700, 100, True),
        (12, 64, 32, 64, True),
        (2, 130, 300, 70, False),
        (1, 200, 520, 210, True),
    ],
)
def test_products_of_every_size_are_close_to_float64(batch, rows, k, columns, turned):
    a, b = floats(1, 1, batch, rows, k), floats(2, 1, batch, *((columns, k) if turned else (k, columns)))
    b_perm = (0, 1, 3, 2) if turned else (0, 1, 2, 3)
    result = assert_equals_reference(matmul(a, b, (0, 1, 2, 3), b_perm, (0, 1, 2, 3), 0.5), [a, b])
    a, b = a.astype(np.float64), b.astype(np.float64)
    b = b.swapaxes(2, 3) if turned else b
    assert_close(result, a @ b / 2, np.abs(a) @ np.abs(b))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a_row": 41}, "operands leave their tensors"),
        ({"b_k": -1}, "operands leave their tensors"),
        ({"b_batch": [0, 0, 0, 2**40]}, "operands leave their tensors"),
        ({"c_row": 8}, "its result does not fill its tensor"),
        ({"c_batch": [0, 0, 0, 0]}, "its result does not fill its tensor"),
        ({"rows": 2**30}, "its result does not fill its tensor"),
    ],
)
def test_steps_that_leave_a_tensor_are_refused(change, reason):
    a, b = floats(1, 1, 2, 3, 40), floats(2, 1, 2, 40, 9)
    identity = (0, 1, 2, 3)
    step = matmul(a, b, identity, identity, identity).index.steps[0]
    with pytest.raises(ArtifactError, match=reason):
        one_step(StepKind.MATMUL_F32, [a, b], ((1, 2, 3, 9), np.float32), **{**step.arguments, **change})


def golden_program():
    a, b = floats(5, 2, 3, 11, 40), floats(6, 2, 3, 21, 40)
    return matmul(a, b, (0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3), 0.3)


def test_golden_bytes(isa):
    feeds = {"x0": floats(5, 2, 3, 11, 40), "x1": floats(6, 2, 3, 21, 40)}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("float",)
