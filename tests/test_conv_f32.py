"""CONV_F32: convolutions of one to three axes, grouped and dilated, one result on all ISAs and threads."""

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
GOLDEN = "7304722efecdfb1b"


def conv(window, x, w, bias, groups=1, result=np.float32, addend=None, **ending):
    """``w``: (out channels, taps, channels of a group)."""
    out_c, taps, group_in = w.shape
    packed = w.reshape(groups, out_c // groups, taps * group_in)
    blobs = [_core.pack_f32_blob(packed), padded(bias.reshape(groups, -1))]
    channels = {"in_channels": x.shape[-1], "out_channels": out_c, "groups": groups}
    shape = (window.batch, *window.out, out_c)
    inputs = [x] if addend is None else [x, addend]
    return one_step(
        StepKind.CONV_F32, inputs, (shape, result), blobs, **window.arguments(), **channels, **(ending or NO_CLAMP)
    )


@given(
    window=windows(),
    groups=st.sampled_from([1, 1, 1, 2, 3]),
    group_in=st.sampled_from([1, 3, 5, 16, 17]),
    group_out=st.sampled_from([1, 8, 16, 37]),
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_convolution_equals_the_reference(window, groups, group_in, group_out, ending, addend, result, seed):
    x = floats(seed, window.batch, *window.inside, groups * group_in)
    w, bias = floats(seed + 1, groups * group_out, window.taps, group_in), floats(seed + 2, groups * group_out)
    added = None if addend is None else floats(seed + 3, window.batch, *window.out, groups * group_out)
    program = conv(window, x, w, bias, groups, result, added, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, [x] if added is None else [x, added])


@pytest.mark.parametrize(
    ("window", "group_in", "out", "groups"),
    [
        (Window((1, 15, 13), (1, 3, 3), pad=(0, 1, 1)), 33, 40, 1),
        (Window((1, 15, 13), (1, 3, 3), pad=(0, 1, 1), stride=(1, 2, 2)), 3, 64, 1),
        (Window((1, 9, 9), (1, 1, 1), stride=(1, 2, 2)), 300, 20, 1),
        (Window((1, 1, 150), (1, 1, 31), pad=(0, 0, 15)), 1, 16, 1),
        (Window((4, 6, 5), (3, 3, 2), dilation=(1, 2, 1), pad=(1, 2, 0)), 8, 24, 2),
        (Window((1, 12, 12), (1, 1, 1), batch=2), 300, 50, 1),
    ],
)
def test_convolutions_of_every_kind_are_close_to_float64(window, group_in, out, groups):
    x = floats(1, window.batch, *window.inside, groups * group_in)
    w, bias = floats(2, out, window.taps, group_in), floats(3, out)
    result = assert_equals_reference(conv(window, x, w, bias, groups), [x]).reshape(-1, groups, out // groups)
    rows = slow_windows(window, x.astype(np.float64)).reshape(-1, window.taps, groups, group_in)
    w = w.reshape(groups, out // groups, window.taps, group_in).astype(np.float64)
    bias = bias.reshape(groups, -1)
    truth = np.einsum("ptgi,goti->pgo", rows, w) + bias
    size = np.einsum("ptgi,goti->pgo", np.abs(rows), np.abs(w)) + np.abs(bias)
    assert_close(result, truth, size)


def golden_program():
    window = Window((1, 9, 7), (1, 3, 3), pad=(0, 1, 1), stride=(1, 2, 1))
    w, bias = floats(6, 20, 9, 3), floats(7, 20)
    return conv(window, golden_input(), w, bias, activation=0, addend_first=False, lo=0.0, hi=6.0)


def golden_input():
    return floats(5, 1, 1, 9, 7, 3)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": golden_input()})
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("float",)
