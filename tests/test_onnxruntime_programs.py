"""Programs for onnxruntime run with edgekern: another import, another file, and the same answers."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import edgekern as ek

import onnxruntime_programs as programs
from float_models import STATIC, ranges_of, samples, small_cnn
from graphs import Graph

IMAGES = samples(np.random.default_rng(3), 8)
FLOAT = 1e-4  # of the largest value: sums in another order
INT8 = 0.03  # onnxruntime runs the same QDQ model; codes differ by one where it rounds twice


def named(g, model, *outputs):
    """With names of its own for what it gives."""
    for value, name in zip(model.graph.output, outputs, strict=True):
        for node in model.graph.node:
            node.output[:] = [name if output == value.name else output for output in node.output]
            node.input[:] = [name if given == value.name else given for given in node.input]
        value.name = name
    del model.graph.value_info[:]
    return model


def batched(model, batch):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return onnx.shape_inference.infer_shapes(fixed)


def classifier(batch=1):
    model = batched(small_cnn(), batch)
    model.producer_name, model.doc_string, model.model_version = "trainer", "A small classifier.", 3
    onnx.helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}", "stride": "32"})
    return model


def quantized(batch=1):
    model = ek.quantize(small_cnn(), ranges_of(small_cnn(), IMAGES), STATIC)
    return batched(model, batch)


def detector():
    """Four numbers and three scores for each of 36 places."""
    g = Graph()
    x = g.op("Relu", g.op("Conv", g.input("image", (1, 3, 12, 12)), conv(g, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    sides = []
    for count, kind in ((4, "Sigmoid"), (3, "Sigmoid")):
        flat = g.op("Reshape", g.op("Conv", x, conv(g, count, 8, 1)), g.const([1, count, 36], np.int64))
        sides.append(g.op(kind, g.op("Transpose", flat, perm=[0, 2, 1])))
    low, size = g.op("Split", sides[0], outputs=2, axis=2, num_outputs=2)
    boxes = g.op("Concat", low, g.op("Add", low, size), axis=2)
    return named(g, g.model(boxes, sides[1]), "boxes", "scores")


def conv(g, to, given, size):
    return g.const(g.rng.normal(size=(to, given, size, size)) / size, np.float32)


def sentences():
    """Embeddings, their mean where the mask is, and two classes."""
    g = Graph()
    ids, mask = (g.input(name, (2, 7), TensorProto.INT64) for name in ("input_ids", "attention_mask"))
    words = g.op("Gather", g.const(g.rng.normal(size=(50, 16)), np.float32), ids)
    there = g.op("Unsqueeze", g.op("Cast", mask, to=TensorProto.FLOAT), g.const([2], np.int64))
    axis = g.const([1], np.int64)
    total = g.op("ReduceSum", g.op("Mul", words, there), axis, keepdims=0)
    mean = g.op("Div", total, g.op("ReduceSum", there, axis, keepdims=0))
    return named(g, g.model(g.op("Gemm", mean, g.const(g.rng.normal(size=(16, 2)), np.float32))), "logits")


def text():
    rng = np.random.default_rng(5)
    mask = (np.arange(7) < [[7], [4]]).astype(np.int32)
    return rng.integers(0, 50, (2, 7)) * mask, mask


ONE = IMAGES[:1]
PROGRAMS = {
    "classify": (programs.classify, classifier, (IMAGES,), FLOAT),
    "classify on int8": (programs.classify, quantized, (IMAGES,), INT8),
    "detect": (programs.detect, detector, (ONE,), FLOAT),
    "bind_outputs": (programs.bind_outputs, lambda: classifier(2), (IMAGES.reshape(4, 2, 3, 12, 12),), FLOAT),
    "bind_outputs on int8": (programs.bind_outputs, lambda: quantized(2), (IMAGES.reshape(4, 2, 3, 12, 12),), INT8),
    "ort_values": (programs.ort_values, classifier, (ONE,), FLOAT),
    "session_options": (programs.session_options, classifier, (ONE,), FLOAT),
    "providers": (programs.providers, classifier, (ONE,), FLOAT),
    "profile": (programs.profile, classifier, (ONE,), FLOAT),
    "metadata": (programs.metadata, classifier, (), FLOAT),
    "evaluate": (programs.evaluate, lambda: classifier(4), (IMAGES, np.arange(8) % 5), FLOAT),
    "serve": (programs.serve, classifier, (IMAGES,), FLOAT),
    "classify_text": (programs.classify_text, sentences, text(), FLOAT),
    "run_async": (programs.run_async, classifier, (IMAGES,), FLOAT),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_another_import_and_another_file_give_the_same(name, tmp_path, monkeypatch):
    program, make, data, tolerance = PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    model = make()
    onnx.save(model, "model.onnx")
    ek.compile("model.onnx", allow_host=False).save("model.ekm")
    theirs, ours = program(onnxruntime, "model.onnx", *data), program(ek, "model.ekm", *data)
    assert_alike(ours, theirs, tolerance)


def assert_alike(ours, theirs, tolerance):
    """The same containers of the same things; floats within ``tolerance`` of the largest."""
    if isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
        else:
            np.testing.assert_array_equal(ours, theirs)
        return
    assert type(ours) is type(theirs)
    if isinstance(theirs, Mapping):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_alike(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other, tolerance)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        (np.float32([1, 2]), np.float32([1, 2.1])),
        (np.float32([1]), np.float64([1])),
        (np.int64([1]), np.int64([2])),
        ("a", "b"),
    ],
    ids=str,
)
def test_what_is_not_alike_is_found(ours, theirs):
    with pytest.raises(AssertionError):
        assert_alike(ours, theirs, FLOAT)


def test_every_program_is_run():
    written = {name for name, one in vars(programs).items() if getattr(one, "__module__", "") == programs.__name__}
    assert written - {"softmax"} == {program.__name__ for program, *_ in PROGRAMS.values()}
