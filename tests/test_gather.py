"""Rows where indices say, and what becomes of an index that leaves its axis."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.errors import ArgumentValueError, ArtifactError, EdgekernWarning

from one_step import assert_equals_reference, one_step

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "0528e22bb0c740dc"


def counted(shape, dtype=np.float32):
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


def gather(data, indices, axis, *, constant=False, **changes):
    """np.take, of data that is an input or a blob."""
    outer = int(np.prod(data.shape[:axis]))
    inner = int(np.prod(data.shape[axis + 1 :])) * data.itemsize
    sizes = {"outer": outer, "n": data.shape[axis], "inner_bytes": inner, "count": indices.size}
    shape = data.shape[:axis] + indices.shape + data.shape[axis + 1 :]
    inputs, blobs = ([indices], [data]) if constant else ([data, indices], [])
    return one_step(StepKind.GATHER, inputs, (shape, data.dtype), blobs, **(sizes | changes))


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    count=st.integers(1, 9),
    dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.int64, np.bool_]),
    wide=st.booleans(),
    constant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_rows_equal_the_reference(shape, axis, count, dtype, wide, constant, seed):
    axis %= len(shape)
    data, n = counted(shape, dtype), shape[axis]
    indices = np.random.default_rng(seed).integers(-n, n, count).astype(np.int64 if wide else np.int32)
    program = gather(data, indices, axis, constant=constant)
    result = assert_equals_reference(program, [indices] if constant else [data, indices])
    np.testing.assert_array_equal(result, data.take(indices % n, axis=axis))


@pytest.mark.parametrize(("shape", "axis"), [((3000, 384), 0), ((7, 4001), 1), ((64, 3, 500), 1)])
def test_many_rows_are_shared_between_threads(shape, axis):
    data = counted(shape)
    indices = np.random.default_rng(4).integers(-shape[axis], shape[axis], (50, 31))
    assert_equals_reference(gather(data, indices, axis), [data, indices])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("wrong", [5, -6, 2**31 - 1, -(2**31), 2**40, -(2**63)])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_index_that_leaves_its_axis_is_named_and_the_session_goes_on(wrong, constant, threads):
    data, good = counted((5, 3)), np.array([4, 0, -5, -1])
    bad = np.where(np.arange(4) == 2, wrong, good)
    session = ek.InferenceSession(gather(data, good, 0, constant=constant), num_threads=threads)
    rest = {} if constant else {"x0": data}
    name = "x0" if constant else "x1"
    for _ in range(2):
        [result] = session.run(None, rest | {name: good})
        np.testing.assert_array_equal(result, data[good])
        out = np.full((4, 3), 7, np.float32)
        with pytest.raises(ArgumentValueError) as error:
            session.run(None, rest | {name: bad}, out=[out])
        found = f"step 'step' (GATHER) was given the index {wrong}, which lies outside of [-5, 4]"
        assert found in str(error.value)
        np.testing.assert_array_equal(out, np.where(np.arange(4)[:, None] == 2, 0, data[good]))


def test_the_first_of_many_wrong_indices_is_named_for_any_number_of_threads():
    data, indices = counted((5, 3)), np.zeros(200_000, np.int64)
    indices[[70_001, 150_000, 199_999]] = 8, 9, 10
    for threads in (1, 2, 5):
        session = ek.InferenceSession(gather(data, indices, 0), num_threads=threads)
        for _ in range(3):
            with pytest.raises(ArgumentValueError, match="the index 8, which"):
                session.run(None, {"x0": data, "x1": indices})


def test_the_way_through_the_arena_says_it_too():
    """Strided arrays, tracing, and segments that are run one by one."""
    data, indices = counted((5, 3)), np.array([0, 9, 1])
    program = gather(data, indices, 0)
    session = ek.InferenceSession(program)
    with pytest.warns(EdgekernWarning), pytest.raises(ArgumentValueError, match="the index 9"):
        session.run(None, {"x0": np.asfortranarray(data), "x1": indices})
    with pytest.raises(ArgumentValueError, match="the index 9"):
        list(session.trace({"x0": data, "x1": indices}))
    core = _core.Session(program.index, program.container.blobs.data)
    core.tensor(0)[...], core.tensor(1)[...] = data, indices
    for run in (core.run_segment, core.run_step):
        with pytest.raises(ArgumentValueError, match="the index 9"):
            run(0)
    core.tensor(1)[...] = 2
    core.run_segment(0)
    np.testing.assert_array_equal(core.tensor(2), data[[2, 2, 2]])


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(17))
    return rng.integers(0, 1000, (3, 11, 5)).astype(np.float32), rng.integers(-11, 11, (2, 7))


def golden_program():
    return gather(*golden_operands(), 1)


def test_golden_bytes(isa):
    data, indices = golden_operands()
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": data, "x1": indices})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN
    assert golden_program().paths(isa=isa) == ("move",)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("name", "value"), [("outer", 3), ("n", 5000), ("inner_bytes", 8), ("count", 5)])
def test_what_does_not_fit_is_refused(name, value, constant):
    with pytest.raises(ArtifactError, match=r"sizes do not match its tensors|damaged data"):
        ek.InferenceSession(gather(counted((2, 4, 3)), np.zeros(4, np.int64), 1, constant=constant, **{name: value}))


def test_indices_are_integers():
    with pytest.raises(ArtifactError, match="sizes do not match its tensors"):
        ek.InferenceSession(gather(counted((2, 4)), np.zeros(4, np.float32), 1))
