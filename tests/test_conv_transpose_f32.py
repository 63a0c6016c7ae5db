"""CONV_TRANSPOSE_F32: each output pixel gathers its taps, one result on all ISAs and threads."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import ENDINGS, NO_CLAMP, RESULTS, Window, assert_close, digest, floats, padded, slow_windows, windows

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "89e491cc2a38d9c0"


def turned(window, spare=0):
    """The transposed convolution of a convolution: from its result to its input, and a little further."""
    d, h, w = window.inside
    return dataclasses.replace(window, inside=window.out, given=(d, h + spare, w + spare))


def conv_transpose(window, x, w, bias, groups=1, result=np.float32, **ending):
    """``w``: (out channels, taps, channels of a group)."""
    out_c, taps, group_in = w.shape
    packed = w.reshape(groups, out_c // groups, taps * group_in)
    blobs = [_core.pack_f32_blob(packed), padded(bias.reshape(groups, -1))]
    channels = {"in_channels": x.shape[-1], "out_channels": out_c, "groups": groups}
    shape = (window.batch, *window.out, out_c)
    arguments = {**window.arguments(), **channels, **(ending or NO_CLAMP)}
    return one_step(StepKind.CONV_TRANSPOSE_F32, [x], (shape, result), blobs, **arguments)


@given(
    window=windows(),
    spare=st.integers(0, 2),
    groups=st.sampled_from([1, 1, 2]),
    group_in=st.sampled_from([1, 3, 17]),
    group_out=st.sampled_from([1, 16, 37]),
    ending=ENDINGS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_transposed_convolution_equals_the_reference(
    window, spare, groups, group_in, group_out, ending, result, seed
):
    window = turned(window, spare)
    x = floats(seed, window.batch, *window.inside, groups * group_in)
    w, bias = floats(seed + 1, groups * group_out, window.taps, group_in), floats(seed + 2, groups * group_out)
    assert_equals_reference(conv_transpose(window, x, w, bias, groups, result, **ending), [x])


@pytest.mark.parametrize(
    ("forward", "group_in", "group_out", "groups"),
    [
        (Window((1, 12, 14), (1, 4, 4), pad=(0, 1, 1), stride=(1, 2, 2)), 33, 20, 1),
        (Window((1, 1, 130), (1, 1, 16), pad=(0, 0, 4), stride=(1, 1, 8)), 300, 17, 1),
        (Window((3, 7, 8), (2, 3, 1), dilation=(1, 2, 1), stride=(2, 1, 3), batch=2), 5, 3, 2),
    ],
)
def test_it_is_what_a_convolution_takes_back(forward, group_in, group_out, groups):
    window = turned(forward)
    x, w = (
        floats(1, window.batch, *window.inside, groups * group_in),
        floats(2, groups * group_out, window.taps, group_in),
    )
    bias = floats(3, groups * group_out)
    result = assert_equals_reference(conv_transpose(window, x, w, bias, groups), [x])
    # The convolution as a matrix, which acts on pixels of its input; its transpose is what runs here.
    pixels = int(np.prod(forward.inside))
    matrix = slow_windows(
        dataclasses.replace(forward, batch=1), np.eye(pixels).reshape(1, *forward.inside, pixels)
    ).reshape(-1, window.taps, pixels)
    rows = x.astype(np.float64).reshape(window.batch, -1, groups, group_in)
    weights = w.astype(np.float64).reshape(groups, group_out, window.taps, group_in)
    bias = bias.reshape(groups, group_out)
    truth = np.einsum("otp,bogi,gnti->bpgn", matrix, rows, weights, optimize=True) + bias
    size = np.einsum("otp,bogi,gnti->bpgn", matrix, np.abs(rows), np.abs(weights), optimize=True) + np.abs(bias)
    assert_close(result.reshape(truth.shape), truth, size)


def golden_input():
    return floats(5, 1, 1, 5, 6, 19)


def golden_program():
    window = Window((1, 5, 6), (1, 3, 3), pad=(0, 1, 1), stride=(1, 2, 2), given=(1, 10, 12))
    ending = {"activation": 0, "addend_first": False, "lo": 0.0, "hi": np.inf}
    return conv_transpose(window, golden_input(), floats(6, 18, 9, 19), floats(7, 18), **ending)


def test_golden_bytes(isa):
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, {"x0": golden_input()})
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("float",)
