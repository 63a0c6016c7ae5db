"""Tensors whose data lies in other files: read for a path from its folder, and for a model in memory not at all."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import edgekern as ek
from edgekern.calibration import load_model, model_hash, observed_tensors, weighted_inputs
from edgekern.errors import ArgumentValueError

from graphs import Graph
from host_models import MEMORY_MARKER, PLACES, SIZE, external, messages


def small_program() -> ek.Program:
    g = Graph()
    return ek.compile(g.model(g.qdq(g.input("x", (SIZE,)))))


READERS = {
    "load_model": load_model,
    "model_hash": model_hash,
    "observed_tensors": observed_tensors,
    "weighted_inputs": weighted_inputs,
    "Calibrator": ek.Calibrator,
    "quantize": lambda model: ek.quantize(model, ek.Ranges({}, method="max", model_hash="")),
    "compile": ek.compile,
    "compare": lambda model: ek.compare(model, small_program(), []),
}
OUTSIDE = {
    "above": "../secret.bin",
    "above, by a folder": "sub/../../secret.bin",
    "absolute": "ABSOLUTE",
    "link": "link.bin",
    "link to a folder": "above/secret.bin",
    "second name": "second.bin",
    "memory": MEMORY_MARKER,
    "absent": "absent.bin",
    "the folder": ".",
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: a data file, one above it, and links to that one."""
    inside = tmp_path / "folder"
    (inside / "sub").mkdir(parents=True)
    content = np.arange(SIZE, dtype=np.float32)
    for path in (tmp_path / "secret.bin", inside / "w.bin", inside / "sub" / "w.bin"):
        content.tofile(path)
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "above").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", inside / "second.bin")
    monkeypatch.chdir(inside)
    return inside


@pytest.mark.parametrize("given", ["bytes", "ModelProto"])
@pytest.mark.parametrize("reader", READERS)
def test_models_in_memory_read_no_file_of_the_current_folder(folder, reader, given):
    made = PLACES["initializer"](external(location="w.bin"))
    with pytest.raises(ArgumentValueError, match=f"{reader}: model has the data of tensor 'w' in .*'w.bin'.* its path"):
        READERS[reader](made.SerializeToString() if given == "bytes" else made)


@pytest.mark.parametrize("location", ["w.bin", *OUTSIDE.values()])
@pytest.mark.parametrize("place", PLACES)
def test_models_in_memory_are_refused_wherever_the_tensor_is(folder, place, location):
    made = PLACES[place](external(location=str(folder.parent / "secret.bin") if location == "ABSOLUTE" else location))
    for model in (made, made.SerializeToString()):
        with pytest.raises(ArgumentValueError, match="load_model: model has the data of tensor 'w' in another file"):
            load_model(model)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "branch of a branch", "function"])
@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin"])
def test_paths_bring_the_files_of_their_folder(folder, place, location, monkeypatch):
    path = folder / "model.onnx"
    path.write_bytes(PLACES[place](external(location=location)).SerializeToString())
    monkeypatch.chdir("/")
    loaded = load_model(path)
    found = [tensor for tensor in messages(loaded) if isinstance(tensor, TensorProto) and tensor.dims == [SIZE]]
    assert found
    for tensor in found:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.arange(SIZE))
    assert load_model(onnx.load(path)) == loaded


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_bring_no_other_files(folder, name):
    location = str(folder.parent / "secret.bin") if name == "absolute" else OUTSIDE[name]
    path = folder / "model.onnx"
    for place in ("initializer", "branch of a branch", "function"):
        path.write_bytes(PLACES[place](external(location=location)).SerializeToString())
        with pytest.raises(ArgumentValueError, match="load_model: model"):
            load_model(path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64])
@pytest.mark.parametrize("place", [place for place in PLACES if "sparse" in place or place == "training"])
def test_what_onnx_leaves_outside_is_refused_for_paths_too(folder, place, kind):
    """onnx brings no sparse tensors; onnxruntime would read them from the current folder."""
    path = folder / "model.onnx"
    path.write_bytes(PLACES[place](external(location="w.bin", kind=kind)).SerializeToString())
    with pytest.raises(ArgumentValueError, match=r"'w\.bin': onnx does not load it from there; save the model with"):
        load_model(path)
