"""Models that the calibrator reads, whatever their opset, and those that it refuses."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose

from edgekern.calibration import (
    Calibrator,
    load_model,
    model_hash,
    observed_tensors,
)
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError
from edgekern.graph.opset import newest_opset

from calibrator_models import model_of, small_cnn

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT
NEWEST = newest_opset()

Feeds = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def batches(rng: np.random.Generator) -> list[Feeds]:
    return [{"x": rng.normal(size=(n, 3, 8, 8)).astype(np.float32)} for n in (4, 4, 2, 4, 1)]


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("these are not the bytes you are looking for")
    for model in (path, str(path), path.read_bytes()):
        with pytest.raises(ArgumentValueError, match=r"Calibrator: model .*(cannot be parsed|not an ONNX model)"):
            Calibrator(model)
    path.write_bytes(b"")
    with pytest.raises(ArgumentValueError, match="is not an ONNX model; it is an empty file"):
        Calibrator(path)
    with pytest.raises(FileNotFoundError):
        Calibrator(tmp_path / "absent.onnx")
    with pytest.raises(ArgumentTypeError, match=r"model must be a path, bytes or onnx\.ModelProto, got int"):
        Calibrator(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [6, NEWEST + 1])
def test_an_opset_that_is_too_old_or_unknown_is_refused(opset: int) -> None:
    relu = model_of([helper.make_node("Relu", ["x"], ["y"])], [1], opset=opset)
    with pytest.raises(
        ArgumentValueError, match=rf"Calibrator: model has opset {opset}, which is outside 7\.\.{NEWEST}"
    ):
        Calibrator(relu)


def test_an_operator_that_nobody_knows_is_named() -> None:
    unknown = model_of([helper.make_node("Frobnicate", ["x"], ["y"])], [1])
    with pytest.raises(ArgumentValueError, match=r"not valid ONNX: .*Frobnicate"):
        Calibrator(unknown)
    theirs = model_of([helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")], [1])
    theirs.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(CalibrationError, match=r"onnxruntime cannot run the model: .*Frobnicate"):
        Calibrator(theirs)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_from_7_to_the_newest_is_read(opset: int, batches: list[Feeds]) -> None:
    model = small_cnn(opset=opset)
    before = model.SerializeToString()
    loaded = load_model(model)
    assert model.SerializeToString() == before
    assert loaded.opset_import[0].version == max(opset, 13)
    calibrator = Calibrator(model, progress=False).collect(batches[0])
    ranges = calibrator.compute_ranges("max")
    assert {"x", "conv", "relu", "y"} <= set(ranges)
    assert ranges.model_hash == model_hash(model) == model_hash(loaded)


def test_the_hash_tells_models_apart_and_not_how_they_are_given(tmp_path: Path) -> None:
    model = small_cnn(opset=11)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path)
    expected = model_hash(path)
    model.producer_name = "someone else"
    model.graph.doc_string = model.graph.node[0].doc_string = "a comment"
    assert model_hash(model) == expected == model_hash(path.read_bytes())
    assert len(expected) == 64
    changed = small_cnn(opset=11)
    changed.graph.node[0].attribute[0].ints[0] = 2
    assert model_hash(changed) != expected


def test_initializers_listed_as_inputs_are_constants() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [2],
        weights=[onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [2]))
    assert [value.name for value in load_model(model).graph.input] == ["x"]
    assert observed_tensors(model) == ["x", "y"]


def test_ultraface_is_upgraded_and_observed(test_data: Path, rng: np.random.Generator) -> None:
    path = test_data / "detect" / "ultraface_rfb_320.onnx"  # opset 9, weights among the inputs
    calibrator = Calibrator(path, progress=False)
    assert calibrator.input_names == ["input"]
    x = rng.normal(size=(1, 3, 240, 320)).astype(np.float32)
    ranges = calibrator.collect({"input": x}).compute_ranges("max")
    original = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    boxes = original.run(["boxes"], {"input": x})[0]
    assert_allclose([ranges["boxes"].lo, ranges["boxes"].hi], [boxes.min(), boxes.max()], rtol=1e-4)
