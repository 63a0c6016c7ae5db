"""Pixels at places that a grid names, between the pixels of an image and beyond its edges."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError
from test_float_nets import assert_native, kinds, net

from one_step import assert_equals_reference, one_step

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "e4a98369aa088319"
MODES, PADDINGS = ["linear", "nearest", "cubic"], ["zeros", "border", "reflection"]


def grid_sample(x, grid, mode=0, padding=0, align_corners=0, **changes):
    """``x`` with its channels last."""
    batch, height, width, channels = x.shape
    sizes = {"batch": batch, "height": height, "width": width, "channels": channels}
    arguments = {
        **sizes,
        "points": math.prod(grid.shape[1:-1]),
        "mode": mode,
        "padding": padding,
        "align_corners": align_corners,
    }
    result = ((*grid.shape[:-1], channels), np.float32)
    return one_step(StepKind.GRID_SAMPLE, [x, grid], result, **(arguments | changes))


@settings(deadline=None)
@given(
    st.tuples(*(st.integers(1, 5) for _ in range(3)), st.integers(1, 40)),
    st.integers(1, 9),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([1.0, 3.0, 1e30]),
    st.integers(0, 99),
)
def test_any_grid_equals_the_reference(shape, points, mode, padding, align_corners, reach, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    grid = rng.uniform(-reach, reach, (shape[0], points, 2)).astype(np.float32)
    grid.flat[0] = rng.choice([np.nan, np.inf, -np.inf, -1, 1])
    assert_equals_reference(grid_sample(x, grid, mode, padding, align_corners), [x, grid])


def test_many_points_are_shared_between_threads():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 30, 40, 33)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (2, 50, 40, 2)).astype(np.float32)
    assert_equals_reference(grid_sample(x, grid), [x, grid])


def test_what_no_point_sees_spoils_nothing():
    x = np.full((1, 2, 2, 3), np.nan, np.float32)
    far = np.full((1, 1, 2), -9, np.float32)
    [y] = ek.InferenceSession(grid_sample(x, far)).run(None, {"x0": x, "x1": far})
    np.testing.assert_array_equal(y, 0)


def golden_operands():
    rng = np.random.Generator(np.random.PCG64(31))
    x = rng.integers(-1000, 1000, (2, 9, 11, 21)).astype(np.float32)
    return x, (rng.integers(-160, 160, (2, 5, 7, 2)) / 128).astype(np.float32)


def golden_program():
    return grid_sample(*golden_operands(), mode=2, padding=2)


def test_golden_bytes(isa):
    x, grid = golden_operands()
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": x, "x1": grid})
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_onnxruntime_has_the_same_numbers(mode, padding, align_corners):
    node = helper.make_node(
        "GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=align_corners
    )
    rng = np.random.default_rng(5)
    grid = rng.uniform(-1.6, 1.6, (2, 7, 6, 2)).astype(np.float32)
    feeds = {"x": rng.normal(size=(2, 3, 5, 4)).astype(np.float32), "g": grid}
    model = net([node], {}, {name: array.shape for name, array in feeds.items()}, ["y"], opset=20)
    assert_native(model, feeds=feeds, tolerance=1e-5)


def test_opset_16_calls_the_modes_otherwise():
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="bicubic")
    assert kinds(assert_native(net([node], {}, {"x": (1, 1, 4, 4), "g": (1, 3, 3, 2)}, ["y"], opset=16))) == [
        "GRID_SAMPLE"
    ]


def test_a_volume_is_refused_by_name():
    node = helper.make_node("GridSample", ["x", "g"], ["y"])
    model = net([node], {}, {"x": (1, 1, 3, 4, 4), "g": (1, 3, 3, 3, 3)}, ["y"], opset=20)
    with pytest.raises(ek.errors.HostStepError, match="GridSample over 3 dimensions has no kernel"):
        ek.compile(model, allow_host=False)


@pytest.mark.parametrize(
    "changes", [{"mode": 3}, {"padding": 3}, {"height": 4}, {"points": 2}, {"channels": 1}, {"width": 2**22 + 1}]
)
def test_what_does_not_fit_is_refused(changes):
    with pytest.raises(ArtifactError, match=r"do not match|damaged|too large"):
        ek.InferenceSession(grid_sample(np.zeros((1, 3, 4, 2), np.float32), np.zeros((1, 3, 2), np.float32), **changes))
