"""Paths are whatever names a file: strings, pathlib's, objects with ``__fspath__``, and bytes of the system."""

import os

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern import llm
from edgekern._arguments import file_path
from edgekern.calibration import load_model
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.llm.loading import read_model

from graphs import Graph
from llm_files import SMALL, random_tensors, write_llama2c


class Named:
    """Of another library: an upath, a py.path, a temporary file's wrapper."""

    def __init__(self, path, encoded=False):
        self.path = os.fsencode(path) if encoded else str(path)

    def __fspath__(self):
        return self.path


KINDS = {"str": str, "pathlib": lambda path: path, "fspath": Named, "fspath of bytes": lambda path: Named(path, True)}


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_that_takes_a_path_takes_every_kind(kind, tmp_path):
    make = KINDS[kind]
    g = Graph()
    onnx.save(g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1))), tmp_path / "qdq.onnx")
    ekm, qdq = make(tmp_path / "model.ekm"), make(tmp_path / "qdq.onnx")
    ek.compile(qdq, allow_host=False).save(ekm)
    assert ek.Program.load(ekm).nbytes == (tmp_path / "model.ekm").stat().st_size
    x = np.zeros((4, 8), np.float32)
    ek.InferenceSession(ekm).run(None, {"x": x})
    assert ek.compare(qdq, ek.Program.load(ekm), {"x": x}).rows

    h = Graph()
    onnx.save(h.model(h.op("Gemm", h.input("x", (4, 8)), h.const(np.ones((8, 6)), np.float32))), tmp_path / "f.onnx")
    floats, saved = make(tmp_path / "f.onnx"), make(tmp_path / "ranges.json")
    assert load_model(floats).graph.node
    ranges = ek.Calibrator(floats, progress=False).collect({"x": x + 1}).compute_ranges()
    ranges.save(saved)
    assert ek.Ranges.load(saved) == ranges
    assert ek.quantize(floats, ranges).graph.node

    cache = ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=64, window=8)
    state = make(tmp_path / "state")
    assert cache.save(state) == (tmp_path / "state").read_bytes()
    cache.load(state)
    small = make(write_llama2c(tmp_path / "small.bin", SMALL, random_tensors(SMALL)))
    assert llm.load(small).config.vocab == SMALL.vocab
    assert read_model(small)[0].config.vocab == SMALL.vocab


CALLS = {
    "Ranges.load": ek.Ranges.load,
    "Ranges.save": lambda path: ek.Ranges({}, "", "mse").save(path),
    "llm.load": llm.load,
    "RingKVCache.load": lambda path: ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=64).load(path),
    "InferenceSession": ek.InferenceSession,
    "Calibrator": ek.Calibrator,
    "artifact": ek.Program.load,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_path_is_refused_by_name(name):
    for value in (3, None, 1.5, ["a"], object()):
        with pytest.raises(ArgumentTypeError, match=f"^{name}: "):
            CALLS[name](value)


def test_null_bytes_are_refused():
    with pytest.raises(ArgumentValueError, match="f: path must be a path, got one with a null byte"):
        file_path("f", "path", "a\0b")
    with pytest.raises(ArgumentValueError, match=r"llm\.load: path must be a path, got one with a null byte"):
        llm.load("a\0b")
    for call in (ek.InferenceSession, ek.Calibrator, lambda path: file_path("f", "path", path)):
        with pytest.raises(ArgumentValueError, match="must be a path that the system can hold"):
            call("a\ud800")
    assert file_path("f", "path", b"a\xff") == file_path("f", "path", os.fsdecode(b"a\xff"))
