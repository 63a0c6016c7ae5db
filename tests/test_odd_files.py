"""Readers: what is no regular file is refused at once, and no file takes more memory than it can need."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core, llm, quickstart
from edgekern.artifact import container
from edgekern.calibration import Ranges, TensorRange
from edgekern.calibration.sources.arrays import read_feeds
from edgekern.errors import ArgumentValueError, ArtifactError, CalibrationError, MemoryBudgetError

from graphs import Graph
from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c

MIB = 1 << 20

# What reads a file: the file, and the call. Run in a child, which may be stopped where one waits or eats for ever.
READERS = {
    "Program.load": ("p.ekm", "ek.Program.load('p.ekm')"),
    "InferenceSession": ("p.ekm", "ek.InferenceSession('p.ekm')"),
    "edgekern verify": ("p.ekm", "cli.session.verify(Path('p.ekm'), allow_host=True)"),
    "Ranges.load": ("r.json", "Ranges.load('r.json')"),
    "RingKVCache.load": ("state", "ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=8).load('state')"),
    "load_model": ("m.onnx", "load_model('m.onnx')"),
    "external data": ("m.data", "load_model('external.onnx')"),
    "Calibrator": ("m.onnx", "ek.Calibrator('m.onnx')"),
    "quantize": ("m.onnx", "ek.quantize('m.onnx', Ranges({}, '0', 'max'))"),
    "compile": ("m.onnx", "ek.compile('m.onnx')"),
    "compare": ("m.onnx", "ek.compare('m.onnx', ek.Program.load('p.ekm'), [])"),
    "data": ("x.npy", "list(read_feeds([Path('x.npy')], {'x': (None,)}))"),
    "data in a folder": ("feeds/x.npz", "list(read_feeds([Path('feeds')], {'x': (None,)}))"),
    "edgekern perplexity": (
        "text.txt",
        "text.perplexity(Path('hf'), Path('text.txt'), tokenizer=None, weights=[], kv=[], window=None, sinks=None, "
        "separator=None, texts=None, tokens=None, num_threads=1)",
    ),
    "GGUF": ("small.gguf", "llm.load('small.gguf')"),
    "llama2.c": ("small.bin", "llm.load('small.bin')"),
    "packed language model": ("small.ekllm", "llm.load('small.ekllm')"),
    "tokenizer.bin": ("tokenizer.bin", "llm.load('hf', tokenizer='tokenizer.bin')"),
    "tokenizer.json": ("hf/tokenizer.json", "llm.load('hf')"),
    "another tokenizer.json": ("t.json", "llm.load('hf', tokenizer='t.json')"),
    "config.json": ("hf/config.json", "llm.load('hf')"),
    "generation_config.json": ("hf/generation_config.json", "llm.load('hf')"),
    "safetensors": ("hf/model.safetensors", "llm.load('hf')"),
    "safetensors index": ("sharded/model.safetensors.index.json", "llm.load('sharded')"),
    "safetensors shard": ("sharded/model-1.safetensors", "llm.load('sharded')"),
}
KINDS = {"a FIFO": "os.mkfifo", "a device": "zero", "a folder": "os.mkdir", "a socket": "socket"}
TAKES_FOLDERS = {"packed language model", "data", "GGUF", "llama2.c"}

CHILD = """
import json, os, resource, socket, sys
from pathlib import Path
import edgekern as ek
from edgekern import cli, llm
from edgekern.calibration import Ranges, load_model
from edgekern.cli import session, text
from edgekern.calibration.sources.arrays import read_feeds
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # before /dev/zero has eaten the machine
readers, kinds = json.loads(sys.argv[1])

def make(how, path):
    if how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        eval(how)(path)

for reader, (name, call) in readers.items():
    for kind, how in kinds.items():
        path, sound = Path(name), Path(name + ".sound")
        if path.exists():
            path.rename(sound)
        make(how, path)
        try:
            eval(call)
            found = "it was read"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps([reader, kind, found]), flush=True)
        path.rmdir() if how == "os.mkdir" else path.unlink()
        if sound.exists():
            sound.rename(path)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with everything that the readers need beside the file in question."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("odd")
    tensors = random_tensors(SMALL)
    write_huggingface(folder / "hf", SMALL, tensors)
    write_huggingface(folder / "sharded", SMALL, tensors, files=3)
    write_gguf(folder / "small.gguf", SMALL, tensors)
    write_llama2c(folder / "small.bin", SMALL, tensors)
    ek.llm.quantize(folder / "small.bin", folder / "small.ekllm")
    (folder / "feeds").mkdir()
    golden().save(folder / "p.ekm")
    onnx.save(
        onnx.load(quickstart.MODEL), folder / "external.onnx", save_as_external_data=True, location="m.data",
        size_threshold=0,
    )  # fmt: skip
    return folder


def golden() -> ek.Program:
    from conftest import REPOSITORY

    return ek.Program.load((REPOSITORY / "tests" / "golden" / "every_step.ekm").read_bytes())


@pytest.fixture(scope="module")
def refusals(sound):
    """What every reader said to every kind of odd file."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps([READERS, KINDS])]
    child = subprocess.run(command, cwd=sound, capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr[-2000:]
    return {(reader, kind): found for reader, kind, found in map(json.loads, child.stdout.splitlines())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_at_once_what_is_no_regular_file(refusals, reader, kind):
    if kind == "a folder" and reader in TAKES_FOLDERS:
        return
    found, name = refusals[reader, kind], READERS[reader][0]
    if reader == "external data":  # the onnx package reads it
        assert found.startswith("ArgumentValueError: load_model: ")
        return
    assert found.startswith("ArgumentValueError: ")
    assert f"{name} is {kind}; only regular files are read" in found


def test_links_to_files_are_read(sound, tmp_path):
    (tmp_path / "link.ekm").symlink_to(sound / "p.ekm")
    assert ek.Program.load(tmp_path / "link.ekm") == golden()


# --- memory of headers

GROWTH = r"""
import re, sys
import edgekern as ek
from edgekern import llm
from edgekern.calibration import Ranges
from edgekern.errors import EdgekernError
import edgekern.llm.bpe
def peak():  # in KiB, of this program alone: ru_maxrss also counts the process that started it
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
before = peak()
try:
    eval(sys.argv[1])
    print("it was read")
except EdgekernError as error:
    print(type(error).__name__, str(error)[:300].replace(chr(10), " "))
print(peak() - before)
"""


def _growth(folder, call) -> tuple[str, int]:
    """What a child says to a call, and by how many MiB its memory grew."""
    command = [sys.executable, "-c", GROWTH, call]
    child = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr[-2000:]
    said, grown = child.stdout.splitlines()
    return said, int(grown) >> 10


LISTS = b"[" + b"[]," * (32 * MIB // 3) + b"[]]"  # each three bytes are seventy once they are parsed


def _index_only(path) -> None:
    """A sound index behind a header of 32 MiB, whose hash it has."""
    program = golden()
    text = b'{"__metadata__":{"a":' + LISTS + b"}}"
    text += b" " * (-(8 + len(text)) % 4096)
    header = len(text).to_bytes(8, "little") + text
    index = _core.ProgramIndex.decode(program.index.encode())
    index.header_sha256 = hashlib.sha256(header).digest()
    encoded = index.encode()
    encoded += hashlib.sha256(encoded).digest()
    path.write_bytes(header + encoded + program.container.blobs.tobytes()[len(encoded) :])


def _forged(path) -> None:
    """Every hash right, and a host's model that excuses a long header, but no manifest of that many values."""
    program = golden()
    index = _core.ProgramIndex.decode(program.index.encode())
    blobs = [(blob.name, program.container.blob(blob.name)) for blob in program.index.blobs]
    blobs.append(("host.0", bytes(40 * MIB)))
    metadata = {"ekm.producer": index.producer, "ekm.manifest": LISTS.decode()}
    path.write_bytes(container.build(index, blobs, metadata).data)


def _safetensors(path) -> None:
    text = b'{"a":' + LISTS + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))


def _json(path) -> None:
    path.write_bytes(b'{"weight_map":' + LISTS + b"}")


CRAFTED = {
    "program": ("x.ekm", _index_only, "ek.Program.load('x.ekm')"),
    "forged program": ("x.ekm", _forged, "ek.Program.load('x.ekm')"),
    "ranges": ("x.json", _json, "Ranges.load('x.json')"),
    "state": ("x", _json, "ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=8).load('x')"),
    "safetensors": ("hf/model.safetensors", _safetensors, "llm.load('hf')"),
    "safetensors index": ("hf/model.safetensors.index.json", _json, "llm.load('hf')"),
    "config": ("hf/config.json", _json, "llm.load('hf')"),
    "generation config": ("hf/generation_config.json", _json, "llm.load('hf')"),
    "tokenizer.json": ("hf/tokenizer.json", _json, "llm.load('hf')"),
    "tokenizer.bin": ("t.bin", _json, "llm.load('hf', tokenizer='t.bin')"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_header_of_32_mib_takes_no_more_memory_than_a_file_may_need(tmp_path, name):
    """Parsing it took 930 MiB. The bound leaves room for the file itself, hashed and copied a few times."""
    file, write, call = CRAFTED[name]
    write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL))
    write(tmp_path / file)
    said, grown = _growth(tmp_path, call)
    assert "Error" in said
    assert grown < 256


def test_a_program_that_tells_of_every_channel_fits_its_bounds():
    """The quantizer lists the channels with a wider scale; here all of them, of one weight each."""
    g = Graph()
    model = g.model(g.qdq(g.op("Gemm", g.qdq(g.input("x", (1, 1))), g.weights(1, 60_000, axis=1), g.vector(60_000))))
    told = json.dumps({"widened": {"y": list(range(60_000))}})
    model.metadata_props.add(key="edgekern.quantization", value=told)
    program = ek.compile(model)
    assert program.manifest.quantization == told
    assert ek.Program.load(program.container.data.tobytes()) == program


def test_ranges_of_many_channels_are_read_back_however_they_are_laid_out(tmp_path):
    ranges = Ranges({f"t{i}": TensorRange(-1, 1, channel_means=(0.0, 1.0) * 2048) for i in range(8)}, "0", "max")
    ranges.save(tmp_path / "r.json")
    assert Ranges.load(tmp_path / "r.json") == ranges
    dense = json.dumps(json.loads((tmp_path / "r.json").read_text()), separators=(",", ":"))
    (tmp_path / "r.json").write_text(dense)
    assert Ranges.load(tmp_path / "r.json") == ranges


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"{}", b"7"])
def test_other_json_is_no_ranges_file(tmp_path, text):
    (tmp_path / "r.json").write_bytes(text)
    with pytest.raises(CalibrationError, match="not a version 1 ranges file"):
        Ranges.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (struct.pack("<QQ", 9, 0), "number of tensors 9 needs more than"),
        (struct.pack("<QQ", 0, 9), "number of keys 9 needs more than"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 8, 1 << 20), "array's length 1048576 needs more than"),
    ],
)
def test_counts_of_a_gguf_file_are_held_to_the_bytes_that_are_left(tmp_path, header, words):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + header + bytes(20))
    with pytest.raises(ArtifactError, match=words):
        llm.load(path)


def test_names_of_shards_that_are_no_names_are_refused(tmp_path):
    folder = write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": ["x.safetensors"]}}))
    with pytest.raises(ArtifactError, match="plain name"):
        llm.load(folder)


# --- more than memory


@pytest.mark.parametrize("arena", [1 << 50, (_core.memory_limit() + (2 << 20)) // 64 * 64])
def test_an_arena_larger_than_memory_is_a_typed_error(arena):
    """The second is what Linux would grant, and kill the process for."""
    program = golden()
    index = _core.ProgramIndex.decode(program.index.encode())
    index.arena_bytes = arena
    blobs = [(blob.name, program.container.blob(blob.name)) for blob in index.blobs]
    crafted = ek.Program.build(index, blobs, program.manifest)
    with pytest.raises(MemoryBudgetError, match=f"no memory for an arena of {arena} bytes"):
        ek.InferenceSession(crafted)


def test_a_tensor_larger_than_memory_is_a_typed_error():
    program = golden()
    index = _core.ProgramIndex.decode(program.index.encode())
    tensors = list(index.tensors)
    offset = -(-index.arena_bytes // 64) * 64
    tensors.append(_core.TensorDef(name="wide", dtype=_core.DType.F32, shape=[1 << 40], offset=offset))
    index.tensors, index.arena_bytes = tensors, offset + (4 << 40)
    blobs = [(blob.name, program.container.blob(blob.name)) for blob in index.blobs]
    with pytest.raises(MemoryBudgetError, match=f"{offset + (4 << 40)} bytes"):
        ek.InferenceSession(ek.Program.build(index, blobs, program.manifest))


def _too_large(shape: tuple[int, ...], dtype: type = np.int8) -> np.ndarray:
    return np.broadcast_to(dtype(0), shape)


TOO_MUCH = {
    "cache": lambda: ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=64, window=2**39),
    "cache of half": lambda: ek.RingKVCache(
        num_layers=1, num_kv_heads=1, head_dim=64, window=_core.memory_limit() // 80, kv="int8"
    ),
    "weights": lambda: ek.pack_weights(_too_large((1 << 25, 1 << 25))),
    "product": lambda: ek.matmul_integer(np.zeros((1 << 23, 1), np.int8), np.zeros((1, 1 << 23), np.int8)),
    "weights of a step": lambda: _core.pack_weights_blob(_too_large((1, 1 << 25, 1, 1 << 25))),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_more_than_memory_is_a_typed_error_that_names_the_bytes(name):
    with pytest.raises(
        MemoryBudgetError,
        match=r"^(RingKVCache|pack_weights|pack_weights_blob|matmul_integer|linear): no memory for \d+ bytes",
    ):
        TOO_MUCH[name]()


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_loaded(sound):
    with pytest.raises(MemoryBudgetError, match="pass what this process can have"):
        llm.load(sound / "hf", window=(1 << 31) - 1)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("x.npy", ArgumentValueError, "is not a .npz or .npy file: mmap length is greater than file size"),  # is mapped
        ("x.npz", MemoryBudgetError, "has an array that memory cannot hold"),
    ],
)
def test_an_array_larger_than_memory_is_a_typed_error(tmp_path, name, error, words):
    path = tmp_path / name
    wide = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32)) | {"shape": (1 << 46,)}
    with (tmp_path / "plain").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, wide)
        file.write(bytes(64))
    if name == "x.npy":
        (tmp_path / "plain").rename(path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "plain", "x.npy")
    with pytest.raises(error, match=f"data: .*{name} {words}"):
        list(read_feeds([path], {"x": (None,)}))


def test_a_damaged_member_of_an_archive_is_a_typed_error(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(1000))
    damaged = bytearray(path.read_bytes())
    damaged[60:400] = bytes(340)
    path.write_bytes(damaged)
    with pytest.raises(ArgumentValueError, match=r"data: .*x\.npz is not a \.npz or \.npy file"):
        list(read_feeds([path], {"x": (None,)}))


# --- tokenizers

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
}
PANICS = {
    "loading": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": None}},
    "encode": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "X", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "encode, cut": {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}},
    "decode": {"decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 5}},
}


@pytest.mark.parametrize("name", PANICS)
def test_a_tokenizer_that_panics_is_an_artifact_error(tmp_path, name):
    """Of the tokenizers package's Rust code; Python sees a BaseException."""
    load_tokenizer_json = pytest.importorskip("edgekern.llm.bpe").load_tokenizer_json
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER | PANICS[name]))

    def use() -> None:
        tokenizer = load_tokenizer_json(path, 300, stops=frozenset())
        tokenizer.encode("ab abc ab ab ab")
        tokenizer.decode([0, 1, 2])

    with pytest.raises(ArtifactError, match=r"tokenizer: .*tokenizer\.json cannot"):
        use()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, TypeError])
def test_an_interrupted_tokenizer_is_interrupted(tmp_path, error):
    bpe = pytest.importorskip("edgekern.llm.bpe")

    class Backend:
        def encode(self, text, add_special_tokens):
            raise error

    tokenizer = bpe.BpeTokenizer(Backend(), 3, source=tmp_path, bos=None, stops=frozenset())
    with pytest.raises(error):
        tokenizer.encode("a")


def test_a_sound_tokenizer_reads_and_writes(tmp_path):
    bpe = pytest.importorskip("edgekern.llm.bpe")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER))
    assert os.stat(path).st_size
    assert bpe.load_tokenizer_json(path, 300, stops=frozenset()).encode("ab") == [2]
