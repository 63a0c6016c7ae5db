"""RECURRENT_DYNAMIC: LSTM, GRU and RNN by int8 weights, rows quantized as they come; one result on all ISAs."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.errors import ArgumentValueError, ArtifactError
from test_recurrent import Layer, any_layer

from one_step import assert_equals_reference, one_step
from reference.recurrent import GATES, padded

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = {0: "dae11768886ff27b", 1: "03c2df03ee08761d", 2: "e7c31ccd99eef8d9"}


class DynamicLayer(Layer):
    """The same layer with its weights rounded to int8, a scale a row, and its program on those."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.codes, self.scales = [], []
        for name in ("w", "r"):
            weights = getattr(self, name)
            scale = np.abs(weights).max(axis=-1, keepdims=True) / np.float32(127)
            codes = np.rint(weights / scale).astype(np.int8)
            setattr(self, name, codes * scale)
            self.codes.append(codes)
            self.scales.append(scale[..., 0])

    def packed(self, codes, counts):
        """A direction after the other, so many gates at once."""
        whole = np.zeros((self.directions, self.gates, padded(self.hidden), codes.shape[-1]), np.int8)
        whole[:, :, : self.hidden] = codes.reshape(self.directions, self.gates, self.hidden, -1)
        parts = [np.split(direction, np.cumsum(counts)[:-1]) for direction in whole]
        flat = [part.reshape(1, -1, 1, codes.shape[-1]) for direction in parts for part in direction]
        return b"".join(_core.pack_weights_blob(np.ascontiguousarray(part)) for part in flat)

    def by_gate(self, values):
        """(directions, 2, gates, hidden), each gate filled up."""
        whole = np.zeros((self.directions, 2, self.gates, padded(self.hidden)), np.float32)
        whole[..., : self.hidden] = np.reshape(values, (self.directions, 2, self.gates, self.hidden))
        return whole

    def program(self, **changes):
        program = super().program()
        [step] = program.index.steps
        once = [2, 1] if self.cell == 1 and not step.arguments["linear_before_reset"] else [self.gates]
        w, r = (self.packed(codes, counts) for codes, counts in zip(self.codes, ([self.gates], once), strict=True))
        blobs = [w, r, self.by_gate(self.bias), self.by_gate(np.stack(self.scales, axis=1))]
        result = (tuple(program.index.tensors[-1].shape), np.float32)
        return one_step(StepKind.RECURRENT_DYNAMIC, self.inputs, result, blobs, **(step.arguments | changes))


@settings(max_examples=40)
@given(layer=any_layer(DynamicLayer))
def test_any_layer_equals_the_reference(layer):
    assert_equals_reference(layer.program(), layer.inputs)


@pytest.mark.parametrize("cell", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"reverse": 1, "lengths": [3, 7], "states": True}, {"directions": 2}])
def test_it_is_close_to_onnxruntime_on_the_same_weights(cell, options):
    """Rounded rows are all that is between them."""
    layer = DynamicLayer(cell, steps=7, batch=2, inputs=12, hidden=40, **options)
    result, want = assert_equals_reference(layer.program(), layer.inputs), layer.onnxruntime()
    assert np.linalg.norm(result - want) < 0.03 * np.linalg.norm(want)


@pytest.mark.parametrize("cell", [0, 1, 2])
def test_large_layers_are_shared_between_threads(cell):
    layer = DynamicLayer(cell, steps=3, batch=2, inputs=64, hidden=300, directions=2, linear_before_reset=1)
    assert_equals_reference(layer.program(), layer.inputs)


def test_rows_of_zeros_infinities_and_nans_go_their_way():
    layer = DynamicLayer(1, steps=4, batch=3, directions=2)
    layer.x[0], layer.x[1, 0, 2], layer.x[2, 1, 3] = 0, np.inf, np.nan
    assert_equals_reference(layer.program(), layer.inputs)


def test_a_length_past_the_sequence_is_named():
    layer = DynamicLayer(0, lengths=[5, 6])
    session = ek.InferenceSession(layer.program())
    with pytest.raises(ArgumentValueError, match=r"the index 6, which lies outside of \[0, 5\]"):
        session.run(None, {"x0": layer.x, "x1": np.array([5, 6], np.int32)})


def golden_layer(cell):
    return DynamicLayer(cell, steps=4, batch=2, inputs=6, hidden=21, directions=2, seed=17, states=True)


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
    assert "100.0% in 8 bits" in program.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": 3}, "damaged arguments"),
        ({"has_lengths": 1}, "wrong number of operands"),
        ({"steps": 4}, "tensors do not match its sizes"),
        ({"hidden": 20}, "tensors do not match its sizes"),
        ({"cell": 1}, "tensors do not match its sizes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(DynamicLayer(0).program(**changes))


def test_weights_of_another_form_are_refused():
    """The third gate of a GRU lies by itself where it is multiplied by itself."""
    layer = DynamicLayer(1, hidden=24)
    program = layer.program()
    arguments = program.index.steps[0].arguments
    blobs = [program.container.blobs[blob.offset : blob.offset + blob.bytes] for blob in program.index.blobs]
    assert bytes(blobs[0]) != bytes(blobs[1])
    result = (tuple(program.index.tensors[-1].shape), np.float32)
    with pytest.raises(ArtifactError, match="weights do not match its sizes"):
        one_step(StepKind.RECURRENT_DYNAMIC, layer.inputs, result, [blobs[0][:64], *map(bytes, blobs[1:])], **arguments)


def test_a_sum_that_could_pass_an_int32_is_refused():
    with pytest.raises(ArtifactError, match=r"sums can pass 2\^31"):
        DynamicLayer(2, steps=1, batch=1, inputs=1 << 17, hidden=1).program()
