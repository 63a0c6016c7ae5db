"""Resize of some axes, of a part of the image, and with its aspect kept: onnxruntime's numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from test_float_nets import assert_native, kinds, net


def resize(shape, *, opset=19, **given_):
    """A model of one Resize; what it is given by input is an array, all else an attribute."""
    arrays = {name: given_.pop(name) for name in ("roi", "scales", "sizes") if name in given_}
    names = [name if name in arrays else "" for name in ("roi", "scales", "sizes")]
    node = helper.make_node("Resize", ["x", *names], ["y"], **given_)
    types = {"roi": np.float32, "scales": np.float32, "sizes": np.int64}
    weights = {name: np.array(array, types[name]) for name, array in arrays.items()}
    return net([node], weights, {"x": shape}, ["y"], opset=opset)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.lists(st.floats(-0.5, 1.5, width=16), min_size=4, max_size=4),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.floats(-3, 3, width=16),
)
def test_a_crop_is_filled_where_it_leaves_the_image(mode, corners, sizes, filler):
    top, left, bottom, right = corners
    roi = [0, 0, top, left, 1, 1, bottom, right]
    how = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": filler}
    assert_native(resize((1, 2, 6, 5), roi=roi, sizes=[1, 2, *sizes], **how))


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(7, 8), (3, 9), (12, 5), (5, 5)])
def test_an_image_keeps_its_aspect(policy, mode, sizes):
    assert_native(resize((1, 2, 6, 4), sizes=sizes, axes=[2, 3], mode=mode, keep_aspect_ratio_policy=policy))


def test_axes_that_are_not_named_stay_and_negative_ones_count_from_the_last():
    assert kinds(assert_native(resize((2, 3, 4, 5), scales=[1.5], axes=[-1], mode="linear"))) == ["RESAMPLE"]
    program = assert_native(resize((1, 2, 4, 5), sizes=[7, 3], axes=[3, 2], mode="nearest"))
    assert kinds(program) == ["PICK"]
