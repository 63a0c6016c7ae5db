"""The .ekllm file: a language model whose weights are packed already, and are used where the file is mapped.

    u64 N | JSON header, N bytes | data: digest | blob | blob | ...

A legal safetensors file of U8 tensors. Data starts at a multiple of 4096, every blob at a multiple of 64. The header's
metadata holds the config, what each matrix is, and the sha256 of every blob; the first blob is that of the header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgekern import _core, files
from edgekern.errors import ArtifactError
from edgekern.llm.config import ModelConfig
from edgekern.llm.packing import WeightFormat
from edgekern.llm.tokenizer import Tokenizer

VERSION = "1"
ALIGNMENT, PAGE = 64, 4096
DIGEST, DIGEST_BYTES = "digest", 32
KEYS = ("version", "layout", "producer", "model", "matrices", "hashes")
MATRICES = ("qkv", "o", "gate_up", "down")
_ENTRY_BYTES = 384  # of the header, for each blob: its place, its hash, what matrix it is
_HEADER_BYTES = 32 << 10

Bytes = npt.NDArray[np.uint8]


def padded(size: int) -> int:
    """Bytes that a blob takes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def blob_names(config: ModelConfig, *, tokenizer: bool) -> list[str]:
    """Every blob but the digest."""
    names = ["tokenizer"] if tokenizer else []
    names += ["embedding", "final_norm", "head", "head.scale"]
    parts = ["attention_norm", "ffn_norm", *MATRICES, *(f"{name}.scale" for name in MATRICES)]
    parts += ["qkv.bias"] if config.qkv_bias else []
    return names + [f"layers.{layer}.{part}" for layer in range(config.layers) for part in parts]


class Writer:
    """Blobs as they are made, one after the other; the header when all are there."""

    def __init__(self, file: BinaryIO, config: ModelConfig, form: WeightFormat, *, tokenizer: bool) -> None:
        self._file, self._config, self._form = file, config, form
        self._missing = set(blob_names(config, tokenizer=tokenizer))
        room = _HEADER_BYTES + _ENTRY_BYTES * (len(self._missing) + 1)
        self._start = -(-(8 + room) // PAGE) * PAGE
        self._places = {DIGEST: (0, padded(DIGEST_BYTES))}
        self._hashes: dict[str, str] = {}
        self._matrices: dict[str, list[Any]] = {}
        self._end = padded(DIGEST_BYTES)
        self._form_bytes = 0

    def add(self, name: str, content: npt.NDArray[Any]) -> None:
        """One blob."""
        self._missing.remove(name)
        data = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        whole = padded(data.size)
        if whole != data.size:
            data = np.concatenate([data, np.zeros(whole - data.size, np.uint8)])
        self._file.seek(self._start + self._end)
        self._file.write(data.data)
        self._hashes[name] = _core.sha256(data).hex()
        self._places[name] = (self._end, self._end + whole)
        self._end += whole

    def add_matrix(self, name: str, packed: _core.PackedWeights) -> None:
        """The panels of a matrix, and its scales: of int8 one a row, of others the unit of all."""
        _, _, _, group, layout, unit, panels, scale = _core.packed_state(packed)
        self._matrices[name] = [packed.bits, group, layout]
        self.add(name, panels)
        self.add(f"{name}.scale", scale if packed.bits == 8 else np.array([unit], np.float32))
        self._form_bytes += panels.size

    def finish(self, embedding: str, notes: Mapping[str, Any]) -> int:
        """Write the header; the bytes of all packed matrices."""
        assert not self._missing, self._missing
        model = {
            "config": asdict(self._config),
            "embedding": embedding,
            "weights": self._form.kind,
            "group_size": self._form.group_size,
            **notes,
        }
        values = (
            VERSION,
            str(_core.PACKED_LAYOUT),
            f"edgekern {_core.__version__}",
            model,
            self._matrices,
            self._hashes,
        )
        texts = [value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for value in values]
        header: dict[str, Any] = {"__metadata__": {f"ekllm.{key}": text for key, text in zip(KEYS, texts, strict=True)}}
        for name, (first, end) in self._places.items():
            header[name] = {"dtype": "U8", "shape": [end - first], "data_offsets": [first, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        size = self._start - 8
        assert len(text) <= size
        written = size.to_bytes(8, "little") + text.ljust(size)
        self._file.seek(0)
        self._file.write(written)
        self._file.write(_digest(np.frombuffer(written, np.uint8)).ljust(padded(DIGEST_BYTES), b"\0"))
        return self._form_bytes


def _digest(header: Bytes) -> bytes:
    return _core.sha256(header)


@contextmanager
def writing(
    path: Path, sources: Iterable[Path], config: ModelConfig, form: WeightFormat, tokenizer: Tokenizer | None
) -> Iterator[Writer]:
    """A writer of a file that takes the place of ``path`` when the block ends."""
    inputs = [file for source in sources for file in (source.iterdir() if source.is_dir() else (source,))]
    with files.atomic_write(path, function="llm.quantize", inputs=inputs) as file:
        writer = Writer(file, config, form, tokenizer=tokenizer is not None)
        if tokenizer is not None:
            state = json.dumps(tokenizer.state()).encode()  # type: ignore[attr-defined]  # quantize has looked
            writer.add("tokenizer", np.frombuffer(state, np.uint8))
        yield writer
        file.seek(0, os.SEEK_END)


class Blobs:
    """The blobs of a mapped file whose header is as it was written; their bytes are looked at when they are taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = files.map_file(path, function="llm.load")
        length = int.from_bytes(data[:8].tobytes(), "little") if data.size >= 8 else -1
        if length < 2 or (8 + length) % PAGE or 8 + length + padded(DIGEST_BYTES) > data.size:
            raise self.damaged(f"its header would have {length} bytes of {data.size}")
        start = 8 + length
        stored = data[start : start + padded(DIGEST_BYTES)].tobytes()
        if _digest(data[:start]).ljust(padded(DIGEST_BYTES), b"\0") != stored:
            raise self.damaged("its header is not the one that was written")
        header = self._parsed(data[8:start].tobytes())
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise self.damaged("it has no metadata")
        texts = {key: metadata.get(f"ekllm.{key}", "") for key in KEYS}
        for key, mine in (("version", VERSION), ("layout", str(_core.PACKED_LAYOUT))):
            if texts[key] != mine:
                raise ArtifactError(
                    f"llm.load: {path} is of {key} {texts[key]!r}, and this edgekern reads {mine!r}; write it again "
                    "with llm.quantize"
                )
        self.model, self.matrices, self._hashes = (
            self._parsed(texts[key].encode(errors="surrogatepass")) for key in ("model", "matrices", "hashes")
        )
        self._data, self._places = data[start:], self._tiles(header, data.size - start)

    def damaged(self, fact: str) -> ArtifactError:
        return ArtifactError(f"llm.load: {self.path} is damaged: {fact}; copy it again, or write it with llm.quantize")

    def names(self) -> set[str]:
        return set(self._places)

    def take(self, name: str, size: int | None = None, *, verified: bool = True) -> Bytes:
        """The bytes of a blob, of which there are as many; ``verified``: their hash is compared."""
        first, end = self._places[name]
        if size is not None and padded(size) != end - first:
            raise self.damaged(f"{name!r} has {end - first} bytes, and the config calls for {padded(size)}")
        blob = self._data[first:end]
        if verified and _core.sha256(blob).hex() != self._hashes.get(name):
            raise self.damaged(f"the bytes of {name!r} are not those that were written")
        return blob if size is None else blob[:size]

    def floats(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """A vector of float32; its hash is compared, and every value is a number."""
        values = self.take(name, 4 * size).view("<f4")
        if not np.isfinite(values).all():
            raise self.damaged(f"{name!r} holds NaN or infinity")
        return values

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            found = files.parse_json(text, most_values=len(text) // 4 + 16)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"a part of its header is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise self.damaged("a part of its header is no JSON object")
        return found

    def _tiles(self, header: Mapping[str, Any], size: int) -> dict[str, tuple[int, int]]:
        """Where blobs lie; together they are the data, without a hole."""
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, entry in header.items():
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(one) is int for one in offsets):
                raise self.damaged(f"blob {name!r} lies at {offsets!r}")
            first, last = offsets
            if first != end or not end < last <= size or last % ALIGNMENT:
                raise self.damaged(f"blob {name!r} lies at {offsets}, where {end} of {size} bytes are taken")
            if (entry.get("dtype"), entry.get("shape")) != ("U8", [last - first]):
                raise self.damaged(f"blob {name!r} is not the {last - first} bytes that it lies on")
            places[name] = (first, last)
            end = last
        if end != size:
            raise self.damaged(f"its blobs end at {end} of {size} bytes")
        return places
