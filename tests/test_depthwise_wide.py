"""DEPTHWISE_WIDE: every channel of a 16-bit image by itself, exact; one result on all ISAs and threads."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats
from wide_steps import CODES, USUAL, by_group, weights_of, window

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "a4701bcd8efa62c9"


def depthwise(w, channels, codes=USUAL, result=np.float32, addend=None, seed=1, **ending):
    x = floats(seed, *w.x, channels)
    blobs = [_core.pack_depthwise_blob(weights_of(seed + 1, channels, w.taps))]
    blobs += [by_group(np.abs(floats(3, channels)) * 1e-4), by_group(floats(4, channels))]
    inputs = [x] if addend is None else [x, floats(5, *w.y, channels)]
    arguments = {**w.arguments, "channels": channels, **codes, **(ending or NO_CLAMP)}
    return one_step(StepKind.DEPTHWISE_WIDE, inputs, ((*w.y, channels), result), blobs, **arguments), inputs


@settings(max_examples=30)
@given(
    data=st.data(),
    channels=st.sampled_from([1, 3, 16, 33, 64, 80]),
    codes=CODES,
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
)
def test_any_depthwise_convolution_equals_the_reference(data, channels, codes, ending, addend, result):
    kernel = data.draw(st.sampled_from([(3, 3), (5, 5), (2, 3), (1, 1)]))
    stride, dilation, pad = (data.draw(st.tuples(st.integers(low, 2), st.integers(low, 2))) for low in (1, 1, 0))
    w = window(data.draw(st.integers(1, 2)), (9, 10), kernel, stride, dilation, pad)
    program, inputs = depthwise(w, channels, codes, result, addend, **{**ending, "addend_first": bool(addend)})
    assert_equals_reference(program, inputs)


def golden_step():
    return depthwise(window(stride=(2, 1)), 40, seed=8)


def golden_program():
    return golden_step()[0]


def test_golden_bytes(isa):
    program, inputs = golden_step()
    [result] = ek.InferenceSession(program, isa=isa).run(None, {f"x{at}": x for at, x in enumerate(inputs)})
    assert digest(result) == GOLDEN
    assert program.paths(isa=isa) == ("depthwise",)
    assert "100.0% in 16 bits" in program.summary()
