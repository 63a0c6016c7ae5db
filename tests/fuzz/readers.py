"""Random damage for every Python reader. Only edgekern's errors or an OSError may come out, in bounded time and memory.

    python -m tests.fuzz.readers --seconds 60 [reader ...]

Each reader runs in a child with a limit on memory and a watchdog, so that a crash, a hang and a file that eats memory
are findings like any other exception. What was read when it happened stays in the folder that the message names.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzz import models

from edgekern import _core
from edgekern.artifact import container
from edgekern.errors import EdgekernError

MEMORY_BYTES = 3 << 30  # of address space: numpy and the tokenizers take the first of it
HANG_SECONDS = 60  # for one input, on a slow and busy machine

Attempt = Callable[[Path], object]
Reader = tuple[Callable[[Path], list[Path]], Attempt]  # writes seeds; reads one of them


# --- damage

NUMBERS = [0, 1, 2, 7, 8, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def damage(content: bytes, rng: random.Random, head: int) -> bytes:
    """Flip, set, cut, repeat and insert; mostly in the first ``head`` bytes, where structure is."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            break
        at = rng.randrange(min(len(out), head) if rng.random() < 0.9 else len(out))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            out[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 8, 64))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 4, 8, 64))]
        elif kind == 5:
            other = rng.randrange(len(out))
            size = rng.choice((1, 4, 8))
            out[at : at + size] = out[other : other + size]
        elif kind == 6 and rng.random() < 0.2:
            del out[at:]
        else:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 4))))
    return bytes(out)


WORDS: list[object] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**64,
    1e400,
    -0.5,
    "",
    "x",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    "9" * 50,
]


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """Change one place of a JSON document, so that it still parses; now and then, its bytes."""
    if rng.random() < 0.25:
        return damage(content, rng, len(content))
    document = json.loads(content)
    at, key = None, None
    node = document
    while isinstance(node, dict | list) and node and (at is None or rng.random() < 0.8):
        at, key = node, rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = at[key]
    if at is not None and rng.random() < 0.3:
        del at[key]
    elif at is not None:
        at[key] = rng.choice(WORDS)
    else:
        document = rng.choice(WORDS)
    return json.dumps(document).encode("utf-8", "surrogatepass")


# --- readers


def _llama_seeds(folder: Path) -> list[Path]:
    from tests.llm_files import SMALL, random_tensors, write_llama2c

    return [write_llama2c(folder / "seed.bin", SMALL, random_tensors(SMALL))]


def _gguf_seeds(folder: Path) -> list[Path]:
    import gguf
    from tests.llm_files import SMALL, random_tensors, write_gguf

    def vocabulary(writer: gguf.GGUFWriter) -> None:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcdefghi"]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces + [f"t{i}" for i in range(SMALL.vocab - len(pieces))])
        writer.add_token_scores([0.0] * SMALL.vocab)
        writer.add_token_types([1] * SMALL.vocab)
        writer.add_eos_token_id(2)

    tensors = random_tensors(SMALL)
    return [
        write_gguf(folder / "plain.gguf", SMALL, tensors),
        write_gguf(folder / "words.gguf", SMALL, tensors, vocabulary=vocabulary),
        write_gguf(folder / "q4.gguf", SMALL, tensors, quantized=gguf.GGMLQuantizationType.Q4_0),
    ]


def _packed_seeds(folder: Path) -> list[Path]:
    from tests.llm_files import SMALL, random_tensors, write_llama2c

    from edgekern import llm

    model = write_llama2c(folder / "float.bin", SMALL, random_tensors(SMALL))
    for kind in ("int8", "int4"):
        llm.quantize(model, folder / f"{kind}.ekllm", weights=kind)
    return [folder / "int8.ekllm", folder / "int4.ekllm"]


def _run_packed(path: Path) -> object:
    from edgekern import llm

    return llm.load(path, window=8, max_chunk=4, num_threads=1, memory_budget=1 << 28).prefill([1, 2, 3])


def _run_model(path: Path) -> object:
    from edgekern import llm

    decoder = llm.load(path, weights="int8", window=8, max_chunk=4, num_threads=1, memory_budget=1 << 28)
    return decoder.prefill([1, 2, 3])


def _folder_reader(files: int) -> Callable[[Path], list[Path]]:
    def seeds(folder: Path) -> list[Path]:
        from tests.llm_files import SMALL, random_tensors, write_huggingface

        made = write_huggingface(folder / f"hf{files}", SMALL, random_tensors(SMALL), files=files)
        return sorted(path for path in made.iterdir() if path.suffix in (".json", ".safetensors"))

    return seeds


def _run_folder(path: Path) -> object:
    return _run_model(path.parent)


def _tokenizer_seeds(folder: Path) -> list[Path]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {chr(97 + i): i for i in range(26)} | {chr(33 + i): 26 + i for i in range(34)}
    words |= {"ab": 60, "abc": 61, "<s>": 62, "</s>": 63}
    made = Tokenizer(models.BPE(vocab=words, merges=[("a", "b"), ("ab", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return [folder / "tokenizer.json"]


def _read_tokenizer_json(path: Path) -> object:
    from edgekern.llm.bpe import load_tokenizer_json

    tokenizer = load_tokenizer_json(path, 64, stops=frozenset())
    return tokenizer.decode(tokenizer.encode("abc def"))


def _pieces_seeds(folder: Path) -> list[Path]:
    pieces = [b"<unk>", b"<s>", b"</s>", b" ", *(bytes([97 + i]) for i in range(26)), b"ab", b"abc"]
    body = b"".join(struct.pack("<fi", -i, len(piece)) + piece for i, piece in enumerate(pieces))
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 8) + body)
    return [folder / "tokenizer.bin"]


def _read_pieces(path: Path) -> object:
    from edgekern.llm.spm import load_tokenizer_bin

    tokenizer = load_tokenizer_bin(path, 32)
    return tokenizer.decode(tokenizer.encode("abc def"))


def _ranges_seeds(folder: Path) -> list[Path]:
    from edgekern.calibration import Ranges, TensorRange

    made = Ranges({"x": TensorRange(-1.0, 2.0), "y": TensorRange(0.0, 3.0)}, "ab" * 32, "max")
    made.save(folder / "ranges.json")
    return [folder / "ranges.json"]


def _read_ranges(path: Path) -> object:
    from edgekern.calibration import Ranges

    return repr(Ranges.load(path))


def _program_seeds(folder: Path) -> list[Path]:
    golden = Path(__file__).parent.parent / "golden"
    seeds = []
    for path in sorted(golden.glob("*.ekm")):
        seeds.append(folder / path.name)
        seeds[-1].write_bytes(path.read_bytes())
    seeds.append(folder / "several_sizes.ekm")
    _several_sizes().save(seeds[-1])
    for name, batch in (("modes", 1), ("modes_and_sizes", (1, 2))):
        seeds.append(folder / f"{name}.ekm")
        _modes(batch).save(seeds[-1])
    seeds.append(folder / "four_bits.ekm")
    _four_bits().save(seeds[-1])
    return seeds


def _four_bits() -> Any:
    """Convolutions in groups and a Gemm, whose weights the file has as 4 bits."""
    import edgekern as ek

    sys.path.insert(0, str(Path(__file__).parent.parent))  # as for pytest
    from test_four_bit_weights import net

    return ek.compile(net())


def _several_sizes() -> Any:
    import edgekern as ek
    from edgekern import quickstart

    return ek.compile(quickstart.MODEL, batch=(1, 2, 4))


def _modes(batch: Any) -> Any:
    import edgekern as ek
    from edgekern import quickstart

    quantized = ek.quantize(quickstart.MODEL, None, ek.QuantConfig(recipe="w8a8-dynamic"))
    return ek.compile_modes({"performance": quantized, "accuracy": quickstart.MODEL}, batch=batch)


def damage_program(content: bytes, rng: random.Random) -> bytes:
    """Damage of the index or the manifest, with every hash put right where the index still decodes."""
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    metadata, size = entries["__metadata__"], int(entries["__metadata__"]["ekm.index"])
    old_bytes = entries[container.INDEX]["data_offsets"][1]
    encoded = content[start : start + size]
    if rng.random() < 0.3:
        told = rng.choice([name for name in ("ekm.manifest", "ekm.model") if name in metadata])
        metadata[told] = damage_json(metadata[told].encode(), rng).decode("utf-8", "replace")
    else:
        encoded = damage(encoded, rng, size)
    try:
        index = _core.ProgramIndex.decode(encoded)
    except EdgekernError:
        return damage(content, rng, start + size)
    index_bytes = -(-(len(encoded) + 32) // 64) * 64
    blobs = bytearray(content[start + old_bytes :])
    hashes = {b.name: b.sha256 for b in index.blobs}
    end = old_bytes + len(blobs)  # a damaged index may say more
    sizes = [b for b in index.blobs if b.name.startswith(("size.", "mode.")) and old_bytes <= b.offset <= end - b.bytes]
    if sizes and rng.random() < 0.5:  # the index of another size or mode
        one = rng.choice(sizes)
        at = one.offset - old_bytes
        changed = damage(bytes(blobs[at : at + one.bytes]), rng, one.bytes)[: one.bytes].ljust(one.bytes, b"\0")
        blobs[at : at + one.bytes] = changed
        hashes[one.name] = hashlib.sha256(changed).digest()
    index.blobs = [
        _core.BlobDef(
            name=b.name,
            offset=b.offset + index_bytes - old_bytes,
            bytes=b.bytes,
            sha256=hashes[b.name],
            stored=b.stored,
            parts=b.parts,
            codes=b.codes,
        )
        for b in index.blobs
        if b.offset + index_bytes >= old_bytes
    ]
    header = container._header(index, index_bytes, metadata | {"ekm.index": str(len(encoded))})
    index.header_sha256 = hashlib.sha256(header).digest()
    encoded = index.encode()
    encoded += hashlib.sha256(encoded).digest()
    return header + encoded + bytes(index_bytes - len(encoded)) + bytes(blobs)


def _run_program(path: Path) -> object:
    from edgekern import InferenceSession
    from edgekern.artifact import Program

    program = Program.load(path, verify="lazy")
    if max(one.index.arena_bytes for one in program.all) > 1 << 26:
        return None
    session = InferenceSession(program, num_threads=1)
    found = []
    for one in program.variants:
        feeds = {info.name: np.zeros(info.shape, info.dtype) for info in one.inputs}
        found += [session.run(None, feeds, mode=mode) for mode in program.modes or (None,)]
        if program.buckets is not None and all(array.ndim for array in feeds.values()):
            found.append(session.run(None, {name: np.concatenate([array, array]) for name, array in feeds.items()}))
    return found


def _cache() -> object:
    import edgekern as ek

    return ek.RingKVCache(num_layers=2, num_kv_heads=1, head_dim=8, window=6, sinks=1, max_chunk=3)


def _cache_seeds(folder: Path) -> list[Path]:
    cache = _cache()
    (folder / "cache.kv").write_bytes(bytes(cache.save()))  # type: ignore[attr-defined]
    return [folder / "cache.kv"]


def _read_cache(path: Path) -> object:
    cache = _cache()
    cache.load(path.read_bytes())  # type: ignore[attr-defined]
    return cache


READERS: dict[str, Reader] = {
    "model": (models.seeds, models.attempt),
    "llama2c": (_llama_seeds, _run_model),
    "gguf": (_gguf_seeds, _run_model),
    "ekllm": (_packed_seeds, _run_packed),
    "huggingface": (_folder_reader(1), _run_folder),
    "huggingface_index": (_folder_reader(2), _run_folder),
    "tokenizer_json": (_tokenizer_seeds, _read_tokenizer_json),
    "tokenizer_bin": (_pieces_seeds, _read_pieces),
    "ranges": (_ranges_seeds, _read_ranges),
    "program": (_program_seeds, _run_program),
    "cache": (_cache_seeds, _read_cache),
}


def damaged(path: Path, content: bytes, rng: random.Random) -> bytes:
    """Damage that suits the file."""
    if path.suffix == ".json":
        return damage_json(content, rng)
    if path.suffix == ".onnx" and rng.random() < 0.9:
        return models.damage_model(content, rng)
    if path.suffix == ".ekm" and rng.random() < 0.9:
        return damage_program(content, rng)
    return damage(content, rng, 4000)


def child(name: str, folder: Path, seconds: float, seed: int) -> int:
    """Damage and read until the time is up; the count is the last line. Any exception but the expected ones ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    make_seeds, attempt = READERS[name]
    rng = random.Random(seed)
    seeds = {path: path.read_bytes() for path in make_seeds(folder)}
    for path in seeds:
        attempt(path)  # a seed that is refused tests nothing
    runs = accepted = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path, content = rng.choice(list(seeds.items()))
        path.unlink()  # a new file: the old one may still be mapped
        path.write_bytes(damaged(path, content, rng))
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            attempt(path)
            accepted += 1
        except (EdgekernError, OSError):
            pass
        faulthandler.cancel_dump_traceback_later()
        path.unlink()
        path.write_bytes(content)
        runs += 1
    print(json.dumps({"runs": runs, "accepted": accepted}))
    return 0


def fuzz(name: str, seconds: float, seed: int) -> tuple[int, int, str]:
    """Runs, inputs that were read without an error, and what was found ("" for nothing)."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    command = [sys.executable, "-m", "tests.fuzz.readers", "--child", name, "--folder", str(folder)]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
    if done.returncode != 0:
        return 0, 0, f"{name} (seed {seed}, files in {folder}) ended with {done.returncode}:\n{done.stderr[-3000:]}"
    counts = json.loads(done.stdout.splitlines()[-1])
    return counts["runs"], counts["accepted"], ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help="of " + ", ".join(READERS) + "; all when none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.folder, given.seconds, given.seed)
    names = given.readers or list(READERS)
    findings = 0
    for name in names:
        runs, accepted, finding = fuzz(name, given.seconds / len(names), given.seed)
        print(finding or f"{name}: {runs} inputs, {accepted} of them read without an error", flush=True)
        findings += bool(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
