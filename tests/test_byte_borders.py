"""Callers who have bytes give bytes: models whose inputs and outputs are codes, from quantize to the session."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError

from float_models import build, f32, ranges_of
from graphs import onnxruntime_session

RNG = np.random.default_rng(8)
CONSTANTS = {
    "w": f32(RNG.normal(size=(8, 3, 3, 3))),
    "head": f32(RNG.normal(size=(8, 5))),
    "shape": np.array([0, 5, 1]),
    "mean": f32(np.array([120, 115, 100])).reshape(3, 1, 1),
    "deviation": f32(np.array([60, 58, 62])).reshape(3, 1, 1),
}
IMAGE = [2, 3, 8, 6]


def classifier(*front, source="x"):
    """A convolution of an image, pooled, and a row of logits, whose last axis a Reshape adds."""
    nodes = [
        *front,
        helper.make_node("Conv", [source, "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["logits"]),
        helper.make_node("Reshape", ["logits", "shape"], ["y"]),
    ]
    return build(nodes, CONSTANTS, IMAGE)


def normalized():
    """With the normalization of its pixels in front."""
    front = [
        helper.make_node("Sub", ["x", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "deviation"], ["n"]),
    ]
    return classifier(*front, source="n")


def borders_of(session):
    return [
        [(at.type, at.scale, at.zero_point) for at in side] for side in (session.get_inputs(), session.get_outputs())
    ]


def codes(x, border):
    return ek.quantize_linear(x, border.scale, border.zero_point, dtype=border.type.removeprefix("tensor(")[:-1])


def reals(y, border):
    return ek.dequantize_linear(y, border.scale, border.zero_point)


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize(("inputs", "outputs"), [("uint8", "int8"), ("int8", "uint8"), ("uint8", "float32")])
def test_a_program_takes_and_gives_codes_as_onnxruntime_does(inputs, outputs, activations):
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    config = ek.QuantConfig(inputs=inputs, outputs=outputs, activations=activations)
    qdq = ek.quantize(model, ranges_of(model, x), config)
    onnx.checker.check_model(qdq, full_check=True)
    session = ek.InferenceSession(ek.compile(qdq, allow_host=False))
    [given], [taken] = session.get_inputs(), session.get_outputs()
    assert given.type == f"tensor({inputs})"
    assert taken.type == f"tensor({outputs.replace('float32', 'float')})"
    feeds = {"x": codes(x, given)}
    [found], [want] = session.run(None, feeds), onnxruntime_session(qdq, optimized=False).run(None, feeds)
    if outputs == "float32":
        assert (taken.scale, taken.zero_point) == (None, None)
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    else:
        assert np.abs(found.astype(int) - want).max() <= 1
    kinds = [step.kind for step in session.program.steps]
    assert not [kind for kind in kinds if "QUANTIZE" in kind]


def test_the_codes_of_a_border_are_those_that_floats_would_become():
    """A program on floats, and the same on bytes: the logits are as they were, and are rounded once."""
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    ranges = ranges_of(model, x)
    on_floats = ek.InferenceSession(ek.compile(ek.quantize(model, ranges)))
    on_bytes = ek.InferenceSession(
        ek.compile(ek.quantize(model, ranges, ek.QuantConfig(inputs="int8", outputs="uint8")))
    )
    [real] = on_floats.run(None, {"x": x})
    [given], [taken] = on_bytes.get_inputs(), on_bytes.get_outputs()
    [found] = on_bytes.run(None, {"x": codes(x, given)})
    np.testing.assert_allclose(reals(found, taken), real, atol=taken.scale * 0.5001)


def test_pixels_are_their_own_codes():
    model, x = normalized(), f32(RNG.integers(0, 256, IMAGE))
    ranges = ranges_of(model, x)
    session = ek.InferenceSession(
        ek.compile(ek.quantize(model, ranges, ek.QuantConfig(inputs="uint8")), allow_host=False)
    )
    assert borders_of(session)[0] == [("tensor(uint8)", 1.0, 0)]
    [real] = onnxruntime_session(model).run(None, {"x": x})
    [found] = session.run(None, {"x": x.astype(np.uint8)})
    assert np.abs(found - real).max() < 0.05 * np.abs(real).max()
    signed = ek.InferenceSession(ek.compile(ek.quantize(model, ranges, ek.QuantConfig(inputs="int8"))))
    assert borders_of(signed)[0] == [("tensor(int8)", 1.0, -128)]
    np.testing.assert_array_equal(signed.run(None, {"x": (x - 128).astype(np.int8)})[0], found)


def two_of_each():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
        helper.make_node("Conv", ["z", "w"], ["b"]),
        helper.make_node("Add", ["y", "b"], ["sum"]),
        helper.make_node("ArgMax", ["sum"], ["best"], axis=1),
    ]
    model = build(nodes[:2], CONSTANTS, IMAGE)
    model.graph.node.extend(nodes[2:])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, IMAGE))
    model.graph.output.extend(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None) for _ in range(1))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, None))
    return model


def test_one_of_several_borders_is_chosen_by_name():
    model = two_of_each()
    feeds = {name: f32(RNG.normal(size=IMAGE)) for name in ("x", "z")}
    ranges = ek.Calibrator(model).collect(feeds).compute_ranges()
    config = ek.QuantConfig(inputs={"z": "uint8"}, outputs={"y": "int8", "sum": "uint8"})
    session = ek.InferenceSession(ek.compile(ek.quantize(model, ranges, config), allow_host=False))
    assert [at.type for at in session.get_inputs()] == ["tensor(float)", "tensor(uint8)"]
    assert [at.type for at in session.get_outputs()] == ["tensor(int8)", "tensor(uint8)", "tensor(int64)"]
    want = onnxruntime_session(model).run(None, feeds)
    found = session.run(None, feeds | {"z": codes(feeds["z"], session.get_inputs()[1])})
    for ours, real, border in zip(found[:2], want, session.get_outputs(), strict=False):
        assert np.abs(reals(ours, border) - real).max() < 0.1 * np.abs(real).max()


def test_a_model_of_halves_gives_its_bytes_without_a_cast():
    model = classifier()
    halves = onnx.ModelProto()
    halves.CopyFrom(model)
    for value in (*halves.graph.input, *halves.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    halves.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT))
    halves.graph.node[1].input[0] = "x32"
    halves.graph.node[-1].output[0] = "y32"
    halves.graph.node.append(helper.make_node("Cast", ["y32"], ["y"], to=TensorProto.FLOAT16))
    x = RNG.normal(size=IMAGE).astype(np.float16)
    ranges = ek.Calibrator(halves).collect({"x": x}).compute_ranges()
    config = ek.QuantConfig(inputs="uint8", outputs="uint8")
    program = ek.compile(ek.quantize(halves, ranges, config), allow_host=False)
    assert [(at.name, at.dtype) for at in (*program.inputs, *program.outputs)] == [("x", np.uint8), ("y", np.uint8)]


def test_a_float_model_may_have_bytes_at_its_borders_alone():
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    config = ek.QuantConfig(recipe="float32", inputs="uint8", outputs="int8")
    session = ek.InferenceSession(ek.compile(ek.quantize(model, ranges_of(model, x), config), allow_host=False))
    [given], [taken] = session.get_inputs(), session.get_outputs()
    [real] = onnxruntime_session(model).run(None, {"x": x})
    [found] = session.run(None, {"x": codes(x, given)})
    assert np.abs(reals(found, taken) - real).max() < 0.05 * np.abs(real).max()


def test_compare_gives_each_side_what_it_takes():
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    config = ek.QuantConfig(inputs="uint8", outputs="int8")
    report = ek.compare(model, ek.compile(ek.quantize(model, ranges_of(model, x), config)), {"x": x})
    assert min(row.sqnr_db for row in report.rows) > 20


def test_floats_where_codes_are_wanted_are_refused_with_the_remedy():
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    session = ek.InferenceSession(ek.compile(ek.quantize(model, ranges_of(model, x), ek.QuantConfig(inputs="uint8"))))
    with pytest.raises(
        ArgumentTypeError, match=r"input 'x' must be uint8, got float32; quantize it with edgekern\.quan"
    ):
        session.run(None, {"x": x})


def test_a_border_that_is_none_is_refused():
    model, x = classifier(), f32(RNG.normal(size=IMAGE))
    ranges = ranges_of(model, x)
    with pytest.raises(QuantizationError, match=r"model has no input 'image'; its inputs are \['x'\]"):
        ek.quantize(model, ranges, ek.QuantConfig(inputs={"image": "uint8"}))
    several = two_of_each()
    feeds = {name: f32(RNG.normal(size=IMAGE)) for name in ("x", "z")}
    of_several = ek.Calibrator(several).collect(feeds).compute_ranges()
    with pytest.raises(QuantizationError, match="'best' is INT64, and only floats become int8"):
        ek.quantize(several, of_several, ek.QuantConfig(outputs={"best": "int8"}))
    with pytest.raises(ArgumentValueError, match="inputs must be one of"):
        ek.QuantConfig(inputs="u8")
    with pytest.raises(ArgumentValueError, match=r"outputs\['y'\] must be one of"):
        ek.QuantConfig(outputs={"y": "float16"})
    with pytest.raises(ArgumentTypeError, match="inputs must map names to types"):
        ek.QuantConfig(inputs={1: "uint8"})
