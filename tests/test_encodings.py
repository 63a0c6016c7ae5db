"""Encodings: what the integers of a tensor stand for, checked once, unchangeable, plain when asked."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

for toolkit in ("onnx", "onnx_ir", "onnxruntime"):
    pytest.importorskip(toolkit, reason="needs edgekern[toolkit]")

from edgekern.calibration import model_hash  # noqa: E402
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning, QuantizationError  # noqa: E402
from edgekern.quantization import (  # noqa: E402
    Encoding,
    Encodings,
    FloatEncoding,
    QuantConfig,
    compute_encodings,
    quantize,
)

from float_models import STATIC, View, build, f32, helper, ranges_of, samples, small_cnn  # noqa: E402

Array = npt.NDArray[Any]


@st.composite
def encodings(draw: st.DrawFn) -> tuple[Encoding, tuple[int, ...]]:
    """An encoding and the shape of a tensor that it fits."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis = draw(st.sampled_from([None, *range(len(shape))]))
    group_size = None if axis is None else draw(st.sampled_from([None, 1, 2, 3]))
    scales: tuple[int, ...] = ()
    if axis is not None:
        scales = (shape[axis],)
        if group_size is not None:
            scales = (*shape[:axis], -(-shape[axis] // group_size), *shape[axis + 1 :])
    rng, signed = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.booleans())
    bits = draw(st.sampled_from([*range(2, 9), 16]))
    lowest = -(2 ** (bits - 1)) if signed else 0
    zero_point = rng.integers(lowest, lowest + 2**bits, scales)
    scale = np.exp2(rng.uniform(-126, 127, scales))
    return Encoding(scale, zero_point, signed=signed, bits=bits, axis=axis, group_size=group_size), shape


@given(encodings())
def test_an_encoding_becomes_plain_and_comes_back_with_the_same_bits(drawn: tuple[Encoding, tuple[int, ...]]) -> None:
    encoding, _ = drawn
    plain = json.loads(json.dumps(encoding.to_dict()))
    for again in (Encoding.from_dict(plain), pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding)):
        assert again == encoding
        assert hash(again) == hash(encoding)
        assert not again.scale.flags.writeable


@given(encodings(), st.integers(0, 2**32 - 1))
def test_codes_are_those_of_each_element_alone(drawn: tuple[Encoding, tuple[int, ...]], seed: int) -> None:
    encoding, shape = drawn
    values = (np.random.default_rng(seed).normal(size=shape) * np.exp2(60)).astype(np.float32)
    codes = encoding.quantize(values)
    assert codes.dtype == encoding.dtype
    lowest, highest = encoding.limits
    for index in np.ndindex(shape):
        at: tuple[int, ...] = ()
        if encoding.axis is not None:
            at = (index[encoding.axis],)
            if encoding.group_size is not None:
                axis = encoding.axis
                at = (*index[:axis], index[axis] // encoding.group_size, *index[axis + 1 :])
        code = round(float(values[index]) / float(encoding.scale[at])) + int(encoding.zero_point[at])
        assert codes[index] == min(max(code, lowest), highest)


@given(encodings())
def test_codes_lie_in_the_smallest_type_that_holds_their_bits(drawn: tuple[Encoding, tuple[int, ...]]) -> None:
    encoding, _ = drawn
    lowest, highest = encoding.limits
    info = np.iinfo(encoding.dtype)
    assert highest - lowest + 1 == 2**encoding.bits
    assert lowest == (-(highest + 1) if encoding.signed else 0)
    assert info.min <= lowest < highest <= info.max
    assert info.bits == (8 if encoding.bits <= 8 else 16)
    assert encoding.max_distance <= highest - lowest


@pytest.mark.parametrize("bits", [16, 32, np.int64(16)])
def test_floats_are_rounded_to_the_nearest_of_their_type(bits: int) -> None:
    values = np.array([0, 0.1, -1 / 3, 65504, 65520, 1e9, 2**-25, -(2**-24)])
    encoding = FloatEncoding(bits)
    rounded = encoding.quantize(values)
    assert rounded.dtype == encoding.dtype == np.dtype(f"float{bits}")
    known = [0, 0.0999755859375, -0.333251953125, 65504, np.inf, np.inf, 0, -(2**-24)]
    assert_array_equal(rounded, known if bits == 16 else values.astype(np.float32))
    again = Encodings.from_dict(json.loads(json.dumps(Encodings({"x": encoding}, "ab").to_dict())))
    assert again == Encodings({"x": encoding}, "ab")
    assert again["x"] == FloatEncoding.from_dict({"float": bits})


def test_other_floats_are_refused() -> None:
    with pytest.raises(ArgumentValueError, match=r"^FloatEncoding: bits must be 16 or 32, got 8"):
        FloatEncoding(8)
    with pytest.raises(ArgumentTypeError, match=r"^FloatEncoding: bits must be"):
        FloatEncoding("half")  # type: ignore[arg-type]
    for saved in ({"float": 16, "scale": 1.0}, {}, 16):
        with pytest.raises(ArgumentValueError, match=r"^FloatEncoding: a saved one must be a dict with the key"):
            FloatEncoding.from_dict(saved)  # type: ignore[arg-type]


def test_an_encoding_cannot_be_changed() -> None:
    given_scale = np.array([0.5, 0.25], np.float32)
    encoding = Encoding(given_scale, signed=True, axis=0)
    given_scale[0] = 7
    assert_array_equal(encoding.scale, [0.5, 0.25])
    for array in (encoding.scale, encoding.zero_point):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    with pytest.raises(FrozenInstanceError):
        encoding.bits = 4  # type: ignore[misc]


def test_one_zero_point_is_that_of_all_scales() -> None:
    encoding = Encoding([0.5, 0.25], 3, signed=False, axis=1)
    assert_array_equal(encoding.zero_point, [3, 3])
    assert encoding.max_distance == 252
    assert encoding != Encoding([0.5, 0.25], 3, signed=True, axis=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scale": np.ones(0), "axis": 0}, ArgumentValueError, "scale must have an entry"),
        ({"scale": 0.0}, ArgumentValueError, "scale must be a positive, normal float32, got 0.0"),
        ({"scale": -1.0}, ArgumentValueError, "scale must be a positive, normal"),
        ({"scale": np.nan}, ArgumentValueError, "scale must be a positive, normal"),
        ({"scale": 1e39}, ArgumentValueError, "scale must be a positive, normal"),
        ({"scale": 1e-39}, ArgumentValueError, "scale must be a positive, normal"),
        ({"scale": "wide"}, ArgumentTypeError, "scale must be a number or an array of them"),
        ({"scale": [[1.0], [1.0, 2.0]]}, ArgumentTypeError, "scale must be a number or an array of them"),
        ({"zero_point": 256}, ArgumentValueError, r"zero_point must lie in \[0, 255\], got 256"),
        ({"zero_point": -129, "signed": True}, ArgumentValueError, r"zero_point must lie in \[-128, 127\]"),
        ({"zero_point": 0.5}, ArgumentTypeError, "zero_point must be integer"),
        ({"zero_point": [1, 2]}, ArgumentValueError, r"zero_point must be one value .* got shape \(2,\) for \(\)"),
        ({"signed": "yes"}, ArgumentTypeError, "signed must be True or False"),
        ({"bits": 1}, ArgumentValueError, "bits must be from 2 to 8, or 16, got 1"),
        ({"bits": 9}, ArgumentValueError, "bits must be from 2 to 8, or 16, got 9"),
        ({"bits": 4, "zero_point": 16}, ArgumentValueError, r"zero_point must lie in \[0, 15\], got 16"),
        ({"scale": [1.0, 2.0]}, ArgumentValueError, "axis must be given"),
        ({"axis": 0}, ArgumentValueError, r"must have shape \(channels,\).* got shape \(\)"),
        ({"scale": [1.0], "axis": -1}, ArgumentValueError, "axis be at least 0, .*axis=-1"),
        ({"group_size": 32}, ArgumentValueError, "group_size=32 and no axis"),
        ({"scale": [[1.0]], "axis": 2, "group_size": 4}, ArgumentValueError, "must have the tensor's axes"),
        ({"scale": [[1.0]], "axis": 1, "group_size": 0}, ArgumentValueError, "group_size be at least 1"),
    ],
)
def test_an_encoding_that_contradicts_itself_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^Encoding: .*" + message):
        Encoding(**{"scale": 1.0, "signed": False, **arguments})


@pytest.mark.parametrize(
    ("shape", "encoding"),
    [
        ((2, 3), Encoding(np.ones(2), signed=True, axis=1)),
        ((2,), Encoding(np.ones(2), signed=True, axis=1)),
        ((2, 5), Encoding(np.ones((2, 2)), signed=True, axis=1, group_size=2)),
        ((3, 4), Encoding(np.ones((2, 2)), signed=True, axis=1, group_size=2)),
    ],
)
def test_values_of_another_shape_are_refused(shape: tuple[int, ...], encoding: Encoding) -> None:
    with pytest.raises(ArgumentValueError, match=r"Encoding\.quantize: values of shape .* do not fit scales of shape"):
        encoding.quantize(np.zeros(shape, np.float32))


# ---- of a model ----


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_a_model_is_written_with_its_encodings(activations: Any, rng: np.random.Generator) -> None:
    model, x, config = small_cnn(), samples(rng), QuantConfig(activations=activations)
    found = compute_encodings(model, ranges_of(model, x), config)
    view = View(quantize(model, ranges_of(model, x), config))
    quantized = [node.input[0] for node in view.of("QuantizeLinear")]
    weights = {"n0_weight": "c0", "w1": "dw", "w2": "c2", "w3": "y"}
    assert set(found) == {*quantized, *weights}
    for name in quantized:
        assert (float(found[name].scale), int(found[name].zero_point)) == view.parameters(name)
        assert found[name].signed == (activations == "s8")
    for node in view.of("Conv") + view.of("Gemm"):
        integers, scale, zero_point, axis = view.integers(node.input[1])
        [name] = [name for name in weights if node.input[1].startswith(name)]
        assert integers is not None
        assert zero_point is not None
        assert found[name] == Encoding(scale, zero_point, signed=integers.dtype == np.int8, axis=axis)
    assert found.model_hash == model_hash(model)


def test_encodings_of_a_model_become_plain_and_come_back(rng: np.random.Generator) -> None:
    model = small_cnn()
    found = compute_encodings(model, ranges_of(model, samples(rng)))
    assert Encodings.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert repr(found) == f"Encodings({len(found)} tensors, model_hash='{found.model_hash[:12]}...')"


def test_weights_that_two_operators_read_have_an_encoding_each_where_they_differ() -> None:
    weights = {"w": np.full((2, 2), 1e-12, np.float32), "b": np.ones(2, np.float32)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"]),  # its bias makes the scale of w wider
        helper.make_node("Gemm", ["g", "w"], ["y"]),
    ]
    model = build(nodes, weights, ["n", 2])
    x = f32(np.ones((1, 2)))
    with pytest.warns(EdgekernWarning, match="compute_encodings: 2 channels got a wider weight scale"):
        found = compute_encodings(model, ranges_of(model, x), STATIC)
    assert set(found) == {"x", "g", "w", "w:y"}
    assert np.all(found["w"].scale > found["w:y"].scale)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"tensors": 3},
        {"tensors": {"x": 3}},
        {"tensors": {"x": {"scale": 1.0}}},
        {"model_hash": 3},
    ],
    ids=str,
)
def test_what_holds_no_encodings_is_refused(change: dict[str, Any]) -> None:
    saved = Encodings({"x": Encoding(1.0, signed=True)}, "ab").to_dict()
    assert Encodings.from_dict(saved) == Encodings({"x": Encoding(1.0, signed=True)}, "ab")
    with pytest.raises(QuantizationError, match=r"^Encodings\.from_dict: this is not what to_dict gave in version 1"):
        Encodings.from_dict(saved | change)
    spoiled = {"x": saved["tensors"]["x"] | {"scale": -1.0}}
    with pytest.raises(QuantizationError, match="scale must be a positive, normal float32"):
        Encodings.from_dict(saved | {"tensors": spoiled})


def test_errors_name_the_function_that_was_called(rng: np.random.Generator) -> None:
    model = small_cnn()
    ranges = ranges_of(model, samples(rng))
    with pytest.raises(ArgumentTypeError, match=r"^compute_encodings: ranges must be Ranges, got dict"):
        compute_encodings(model, dict(ranges))  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"^compute_encodings: ranges are of another model"):
        compute_encodings(small_cnn(opset=18), ranges)
    with pytest.raises(
        ArgumentTypeError, match=r"^Encodings: tensors\['x'\] must be an Encoding or FloatEncoding, got float"
    ):
        Encodings({"x": 1.0}, "ab")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("op_type", "attributes", "lo", "hi"),
    [
        ("Tanh", {}, -3.81, 3.81),
        ("Sigmoid", {}, -7.62, 7.62),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.75}, -3.0, 1.0),
        ("HardSwish", {}, -3.0, 20.0),
        ("LeakyRelu", {}, -20.0, 20.0),
    ],
)
def test_no_code_stands_for_what_a_function_does_not_tell_apart(
    op_type: str, attributes: dict[str, Any], lo: float, hi: float
) -> None:
    weights = {"a": f32(np.eye(4)), "b": f32(np.eye(4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node(op_type, ["h"], ["f"], **attributes),
        helper.make_node("MatMul", ["f", "b"], ["y"]),
    ]
    model, x = build(nodes, weights, [64, 4], opset=17), np.linspace(-20, 20, 256).reshape(64, 4)
    encoding = compute_encodings(model, ranges_of(model, f32(x), method="max"), STATIC)["h"]
    scale, zero_point = float(encoding.scale), int(encoding.zero_point)
    assert_allclose([-zero_point * scale, (255 - zero_point) * scale], [lo, hi], atol=0.1)


def test_what_another_reader_tells_apart_keeps_its_codes() -> None:
    weights = {"a": f32(np.eye(4)), "b": f32(np.eye(4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Tanh", ["h"], ["f"]),
        helper.make_node("Add", ["h", "f"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["y"]),
    ]
    model, x = build(nodes, weights, [64, 4]), f32(np.linspace(-20, 20, 256).reshape(64, 4))
    encoding = compute_encodings(model, ranges_of(model, x, method="max"), STATIC)["h"]
    assert float(encoding.scale) == pytest.approx(40 / 255, rel=1e-2)


def test_a_result_in_small_steps_is_told_apart_further_out() -> None:
    """Probabilities near 0 are no zeros where nothing else was seen."""
    weights = {"a": f32(np.eye(4)), "b": f32(np.eye(4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["f"]),
        helper.make_node("MatMul", ["f", "b"], ["y"]),
    ]
    model, x = build(nodes, weights, [64, 4]), f32(np.linspace(-14, -9, 256).reshape(64, 4))
    encoding = compute_encodings(model, ranges_of(model, x, method="max"), STATIC)["h"]
    assert float(encoding.scale) == pytest.approx(14 / 255, rel=1e-2)
