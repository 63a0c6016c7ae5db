"""Pooling of float32 images of one, two and three axes: one result on all ISAs and threads, close to the truth."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from one_step import assert_equals_reference, one_step
from strategies import float_arrays

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = {False: "a53da5dae33d73f4", True: "f52e1f928e0d99f8"}


def pool(shape, window, *, stride=(1, 1, 1), dilation=(1, 1, 1), pad=(0, 0, 0), end=(0, 0, 0), **changes):
    """Over x of (batch, depth, height, width, channels)."""
    batch, *sides, channels = shape
    out = [
        (side + lead + trail - (k - 1) * by - 1) // move + 1
        for side, lead, trail, k, by, move in zip(sides, pad, end, window, dilation, stride, strict=True)
    ]
    arguments = {
        "batch": batch,
        "in": sides,
        "out": out,
        "kernel": list(window),
        "stride": list(stride),
        "dilation": list(dilation),
        "pad": list(pad),
        "channels": channels,
        "average": 0,
        "count_include_pad": 0,
        "power": 0.0,
    }
    x = np.empty(shape, np.float32)
    return one_step(StepKind.POOL_F32, [x], ((batch, *out, channels), np.float32), **(arguments | changes))


@given(
    data=st.data(),
    average=st.booleans(),
    include=st.booleans(),
    power=st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0, 5.0]),
    special=st.booleans(),
)
def test_any_window_equals_the_reference(data, average, include, power, special):
    some = {"window": [], "stride": [], "dilation": [], "pad": [], "end": []}
    sides = []
    for _ in range(3):
        k, by = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
        reach = (k - 1) * by
        sides.append(data.draw(st.integers(reach + 1, 7)))
        some["window"].append(k)
        some["dilation"].append(by)
        some["stride"].append(data.draw(st.integers(1, 3)))
        some["pad"].append(data.draw(st.integers(0, k - 1)) if by == 1 else 0)
        some["end"].append(data.draw(st.integers(0, k - 1)) if by == 1 else 0)
    shape = (data.draw(st.integers(1, 2)), *sides, data.draw(st.sampled_from([1, 3, 15, 16, 17, 64, 70])))
    x = data.draw(float_arrays(shape, special=special))
    program = pool(shape, average=int(average), count_include_pad=int(include), power=power, **some)
    assert_equals_reference(program, [x])


@pytest.mark.parametrize("average", [False, True])
def test_it_is_the_largest_and_the_mean(average):
    x = np.random.default_rng(3).normal(size=(2, 4, 9, 11, 5)).astype(np.float32)
    program = pool(x.shape, (2, 3, 3), stride=(1, 2, 2), pad=(0, 1, 1), end=(0, 1, 1), average=int(average))
    result = assert_equals_reference(program, [x])
    for n, z, y, w in itertools.product(*map(range, result.shape[:4])):
        window = x[n, z : z + 2, max(2 * y - 1, 0) : 2 * y + 2, max(2 * w - 1, 0) : 2 * w + 2].reshape(-1, 5)
        truth = window.mean(axis=0, dtype=np.float64) if average else window.max(axis=0)
        np.testing.assert_allclose(result[n, z, y, w], truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 7, 7, 500), (2, 1, 1, 4000, 3), (1, 1, 64, 64, 40)])
def test_large_images_and_whole_ones_are_shared_between_threads(shape, average):
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    whole = shape[2] == 7
    kernel = (1, 7, 7) if whole else (1, min(3, shape[2]), 3)
    result = assert_equals_reference(pool(shape, kernel, average=int(average)), [x])
    if whole:
        np.testing.assert_allclose(result[0, 0, 0, 0], (x.mean if average else x.max)(axis=(0, 1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_a_norm_is_close_to_the_truth(p):
    x = np.random.default_rng(3).normal(size=(1, 1, 6, 7, 20)).astype(np.float32)
    result = assert_equals_reference(pool(x.shape, (1, 6, 7), power=float(p)), [x])
    truth = (np.abs(x.astype(np.float64)) ** p).sum(axis=(0, 1, 2, 3)) ** (1 / p)
    np.testing.assert_allclose(result.reshape(-1), truth, rtol=1e-6)


def test_a_maximum_passes_over_nan_and_an_average_does_not():
    x = np.array([np.nan, 1, np.nan, np.nan, np.nan, 3], np.float32).reshape(1, 1, 1, 6, 1)
    largest = assert_equals_reference(pool(x.shape, (1, 1, 2)), [x])
    np.testing.assert_array_equal(largest.reshape(-1), np.array([1, 1, -np.inf, -np.inf, 3], np.float32))
    mean = assert_equals_reference(pool(x.shape, (1, 1, 2), average=1), [x])
    assert np.isnan(mean).all()


def golden_program(average=True):
    padding = {"pad": (1, 1, 1), "end": (1, 1, 1)}
    return pool((2, 3, 8, 9, 21), (2, 3, 3), stride=(1, 2, 2), average=int(average), **padding)


@pytest.mark.parametrize("average", [False, True])
def test_golden_bytes(isa, average):
    x = np.random.Generator(np.random.PCG64(17)).normal(size=(2, 3, 8, 9, 21)).astype(np.float32)
    program = golden_program(average)
    [result] = ek.InferenceSession(program, isa=isa).run(None, {"x0": x})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN[average]
    assert program.paths(isa=isa) == ("pool_f32",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": [1, 0, 3]}, "window does not fit the image"),
        ({"kernel": [1, 3, 2**31 - 1]}, "window does not fit the image"),
        ({"pad": [0, 5, 0]}, "a window lies wholly in the padding"),
        ({"power": 2.5}, "damaged power"),
        ({"power": -1.0}, "damaged power"),
        ({"power": float("nan")}, "damaged power"),
        ({"channels": 4}, "tensors do not match its sizes"),
        ({"batch": 3}, "tensors do not match its sizes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(pool((2, 1, 6, 7, 5), (1, 3, 3), stride=(1, 2, 2), **changes))
