"""Equalization: the same float function, with channels that one scale holds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import onnx

import edgekern as ek
from edgekern.errors import ArgumentTypeError, CalibrationError, QuantizationError
from edgekern.quantization import Encoding
from edgekern.quantization.methods import equalization
from edgekern.quantization.weights import WeightLayout, quantize_tensor

from float_models import Array, build, f32, helper, ranges_of, run, samples, small_cnn

node = helper.make_node


def uneven(rng: np.random.Generator, *shape: int) -> Array:
    """Weights whose channels, in and out, differ by powers of ten."""
    weights = rng.normal(size=shape)
    weights *= 10 ** rng.uniform(-2, 2, (shape[0], *[1] * (len(shape) - 1)))
    return f32(weights * 10 ** rng.uniform(-1, 1, (1, shape[1], *[1] * (len(shape) - 2))))


ACTIVATIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "": ([], {}),
    "Relu": ([], {}),
    "LeakyRelu": ([], {"alpha": 0.2}),
    "PRelu": (["slope"], {}),
    "Clip": (["zero", "six"], {}),
    "HardTanh": (["minus", "six"], {}),
    "Floor": (["minus", ""], {}),
    "Sigmoid": ([], {}),
}


@st.composite
def nets(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """Conv or depthwise triples, with activations, pools and sums between, down to a Gemm."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.integers(1, 6))
    weights: dict[str, Array] = {
        "zero": np.float32(0),
        "six": np.float32(draw(st.sampled_from([0.5, 6.0]))),
        "minus": np.float32(-1),
        "slope": f32(rng.normal(size=(channels, 1, 1))),
        "pads": np.int64([0, 0, 1, 0, 0, 0, 0, 1]),
    }
    nodes, last = [], "x"
    for at in range(draw(st.integers(1, 4))):
        depthwise = at and draw(st.booleans())
        side, groups = draw(st.sampled_from([1, 3])), channels if depthwise else 1
        weights[f"w{at}"] = uneven(rng, channels, 1 if depthwise else channels, side, side)
        weights[f"b{at}"] = f32(rng.normal(size=channels))
        bias = [f"b{at}"] if draw(st.booleans()) else []
        pads = [side // 2] * 4
        nodes.append(node("Conv", [last, f"w{at}", *bias], [f"c{at}"], group=groups, pads=pads))
        before, last = last, f"c{at}"
        kind = draw(st.sampled_from(sorted(ACTIVATIONS)))
        if kind:
            inputs, attributes = ACTIVATIONS[kind]
            op = "Clip" if kind in ("HardTanh", "Floor") else kind
            nodes.append(node(op, [last, *inputs], [f"a{at}"], **attributes))
            last = f"a{at}"
        extra = draw(st.sampled_from(["", "Add", "MaxPool", "AveragePool", "Pad"]))
        if extra == "Add" and before != "x":
            nodes.append(node("Add", [last, before], [f"s{at}"]))
            last = f"s{at}"
        elif "Pool" in extra:
            nodes.append(node(extra, [last], [f"p{at}"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]))
            last = f"p{at}"
        elif extra == "Pad" and before == "x":
            nodes.append(node("Pad", [last, "pads"], [f"p{at}"]))
            last = f"p{at}"
    outputs = ("y", last) if draw(st.booleans()) else ("y",)
    if draw(st.booleans()):
        nodes.append(node("GlobalAveragePool", [last], ["g"]))
        nodes.append(node("Flatten", ["g"], ["f"]))
        weights["w"] = uneven(rng, 3, channels)
        nodes.append(node("Gemm", ["f", "w"], ["y"], transB=1))
    else:
        weights["w"] = uneven(rng, 2, channels, 1, 1)
        nodes.append(node("Conv", [last, "w"], ["y"]))
    x = f32(rng.normal(size=(2, channels, 5, 4)) * 3)
    return build(nodes, weights, [2, channels, 5, 4], outputs), x


@given(nets(), st.booleans())
def test_the_function_stays_the_same(drawn: tuple[onnx.ModelProto, Array], look: bool) -> None:
    model, x = drawn
    equal = ek.equalize(model, [{"x": x / 2}] if look else None)
    onnx.checker.check_model(equal, full_check=True)
    for wanted, found in zip(run(model, x), run(equal, x), strict=True):
        assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(np.abs(wanted).max(), 1e-6))
