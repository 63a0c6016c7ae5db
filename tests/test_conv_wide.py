"""CONV_WIDE: 16-bit images by int8 weights, exact; one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.errors import ArtifactError
from float_steps import ADDENDS, ENDINGS, NO_CLAMP, RESULTS, digest, floats
from wide_steps import CODES, USUAL, by_group, weights_of, window

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "d2cf20d27e64e5c7"


def conv(w, in_c, out_c, groups, codes=USUAL, result=np.float32, addend=None, seed=1, **ending):
    x = floats(seed, *w.x, in_c)
    weights = weights_of(seed + 1, groups, out_c // groups, w.taps, in_c // groups)
    blobs = [_core.pack_weights_blob(weights)]
    blobs += [by_group(np.abs(floats(3, out_c)) * 1e-5, groups), by_group(floats(4, out_c), groups)]
    inputs = [x] if addend is None else [x, floats(5, *w.y, out_c)]
    sizes = {"in_channels": in_c, "out_channels": out_c, "groups": groups}
    arguments = {**w.arguments, **sizes, **codes, **(ending or NO_CLAMP)}
    return one_step(StepKind.CONV_WIDE, inputs, ((*w.y, out_c), result), blobs, **arguments), inputs


@settings(max_examples=40)
@given(
    data=st.data(),
    groups=st.sampled_from([1, 1, 2, 3]),
    codes=CODES,
    ending=ENDINGS,
    addend=ADDENDS,
    result=RESULTS,
    seed=st.integers(0, 99),
)
def test_any_convolution_equals_the_reference(data, groups, codes, ending, addend, result, seed):
    sides = [data.draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (3, 2, 2)]
    pad = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    w = window(data.draw(st.integers(1, 2)), (5, 6), *sides, pad)
    in_c, out_c = (groups * data.draw(st.integers(1, most)) for most in (9, 20))
    program, inputs = conv(
        w, in_c, out_c, groups, codes, result, addend, seed, **{**ending, "addend_first": bool(addend)}
    )
    assert_equals_reference(program, inputs)


@pytest.mark.parametrize(("kernel", "stride", "in_c", "out_c"), [((1, 1), (1, 1), 24, 70), ((3, 3), (2, 2), 16, 65)])
def test_large_images_are_shared_between_threads(kernel, stride, in_c, out_c):
    pad = ((kernel[0] - 1) // 2,) * 2
    assert_equals_reference(*conv(window(1, (40, 44), kernel, stride, pad=pad), in_c, out_c, 1))


def golden_step():
    return conv(window(), 12, 30, 2, seed=7)


def golden_program():
    return golden_step()[0]


def test_golden_bytes(isa):
    program, inputs = golden_step()
    [result] = ek.InferenceSession(program, isa=isa).run(None, {f"x{at}": x for at, x in enumerate(inputs)})
    assert digest(result) == GOLDEN
    assert program.paths(isa=isa) == ("tile",)
    assert "100.0% in 16 bits" in program.summary()


def test_windows_that_do_not_fit_and_groups_that_do_not_divide_are_refused():
    w = window()
    w.arguments["out_h"] = 70000
    with pytest.raises(ArtifactError, match="window does not fit the image"):
        conv(w, 4, 4, 1)
