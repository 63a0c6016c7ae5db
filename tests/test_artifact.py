"""The .ekm container: what is written is read, and nothing else is."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern.artifact import Manifest, container
from edgekern.errors import ArgumentTypeError, ArtifactError, EdgekernWarning

from graphs import Graph, without_float_kernels


@pytest.fixture(scope="module")
def program() -> ek.Program:
    """A small program with a product, a table and a host step."""
    g = Graph()
    x = g.qdq(g.op("Sigmoid", g.qdq(g.input("x", (2, 8)))), 1 / 255, 0)
    y = g.op("Softmax", g.op("Gemm", x, g.weights(8, 5, axis=1), g.vector(5)))
    with pytest.warns(EdgekernWarning), without_float_kernels():
        return ek.compile(g.model(y))


@pytest.fixture(scope="module")
def content(program) -> bytes:
    return program.container.data.tobytes()


def test_saved_programs_load_equal(program, content, tmp_path):
    path = tmp_path / "model.ekm"
    program.save(path)
    assert path.read_bytes() == content
    loaded = ek.Program.load(path)
    assert loaded == program
    assert loaded.summary() == program.summary()
    assert loaded.host_steps == program.host_steps
    assert loaded.memory_plan == program.memory_plan
    assert ek.Program.load(content) == program


def test_file_is_a_legal_safetensors_file(program, content):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    assert all(type(value) is str for value in header["__metadata__"].values())
    assert (8 + length) % 4096 == 0
    end = 0
    for entry in entries.values():
        assert entry["dtype"] == "U8"
        assert entry["data_offsets"][0] == end
        end = entry["data_offsets"][1]
        assert entry["shape"] == [end - entry["data_offsets"][0]]
        assert entry["data_offsets"][0] % 64 == 0
    assert end == len(content) - 8 - length
    assert next(iter(entries)) == "index"
    assert [blob.name for blob in program.index.blobs] == list(entries)[1:]


def test_saving_leaves_no_other_file_and_keeps_the_old_one_when_it_fails(program, tmp_path, monkeypatch):
    path = tmp_path / "model.ekm"
    path.write_bytes(b"the old file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full_disk)
        with pytest.raises(OSError, match="No space"):
            program.save(path)
    assert path.read_bytes() == b"the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.ekm"]
    program.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.ekm"]
    os.umask(mask := os.umask(0o022))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def _full_disk(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_every_flipped_byte_is_refused(program, content):
    """Every byte of the file, one bit each; the header's padding and all zeros between blobs are covered too."""
    data = np.frombuffer(content, np.uint8).copy()
    for at in range(len(content)):
        data[at] ^= 1 << (at % 8)
        with pytest.raises(ArtifactError):
            ek.Program.load(data)
        data[at] ^= 1 << (at % 8)
    assert ek.Program.load(data) == program


@given(length=st.integers(0, 20_000))
def test_every_truncation_is_refused(content, length):
    if length < len(content):
        with pytest.raises(ArtifactError, match="is not a sound"):
            ek.Program.load(content[:length])


def test_short_and_longer_files_are_refused(content, tmp_path):
    for odd in (b"", b"short", content[:4096], content + b"\0", content + bytes(64), b"\xff" * 4096, bytes(8192)):
        path = tmp_path / "odd.ekm"
        path.write_bytes(odd)
        with pytest.raises(ArtifactError, match=r"odd\.ekm.*write it again"):
            ek.Program.load(path)


def test_missing_file_is_no_artifact_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        ek.Program.load(tmp_path / "absent.ekm")


def test_lazy_verification_leaves_out_the_weights_only(program, content):
    data = np.frombuffer(content, np.uint8).copy()
    last = program.index.blobs[0]
    data[program.container.start + last.offset] ^= 1
    assert ek.Program.load(data, verify="lazy").steps == program.steps
    with pytest.raises(ArtifactError, match="does not match its sha256"):
        ek.Program.load(data)
    data[20] ^= 1
    with pytest.raises(ArtifactError):
        ek.Program.load(data, verify="lazy")


def _rebuilt(program: ek.Program, change) -> bytes:
    """The file as a forger would write it: changed, with every hash right."""
    index = _core.ProgramIndex.decode(program.index.encode())
    manifest = json.loads(program.manifest.to_json())
    change(index, manifest)
    blobs = [(blob.name, program.container.blob(blob.name)) for blob in program.index.blobs]
    text = json.dumps(manifest, separators=(",", ":"))
    told = {"ekm.model": program.container.metadata["ekm.model"]}
    return container.build(index, blobs, {"ekm.producer": index.producer, "ekm.manifest": text, **told}).tobytes()


def _out_of_arena(index, manifest):
    tensors = list(index.tensors)
    tensors[-1].offset = 1 << 40
    index.tensors = tensors


def _overlap(index, manifest):
    tensors = list(index.tensors)
    for tensor in tensors:
        tensor.offset = 0
    index.tensors = tensors


def _wrong_blob(index, manifest):
    steps = list(index.steps)
    for step in steps:
        step.blobs = [10**6 for _ in step.blobs]
    index.steps = steps


FORGERIES = {
    "tensor_outside_the_arena": _out_of_arena,
    "tensors_that_overlap": _overlap,
    "blob_that_does_not_exist": _wrong_blob,
    "input_that_does_not_exist": lambda i, m: m["inputs"].__setitem__(0, ["x", 99]),
    "unknown_entry": lambda i, m: m.__setitem__("extra", 1),
    "missing_entry": lambda i, m: m.pop("order"),
    "host_tensor_that_does_not_exist": lambda i, m: m["host_steps"][0]["inputs"].__setitem__(0, ["a", 99]),
    "host_blob_that_does_not_exist": lambda i, m: m["host_steps"][0].__setitem__("blob", "host.9"),
    "host_blob_of_two_steps": lambda i, m: (m["host_steps"].append(m["host_steps"][0]), m["order"].append(["host", 1])),
    "order_that_repeats": lambda i, m: m.__setitem__("order", [["segment", 0]] * 3),
    "name_that_is_no_text": lambda i, m: m["host_steps"][0].__setitem__("name", 7),
    "quantization_that_is_no_text": lambda i, m: m.__setitem__("quantization", 7),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files_are_refused(program, name):
    assert ek.Program.load(_rebuilt(program, lambda index, manifest: None)) == program
    with pytest.raises(ArtifactError):
        ek.Program.load(_rebuilt(program, FORGERIES[name]))


@pytest.mark.parametrize(
    "header", ["[]", "{}", "[" * 100_000, '{"__metadata__":3}', '{"index":{"data_offsets":[0]}}', "\xff"]
)
def test_damaged_headers_are_refused(header):
    text = header.encode("latin-1")
    text += b" " * (-(8 + len(text)) % 4096)
    with pytest.raises(ArtifactError, match="its header is not the JSON"):
        ek.Program.load(len(text).to_bytes(8, "little") + text + bytes(128))


def test_manifest_survives_json(program):
    assert Manifest.from_json(program.manifest.to_json(), program.index) == program.manifest


def test_sources_that_are_no_bytes_are_refused(content):
    with pytest.raises(ArgumentTypeError, match="must be a path or bytes, got int"):
        ek.Program.load(7)
    with pytest.raises(ArgumentTypeError, match="must hold bytes, got int8"):
        ek.Program.load(np.frombuffer(content, np.int8))


def test_bytes_at_any_address_load_and_run(program, content):
    """Kernels want blobs aligned; what lies elsewhere is copied."""
    room = np.zeros(len(content) + 1, np.uint8)
    room[1:] = np.frombuffer(content, np.uint8)
    loaded = ek.Program.load(room[1:])
    assert loaded == program
    assert loaded.container.blobs.ctypes.data % 64 == 0
    assert ek.InferenceSession(loaded).run(None, {"x": np.zeros((2, 8), np.float32)})[0].shape == (2, 5)
