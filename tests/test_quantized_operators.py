"""What the compiler has a kernel for, quantize uses: Conv, the operator, Conv, without a host step."""

import numpy as np
import pytest

import edgekern as ek
from edgekern.compiler.operators.table import OPERATORS
from edgekern.graph.families import UNARY

from float_models import build, f32, helper, ranges_of, sqnr_db
from graphs import onnxruntime_session

node = helper.make_node
RNG = np.random.default_rng(0)
LEFT_OUT = {
    "QuantizeLinear": "quantize writes it",
    "DequantizeLinear": "quantize writes it",
    "Swish": "younger than the opsets that models may have",
}
# From ``a`` to ``b``, or to ``y`` where no second Conv can follow; all others are one node of ``a``, or of it and 0.5.
BODIES = {
    "Add": [node("Add", ["a", "x"], ["b"])],
    "Add of a number": [node("Add", ["a", "half"], ["b"])],
    "AveragePool": [node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2])],
    "Clip": [node("Clip", ["a", "half", "two"], ["b"])],
    "Concat": [node("Concat", ["a", "x"], ["c"], axis=2), node("Slice", ["c", "one", "seven", "two_"], ["b"])],
    "Conv": [node("Conv", ["a", "w1"], ["b"])],
    "Conv over one dimension": [
        node("Reshape", ["a", "sound"], ["s"]),
        node("Conv", ["s", "w_sound"], ["t"], pads=[1, 1]),
        node("Reshape", ["t", "image"], ["b"]),
    ],
    "Conv over three dimensions": [
        node("Reshape", ["a", "volume"], ["s"]),
        node("Conv", ["s", "w_volume"], ["t"], pads=[1, 0, 1, 1, 1, 1]),
        node("Reshape", ["t", "image"], ["b"]),
    ],
    "ConvTranspose": [node("ConvTranspose", ["a", "w_up"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1])],
    "DepthToSpace": [
        node("SpaceToDepth", ["a"], ["s"], blocksize=3),
        node("DepthToSpace", ["s"], ["b"], blocksize=3, mode="CRD"),
    ],
    "Expand": [node("GlobalMaxPool", ["a"], ["p"]), node("Expand", ["p", "image"], ["b"])],
    "Flatten": [node("Flatten", ["a"], ["f"]), node("Reshape", ["f", "image"], ["b"])],
    "Gather": [node("Gather", ["a", "seven_rows"], ["b"], axis=2)],
    "Gemm": [
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "wg", "bg"], ["y"]),
    ],
    "MatMul": [node("MatMul", ["a", "wm"], ["b"])],
    "MaxPool": [node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2])],
    "Pad": [node("Pad", ["a", "pads"], ["b"])],
    "Pow": [node("Pow", ["a", "two"], ["b"])],
    "Pad by reflection": [node("Pad", ["a", "pads"], ["b"], mode="reflect")],
    "ReduceMean": [node("ReduceMean", ["a"], ["b"], axes=[2, 3])],
    "ReduceMean without its axes": [
        node("ReduceMean", ["a"], ["m"], axes=[-1, 2], keepdims=0),
        node("Unsqueeze", ["m", "sides"], ["b"]),
    ],
    "ReduceMean over channels": [node("ReduceMean", ["a"], ["m"], axes=[1]), node("Expand", ["m", "image"], ["b"])],
    "ReduceMean over rows": [node("ReduceMean", ["a"], ["m"], axes=[3]), node("Expand", ["m", "image"], ["b"])],
    "Reshape": [node("Reshape", ["a", "rows"], ["b"])],
    "Resize": [node("Resize", ["a", "", "twice"], ["b"], mode="nearest", coordinate_transformation_mode="asymmetric")],
    "Slice": [node("Slice", ["a", "one", "seven", "two_"], ["b"])],
    "Softmax": [node("Softmax", ["a"], ["b"], axis=-1)],
    "Slice of a volume": [
        node("Reshape", ["a", "volume"], ["s"]),
        node("Slice", ["s", "one", "seven", "two_"], ["t"]),
        node("Reshape", ["t", "lower"], ["b"]),
    ],
    "SpaceToDepth": [
        node("SpaceToDepth", ["a"], ["s"], blocksize=2),
        node("DepthToSpace", ["s"], ["b"], blocksize=2),
    ],
    "Split": [node("Split", ["a", "halves"], ["l", "r"], axis=1), node("Concat", ["r", "l"], ["b"], axis=1)],
    "Split, one piece of it": [
        node("Split", ["a", "halves"], ["l", "r"], axis=1),
        node("Concat", ["r", "r"], ["b"], axis=1),
    ],
    "Squeeze": [
        node("GlobalMaxPool", ["a"], ["p"]),
        node("Squeeze", ["p", "sides"], ["s"]),
        node("Unsqueeze", ["s", "sides"], ["b"]),
    ],
    "Tile": [node("Tile", ["a", "repeats"], ["b"])],
    "Transpose": [node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2])],
    "Transpose of a volume": [
        node("Reshape", ["a", "volume"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[2, 0, 4, 1, 3]),
        node("Reshape", ["t", "image"], ["b"]),
    ],
    "Unsqueeze": [node("Unsqueeze", ["a", "one"], ["u"]), node("Squeeze", ["u", "one"], ["b"])],
}
# What has a kernel on floats alone: it stays float between two 8-bit Convs.
FLOAT_BODIES = {
    "Einsum": [node("Einsum", ["a", "wm"], ["b"], equation="bchw,wk->bchk")],
    "LRN": [node("LRN", ["a"], ["b"], size=3)],
    "MeanVarianceNormalization": [node("MeanVarianceNormalization", ["a"], ["b"])],
    "Resize": [
        node(
            "Resize",
            ["a", "crop", "", "image"],
            ["b"],
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        )
    ],
    "ScatterElements": [node("ScatterElements", ["a", "places", "updates"], ["b"], axis=3)],
    "ScatterND": [node("ScatterND", ["a", "rows_of", "updates_of"], ["b"])],
    "Shrink": [node("Shrink", ["a"], ["b"], lambd=0.3)],
    "Trilu": [node("Trilu", ["a"], ["b"])],
}
WITH_NUMBER = {"Div", "Max", "Min", "Mul", "PRelu", "Sub"}
CONSTANTS = {
    # passes on what it gets
    "w1": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1),
    "w2": f32(RNG.normal(size=(4, 8, 1, 1))),
    "wm": f32(RNG.normal(size=(6, 6))),
    "wg": f32(RNG.normal(size=(8, 5))),
    "bg": f32(RNG.normal(size=5)),
    "half": np.float32(0.5),
    "two": np.float32(2),
    "one": np.array([1]),
    "two_": np.array([2]),
    "seven": np.array([7]),
    "sides": np.array([2, 3]),
    "halves": np.array([4, 4]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 0]),
    "rows": np.array([1, 8, 36, 1]),
    "sound": np.array([1, 8, 36]),
    "volume": np.array([1, 8, 3, 2, 6]),
    "lower": np.array([1, 8, 4, 6]),
    "w_sound": f32(RNG.normal(size=(8, 8, 3))),
    "w_volume": f32(RNG.normal(size=(8, 8, 3, 2, 3))),
    "w_up": f32(RNG.normal(size=(8, 8, 3, 4))),
    "twice": f32(np.array([1, 1, 2, 2])),
    "repeats": np.array([1, 1, 2, 1]),
    "seven_rows": np.array([0, 5, 2, 2, 3, -1, 1]),
    "image": np.array([1, 8, 6, 6]),
    "crop": f32(np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 1])),
    "places": np.zeros((1, 8, 6, 1), np.int64),
    "updates": np.full((1, 8, 6, 1), 0.25, np.float32),
    "rows_of": np.array([[0, 3]]),
    "updates_of": np.full((1, 6, 6), 0.75, np.float32),
}
ABOVE_ONE = {"Acosh", "Floor", "ThresholdedRelu"}  # where they are defined and not 0; all others within (0.1, 0.9)
STEPS = {"Ceil", "Floor", "Round", "Sign"}  # where an input a hair away gives the next integer


def _body(name):
    if name in BODIES:
        return BODIES[name]
    assert name in UNARY | WITH_NUMBER | {"GlobalAveragePool", "GlobalMaxPool", "Identity"}, f"write a body for {name}"
    return [node(name, ["a", "half"] if name in WITH_NUMBER else ["a"], ["b"])]


@pytest.mark.parametrize("name", sorted({*OPERATORS, *BODIES} - LEFT_OUT.keys()))
def test_quantize_uses_every_operator_of_the_compiler(name):
    body = _body(name)
    behind = [node("Conv", ["b", "w2"], ["y"])] if body[-1].output[0] == "b" else []
    opset = {"Gelu": 20, "Mish": 18}.get(name, 17)
    model = build([node("Conv", ["x", "w1"], ["a"]), *body, *behind], CONSTANTS, [1, 8, 6, 6], opset=opset)
    x = f32(RNG.uniform(0.1, 0.9, (1, 8, 6, 6))) + np.float32(name in ABOVE_ONE)
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    program = ek.compile(ek.quantize(model, ranges_of(model, x)), allow_host=False)
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    assert sqnr_db(expected, found) > (5 if name in STEPS else 25)


@pytest.mark.parametrize("name", FLOAT_BODIES)
def test_what_has_a_float_kernel_alone_stays_float_between_8_bit_layers(name):
    nodes = [node("Conv", ["x", "w1"], ["a"]), *FLOAT_BODIES[name], node("Conv", ["b", "w2"], ["y"])]
    model = build(nodes, CONSTANTS, [1, 8, 6, 6], opset=18)
    x = f32(RNG.uniform(0.1, 0.9, (1, 8, 6, 6)))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    program = ek.compile(ek.quantize(model, ranges_of(model, x)), allow_host=False)
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    assert sqnr_db(expected, found) > 25
    assert [step.kind for step in program.steps].count("CONV") == 2


def test_what_is_left_out_is_in_the_table():
    assert LEFT_OUT.keys() <= OPERATORS.keys()
