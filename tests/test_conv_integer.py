"""CONV_INTEGER: a convolution of codes less a zero point that comes at run time: int32 on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import digest
from test_gemm_integer import codes

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed codes; tests/reference computed it.
GOLDEN = "97133521aebfbd1b"


def sums(x, zero, w, *, groups=1, stride=1, dilation=1, pad=0):
    """x (N, H, W, C), w (out, taps down, taps across, C / groups)."""
    batch, height, width, channels = x.shape
    out, down, across, _ = w.shape
    sides = {
        side: (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
        for side, size, taps in (("h", height, down), ("w", width, across))
    }
    arguments = {"batch": batch, "in_h": height, "in_w": width, "pad_top": pad, "pad_left": pad, "groups": groups}
    arguments |= {f"out_{side}": size for side, size in sides.items()} | {"kernel_h": down, "kernel_w": across}
    arguments |= {
        f"{name}_{side}": value for name, value in (("stride", stride), ("dilation", dilation)) for side in "hw"
    }
    arguments |= {"in_channels": channels, "out_channels": out}
    if groups > 1 and groups == channels == out:
        blob = _core.pack_depthwise_blob(np.ascontiguousarray(w.reshape(out, -1)))
    else:
        blob = _core.pack_weights_blob(w.reshape(groups, out // groups, down * across, channels // groups))
    result = (batch, sides["h"], sides["w"], out), np.int32
    return one_step(StepKind.CONV_INTEGER, [x, np.asarray(zero, x.dtype)], result, [blob], **arguments)


@given(
    batch=st.integers(1, 2),
    side=st.integers(5, 9),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]),
    channels=st.sampled_from([(3, 8, 1), (16, 21, 1), (6, 9, 3), (20, 20, 20), (8, 8, 8)]),
    stride=st.integers(1, 2),
    dtype=st.sampled_from([np.uint8, np.int8]),
    seed=st.integers(0, 99),
)
def test_any_convolution_equals_the_reference(batch, side, kernel, channels, stride, dtype, seed):
    in_c, out_c, groups = channels
    x, zero = codes(seed, batch, side, side + 1, in_c, dtype=dtype), codes(seed + 1, dtype=dtype)
    w = codes(seed + 2, out_c, *kernel, in_c // groups, dtype=np.int8)
    program = sums(x, zero, w, groups=groups, stride=stride, pad=min(kernel) - 1)
    assert_equals_reference(program, [x, zero])


@pytest.mark.parametrize("groups", [1, 12])
def test_padding_counts_as_the_zero_point(groups):
    """An image of nothing but the zero point has no sums, inside or at its edges."""
    zero = np.asarray(200, np.uint8)
    x = np.full((1, 5, 5, 12), zero)
    w = codes(3, 12, 3, 3, 12 // groups, dtype=np.int8)
    assert not assert_equals_reference(sums(x, zero, w, groups=groups, pad=1), [x, zero]).any()


def golden_program():
    return sums(codes(5, 2, 9, 7, 12), 0, codes(7, 20, 3, 3, 12, dtype=np.int8), stride=2, dilation=2, pad=2)


def test_golden_bytes(isa):
    feeds = {"x0": codes(5, 2, 9, 7, 12), "x1": np.asarray(99, np.uint8)}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert digest(result) == GOLDEN
