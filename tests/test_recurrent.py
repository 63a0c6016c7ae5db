"""LSTM, GRU and RNN: one result on all ISAs and threads, close to onnxruntime's and to the truth."""

import hashlib

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArgumentValueError, ArtifactError

from one_step import assert_equals_reference, one_step
from reference.recurrent import GATES, STRIP, padded

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = {0: "84e92355d0dc5f14", 1: "320acd21e8819e0a", 2: "679f5579342c8120"}
NAMES = {0: "LSTM", 1: "GRU", 2: "RNN"}
DEFAULTS = {0: [0, 1, 1], 1: [0, 1, 0], 2: [1, 0, 0]}
FUNCTIONS = ["Sigmoid", "Tanh", "Relu"]


def packed(weights, gates, hidden):
    """(directions, gates * hidden, k), as ONNX has them, to strips of [k][16], gate behind gate."""
    directions, _, k = weights.shape
    whole = np.zeros((directions, gates, padded(hidden), k), np.float32)
    whole[:, :, :hidden] = weights.reshape(directions, gates, hidden, k)
    return whole.reshape(directions, gates, -1, STRIP, k).transpose(0, 1, 2, 4, 3)


class Layer:
    """A recurrent layer with random weights: as a program, and as onnxruntime computes it."""

    def __init__(self, cell=0, steps=5, batch=2, inputs=7, hidden=19, directions=1, seed=0, **options):
        self.cell, self.directions, self.hidden, self.gates = cell, directions, hidden, GATES[cell]
        rng = np.random.Generator(np.random.PCG64(seed))

        def some(*shape):
            return rng.normal(0, 0.5, shape).astype(np.float32)

        self.x = some(steps, batch, inputs)
        self.w, self.r = (some(directions, self.gates * hidden, k) for k in (inputs, hidden))
        self.bias = some(directions, 2 * self.gates * hidden)
        self.options = {"reverse": 0, "linear_before_reset": 0, "clip": 0.0, "activations": DEFAULTS[cell] * 2}
        self.options |= options
        states = self.options.pop("states", False)
        self.lengths = self.options.pop("lengths", None)
        self.h0 = some(directions, batch, hidden) if states else None
        self.c0 = some(directions, batch, hidden) if states and cell == 0 else None

    @property
    def inputs(self):
        lengths = None if self.lengths is None else np.array(self.lengths, np.int32)
        return [x for x in (self.x, lengths, self.h0, self.c0) if x is not None]

    def program(self, **changes):
        steps, batch, inputs = self.x.shape
        arguments = {
            "cell": self.cell,
            "steps": steps,
            "batch": batch,
            "inputs": inputs,
            "hidden": self.hidden,
            "directions": self.directions,
            "has_lengths": int(self.lengths is not None),
            "has_h0": int(self.h0 is not None),
            "has_c0": int(self.c0 is not None),
        } | self.options
        bias = np.zeros((self.directions, 2, self.gates, padded(self.hidden)), np.float32)
        bias[..., : self.hidden] = self.bias.reshape(self.directions, 2, self.gates, self.hidden)
        blobs = [packed(self.w, self.gates, self.hidden), packed(self.r, self.gates, self.hidden), bias]
        size = (steps + 1 + (self.cell == 0)) * self.directions * batch * self.hidden
        result = ((size,), np.float32)
        return one_step(StepKind.RECURRENT, self.inputs, result, blobs, **(arguments | changes))

    def onnxruntime(self):
        """Its results, one behind the other."""
        o = self.options
        count = {0: 3, 1: 2, 2: 1}[self.cell]
        chosen = [FUNCTIONS[o["activations"][3 * d + i]] for d in range(self.directions) for i in range(count)]
        direction = "bidirectional" if self.directions == 2 else "reverse" if o["reverse"] else "forward"
        attributes = {"hidden_size": self.hidden, "direction": direction, "activations": chosen}
        if o["clip"]:
            attributes["clip"] = o["clip"]
        if self.cell == 1:
            attributes["linear_before_reset"] = o["linear_before_reset"]
        lengths = None if self.lengths is None else np.array(self.lengths, np.int32)
        given = {"x": self.x, "w": self.w, "r": self.r, "b": self.bias, "l": lengths, "h": self.h0, "c": self.c0}
        names = [name if given[name] is not None else "" for name in given]
        while not names[-1]:
            names.pop()
        outputs = ["y", "y_h", *(["y_c"] if self.cell == 0 else [])]
        node = helper.make_node(NAMES[self.cell], names, outputs, **attributes)
        stored = [numpy_helper.from_array(value, name) for name, value in given.items() if value is not None]
        wanted = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph([node], "layer", [], wanted, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([result.reshape(-1) for result in session.run(None, {})])


@st.composite
def any_layer(draw, kind):
    """A layer of a class of layers, of any cell, sizes and attributes."""
    steps, batch, inputs = (draw(st.integers(1, most)) for most in (5, 3, 9))
    options = {
        "directions": draw(st.integers(1, 2)),
        "states": draw(st.booleans()),
        "lengths": draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch)),
        "reverse": draw(st.integers(0, 1)),
        "linear_before_reset": draw(st.integers(0, 1)),
        "clip": draw(st.sampled_from([0.0, 0.3, 5.0])),
        "activations": draw(st.lists(st.integers(0, 2), min_size=6, max_size=6)),
        "seed": draw(st.integers(0, 99)),
    }
    cell, hidden = draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from([1, 5, 15, 16, 17, 33]))
    return kind(cell, steps, batch, inputs, hidden, **options)


@settings(max_examples=40)
@given(layer=any_layer(Layer))
def test_any_layer_equals_the_reference(layer):
    assert_equals_reference(layer.program(), layer.inputs)


@pytest.mark.parametrize("cell", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reverse": 1, "lengths": [3, 7], "states": True},
        {"directions": 2, "states": True},
        {"directions": 2, "lengths": [7, 4], "clip": 0.4},
        {"linear_before_reset": 1, "directions": 2},
    ],
)
def test_it_is_close_to_onnxruntime(cell, options):
    layer = Layer(cell, steps=7, batch=2, inputs=12, hidden=40, **options)
    result = assert_equals_reference(layer.program(), layer.inputs)
    np.testing.assert_allclose(result, layer.onnxruntime(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("cell", [0, 1, 2])
def test_large_layers_are_shared_between_threads(cell):
    layer = Layer(cell, steps=3, batch=2, inputs=64, hidden=300, directions=2, linear_before_reset=1)
    assert_equals_reference(layer.program(), layer.inputs)


def test_a_length_past_the_sequence_is_named():
    layer = Layer(0, lengths=[5, 6])
    session = ek.InferenceSession(layer.program())
    feeds = {"x0": layer.x, "x1": np.array([5, 6], np.int32)}
    with pytest.raises(ArgumentValueError, match=r"the index 6, which lies outside of \[0, 5\]"):
        session.run(None, feeds)
    session.run(None, feeds | {"x1": np.array([5, 0], np.int32)})


def golden_layer(cell):
    return Layer(cell, steps=4, batch=2, inputs=6, hidden=21, directions=2, seed=17, states=True)


def golden_program(cell=0):
    return golden_layer(cell).program()


@pytest.mark.parametrize("cell", [0, 1, 2])
def test_golden_bytes(isa, cell):
    feeds = {f"x{number}": x for number, x in enumerate(golden_layer(cell).inputs)}
    program = golden_program(cell)
    [result] = ek.InferenceSession(program, isa=isa).run(None, feeds)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN[cell]
    assert program.paths(isa=isa) == ("recurrent",)
    assert program.index.work(0)[0] == 4 * 2 * 2 * GATES[cell] * 21 * (6 + 21)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": 3}, "damaged arguments"),
        ({"directions": 3}, "damaged arguments"),
        ({"clip": -1.0}, "damaged arguments"),
        ({"clip": float("nan")}, "damaged arguments"),
        ({"activations": [0, 1, 3, 0, 0, 0]}, "damaged activations"),
        ({"has_lengths": 1}, "wrong number of operands"),
        ({"steps": 4}, "tensors do not match its sizes"),
        ({"hidden": 20}, "tensors do not match its sizes"),
        ({"cell": 1}, "tensors do not match its sizes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(Layer(0).program(**changes))
