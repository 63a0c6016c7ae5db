"""A wrong kind of file, given to any loader, is recognized by its first bytes and the error says what reads it."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core, cli, llm
from edgekern.calibration import Ranges, TensorRange
from edgekern.calibration.sources.arrays import read_feeds
from edgekern.errors import ArgumentValueError, EdgekernError
from edgekern.file_kinds import HEAD_BYTES, KINDS, kind_of, naming_kind

from graphs import Graph
from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c

NUMPY = np.arange(6, dtype=np.float32)


def model() -> onnx.ModelProto:
    g = Graph()
    return g.model(g.op("Gemm", g.qdq(g.input("x", (1, 8))), g.weights(8, 6, axis=1)))


def bytes_of(save) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def zipped(name: str) -> bytes:
    def save(file):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, b"content")

    return bytes_of(save)


def tar(file) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> dict[str, bytes]:
    """A file of every kind, by the writers that make them where there are any."""
    folder = tmp_path_factory.mktemp("kinds")
    tensors = random_tensors(SMALL)
    write_gguf(folder / "m.gguf", SMALL, tensors)
    write_huggingface(folder / "hf", SMALL, tensors)
    llm.quantize(folder / "m.gguf", folder / "m.ekllm", progress=False)
    Ranges({"x": TensorRange(-1, 1)}, "0" * 64, "max").save(folder / "r.json")
    return {
        "empty": b"",
        "zeros": bytes(5000),
        "ekm": ek.compile(model(), allow_host=False).container.data.tobytes(),
        "ekllm": (folder / "m.ekllm").read_bytes(),
        "gguf": (folder / "m.gguf").read_bytes(),
        "safetensors": (folder / "hf" / "model.safetensors").read_bytes(),
        "onnx": model().SerializeToString(),
        "ort": struct.pack("<i", 24) + b"ORTM" + bytes(100),
        "tflite": struct.pack("<i", 28) + b"TFL3" + bytes(100),
        "openvino": b"<?xml version='1.0'?><net name='m' version='11'></net>",
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "npy": bytes_of(lambda file: np.save(file, NUMPY)),
        "npz": bytes_of(lambda file: np.savez(file, x=NUMPY)),
        "torch": zipped("archive/data.pkl"),
        "zip": zipped("model.onnx"),
        "archive": gzip.compress(b"content"),
        "tar": bytes_of(tar),
        "pickle": pickle.dumps({"weights": [1.0]}),
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "gif": b"GIF89a" + bytes(100),
        "webp": b"RIFF" + struct.pack("<i", 100) + b"WEBP" + bytes(92),
        "wav": b"RIFF" + struct.pack("<i", 100) + b"WAVE" + bytes(92),
        "pdf": b"%PDF-1.7\n",
        "elf": Path(_core.__file__).read_bytes()[:5000],
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "html": b"\n<!DOCTYPE html>\n<html><body>Log in</body></html>",
        "ranges": (folder / "r.json").read_bytes(),
        "paths": json.dumps({"format": "edgekern.paths", "version": 1}).encode(),
        "tokenizer": json.dumps({"version": "1.0", "added_tokens": [], "model": {}}).encode(),
        "config": (folder / "hf" / "config.json").read_bytes(),
    }


# What reads a file, and the kinds that it reads or that are as good as its own.
LOADERS = {
    "Calibrator": (ek.Calibrator, {"onnx"}),
    "compile": (ek.compile, {"onnx"}),
    "compile of bytes": (lambda path: ek.compile(path.read_bytes()), {"onnx"}),
    "Program.load": (ek.Program.load, {"ekm", "empty", "zeros"}),
    "InferenceSession of bytes": (lambda path: ek.InferenceSession(path.read_bytes()), {"ekm", "empty", "zeros"}),
    "Ranges.load": (Ranges.load, {"ranges"}),
    "llm.load": (llm.load, {"gguf", "ekllm"}),
    "data": (lambda path: list(read_feeds([path], {"x": (6,)}, batch=0)), {"npy", "npz", "zip", "torch"}),
    "RingKVCache.load": (ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=8).load, set()),
}


def test_every_kind_has_an_example_and_is_recognized(examples):
    assert {name: kind_of(content[:HEAD_BYTES]) for name, content in examples.items()} == {name: name for name in KINDS}


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 300), st.binary(max_size=20))
def test_beginnings_of_any_length_are_told_or_not(examples, kind, length, behind):
    assert kind_of(examples[kind][:length] + behind) in {*KINDS, None}


@pytest.mark.parametrize(
    ("loader", "kind"), [(loader, kind) for loader, (_, own) in LOADERS.items() for kind in KINDS if kind not in own]
)
def test_loaders_say_what_they_were_given(loader, kind, examples, tmp_path):
    load, _ = LOADERS[loader]
    path = tmp_path / "given"
    path.write_bytes(examples[kind])
    with pytest.raises(EdgekernError) as caught:
        load(path)
    source = "the bytes given" if "bytes" in loader else repr(str(path))
    assert f": {source} is not " in str(caught.value)
    assert f"; it is {KINDS[kind].name}: {KINDS[kind].use}" in str(caught.value)


def test_a_damaged_file_of_the_right_kind_is_not_called_another(examples, tmp_path):
    for loader, (load, own) in LOADERS.items():
        for kind in own - {"zip", "torch", "empty"}:
            path = tmp_path / "given"
            path.write_bytes(examples[kind][:-20])
            with pytest.raises(EdgekernError) as caught:
                load(path)
            assert "; it is " not in str(caught.value), loader


def test_tokenizers_and_parts_of_folders_say_it_too(examples, tmp_path):
    write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL))
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        path = tmp_path / "hf" / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(examples["lfs"])
        with pytest.raises(EdgekernError, match="it is a Git LFS pointer: 'git lfs pull' gets the file itself"):
            llm.load(tmp_path / "hf")
        path.unlink()
        if before is not None:
            path.write_bytes(before)
    (tmp_path / "t.bin").write_bytes(examples["gguf"])
    with pytest.raises(EdgekernError, match=r"is not a tokenizer\.json or tokenizer\.bin; it is a GGUF file"):
        llm.load(tmp_path / "hf", tokenizer=tmp_path / "t.bin")


def test_a_llama2c_checkpoint_is_of_no_kind_and_is_read(tmp_path):
    write_llama2c(tmp_path / "m.bin", SMALL, random_tensors(SMALL))
    assert kind_of((tmp_path / "m.bin").read_bytes()[:HEAD_BYTES]) is None
    assert llm.load(tmp_path / "m.bin").config.dim == SMALL.dim


COMMANDS = {
    "run": ("onnx", ["run", "FILE", "x.npy"], "it is an ONNX model: edgekern calibrate, quantize and compile take it"),
    "verify": ("gguf", ["verify", "FILE"], "it is a GGUF file: edgekern generate and edgekern.llm.load read it"),
    "calibrate": ("gguf", ["calibrate", "FILE", "x.npy", "-o", "r.json"], "it is a GGUF file: edgekern generate"),
    "calibrate on a page": (
        "html",
        ["calibrate", "m.onnx", "FILE", "-o", "r.json"],
        "samples: FILE holds no samples; it is a web page",
    ),
    "quantize": (
        "onnx",
        ["quantize", "m.onnx", "FILE", "-o", "q.onnx"],
        "is not a file of ranges; it is an ONNX model",
    ),
    "compile": ("ekm", ["compile", "FILE", "-o", "p.ekm"], "it is a compiled program (.ekm): edgekern run and"),
    "generate": ("ekm", ["generate", "FILE", "--prompt", "a"], "it is a compiled program (.ekm): edgekern run and"),
    "perplexity": ("png", ["perplexity", "hf", "FILE"], "is not a text; it is a PNG picture"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_name_what_they_were_given(name, examples, tmp_path, monkeypatch, capsys):
    kind, arguments, message = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    for file, content in (("FILE", kind), ("x.npy", "npy"), ("m.onnx", "onnx")):
        Path(file).write_bytes(examples[content])
    write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL))
    assert cli.run(arguments) == (1 if arguments[0] == "verify" else 2)
    assert message in capsys.readouterr().err


def test_looking_at_what_a_file_is_opens_it_as_every_reader_does(monkeypatch, tmp_path):
    """A FIFO that takes the file's place between a look and the opening answers never; it hung."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"text")
    looked = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: looked)
    with (
        pytest.raises(ArgumentValueError, match=r"^loader: its own words$"),
        naming_kind(tmp_path / "fifo", "an ONNX model", "onnx"),
    ):
        raise ArgumentValueError("loader: its own words")
