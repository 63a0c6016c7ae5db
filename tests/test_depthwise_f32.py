"""DEPTHWISE_F32: each channel by itself, one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import (
    ADDENDS,
    ENDINGS,
    NO_CLAMP,
    RESULTS,
    Window,
    assert_close,
    digest,
    floats,
    padded,
    slow_windows,
    windows,
)

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "eba17fe121f6d02b"


def depthwise(window, x, w, bias, result=np.float32, addend=None, **ending):
    """``w``: (channels, taps)."""
    channels = x.shape[-1]
    blobs = [_core.pack_depthwise_f32_blob(w), padded(bias)]
    shape = (window.batch, *window.out, channels)
    inputs = [x] if addend is None else [x, addend]
    arguments = {**window.arguments(), "channels": channels, **(ending or NO_CLAMP)}
    return one_step(StepKind.DEPTHWISE_F32, inputs, (shape, result), blobs, **arguments)


@given(
    window=windows(),
    channels=st.sampled_from([1, 7, 16, 40]),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_depthwise_convolution_equals_the_reference(window, channels, ending, addend, result, seed):
    x = floats(seed, window.batch, *window.inside, channels)
    w, bias = floats(seed + 1, channels, window.taps), floats(seed + 2, channels)
    added = None if addend is None else floats(seed + 3, window.batch, *window.out, channels)
    program = depthwise(window, x, w, bias, result, added, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize(
    ("window", "channels"),
    [
        (
            Window((1, 19, 40), (1, 3, 3), pad=(0, 1, 1)),
            48,
        ),
        (Window((1, 30, 29), (1, 5, 5), pad=(0, 2, 2), stride=(1, 2, 2)), 35),
        (Window((1, 1, 200), (1, 1, 4), pad=(0, 0, 3), batch=2), 32),
    ],
)
def test_depthwise_convolutions_are_close_to_float64(window, channels):
    x, w = floats(1, window.batch, *window.inside, channels), floats(2, channels, window.taps)
    bias = floats(3, channels)
    result = assert_equals_reference(depthwise(window, x, w, bias), [x]).reshape(-1, channels)
    rows = slow_windows(window, x.astype(np.float64)).reshape(-1, window.taps, channels)
    w = w.astype(np.float64)
    size = np.einsum("ptc,ct->pc", np.abs(rows), np.abs(w)) + np.abs(bias)
    assert_close(result, np.einsum("ptc,ct->pc", rows, w) + bias, size)


def golden_input():
    return floats(5, 2, 1, 9, 17, 19)


def golden_program():
    window = Window((1, 9, 17), (1, 3, 3), pad=(0, 1, 1), batch=2)
    ending = {"activation": 2, "addend_first": False, "lo": 0.0, "hi": 0.0}
    return depthwise(window, golden_input(), floats(6, 19, 9), floats(7, 19), **ending)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": golden_input()})
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("depthwise",)
