"""GGUF files: every count, length and offset is checked against the file before it is used.

Read: version 2 and 3, little-endian, architectures ``llama`` and ``qwen2``, tensors in F32, F16, BF16, Q8_0 and Q4_0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekern import files
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.encodings import Bytes
from edgekern.llm.gguf_types import ENCODINGS, require_known_types
from edgekern.llm.weights import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Stored,
    Weights,
    as_pairs,
    check_disjoint,
    expected_shapes,
    layer_name,
)

Value = int | float | bool | str | bytes | list[bytes] | np.ndarray[Any, Any]
_T = TypeVar("_T")

_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8"} | {
    12: "<f8"
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_KEYS, _MAX_TENSORS, _MAX_STRING, _MAX_ITEMS = 1 << 16, 1 << 16, 1 << 26, 1 << 24
# What each takes in the file at least: a count is held to the bytes that are left before memory is spent on it.
_KEY_BYTES, _TENSOR_BYTES, _STRING_BYTES = 13, 32, 8

_TOP = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": HEAD}
_IN_LAYER = {
    "attn_norm.weight": "attention_norm",
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "attn_output.weight": "o",
    "ffn_norm.weight": "ffn_norm",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
}
_ROPE_FACTORS = "rope_freqs.weight"


class _Reader:
    """Reads forward through the header; raises ArtifactError instead of running past the end."""

    def __init__(self, path: Path, data: Bytes) -> None:
        self.path, self.data, self.at = path, data, 0

    def fail(self, fact: str) -> ArtifactError:
        return ArtifactError(f"llm.load: {self.path} is no valid GGUF file: {fact}")

    def take(self, count: int) -> Bytes:
        if count > self.data.size - self.at:
            raise self.fail(f"{count} bytes at {self.at} pass its end at {self.data.size}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: int) -> int | float:
        dtype = np.dtype(_NUMBERS[kind])
        value: int | float = self.take(dtype.itemsize).view(dtype)[0].item()
        return value

    def count(self, limit: int, what: str, *, item_bytes: int = 0) -> int:
        value = int(self.number(10))
        if value * item_bytes > self.data.size - self.at:
            raise self.fail(f"{what} {value} needs more than the {self.data.size - self.at} bytes that are left")
        if value > limit:
            raise self.fail(f"{what} {value} is more than {limit}")
        return value

    def string(self) -> bytes:
        return self.take(self.count(_MAX_STRING, "a string's length")).tobytes()

    def name(self) -> str:
        raw = self.string()
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"a name is not UTF-8: {raw[:40]!r}") from error

    def value(self) -> Value:
        kind = int(self.number(4))
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _NUMBERS:
            raise self.fail(f"metadata of unknown type {kind}")
        number = self.number(kind)
        return bool(number) if kind == _BOOL else number

    def _array(self) -> Value:
        kind = int(self.number(4))
        if kind == _STRING:
            count = self.count(_MAX_ITEMS, "an array's length", item_bytes=_STRING_BYTES)
            return [self.string() for _ in range(count)]
        if kind not in _NUMBERS:
            raise self.fail(f"an array of type {kind} in its metadata")
        dtype = np.dtype(_NUMBERS[kind])
        return self.take(self.count(_MAX_ITEMS, "an array's length") * dtype.itemsize).view(dtype)


@dataclass(frozen=True)
class Metadata:
    """Key-value pairs of a GGUF file; asking for the wrong type is an ArtifactError."""

    path: Path
    values: Mapping[str, Value]

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """The value of a key as ``kind``; without a default the key must be there."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise ArtifactError(f"llm.load: {self.path} lacks the key {key!r}")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is str and isinstance(value, bytes):
            value = value.decode(errors="replace")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ArtifactError(f"llm.load: key {key!r} of {self.path} is no {kind.__name__}")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        return self.get(key, int, default)


@dataclass(frozen=True)
class GgufFile:
    """Header of a mapped GGUF file; ``tensors`` under the file's own names."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, Stored]


def _tensor(reader: _Reader) -> tuple[str, tuple[int, int], int, int]:
    name = reader.name()
    axes = int(reader.number(4))
    if not 1 <= axes <= 4:
        raise reader.fail(f"tensor {name!r} has {axes} axes")
    sizes = [reader.count(1 << 40, f"a size of tensor {name!r}") for _ in range(axes)]
    if any(size != 1 for size in sizes[2:]) or 0 in sizes:
        raise reader.fail(f"tensor {name!r} has shape {tuple(reversed(sizes))}; a matrix is expected")
    code = int(reader.number(4))
    rows, columns = (sizes[1] if axes > 1 else 1), sizes[0]
    if code in ENCODINGS and columns % ENCODINGS[code].block:
        raise reader.fail(f"tensor {name!r} has rows of {columns} values in blocks of {ENCODINGS[code].block}")
    return name, (rows, columns), code, int(reader.number(10))


def read_gguf(path: Path) -> GgufFile:
    """Map a file and read its header.

    Raises
    ------
    ArtifactError
        No GGUF file, an unknown version, a count or offset that does not fit the file, or a tensor type not read here.
    """
    data = files.map_file(path, function="llm.load")
    reader = _Reader(path, data)
    if data[:4].tobytes() != b"GGUF":
        raise reader.fail("it does not begin with 'GGUF'")
    reader.at = 4
    version = int(reader.number(4))
    if version not in (2, 3):
        order = "; it is big-endian" if version & 0xFFFF == 0 else ""
        raise reader.fail(f"version {version} is not 2 or 3{order}")
    num_tensors = reader.count(_MAX_TENSORS, "the number of tensors", item_bytes=_TENSOR_BYTES)
    num_keys = reader.count(_MAX_KEYS, "the number of keys", item_bytes=_KEY_BYTES)
    values: dict[str, Value] = {}
    for _ in range(num_keys):
        key = reader.name()
        if key in values:
            raise reader.fail(f"the key {key!r} comes twice")
        values[key] = reader.value()
    metadata = Metadata(path, values)
    infos = [_tensor(reader) for _ in range(num_tensors)]
    require_known_types(path, [(name, code) for name, _, code, _ in infos])
    alignment = metadata.number("general.alignment", 32)
    if not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise reader.fail(f"alignment {alignment} is no power of two")
    start = -(-reader.at // alignment) * alignment
    tensors: dict[str, Stored] = {}
    spans = []
    for name, (rows, columns), code, offset in infos:
        encoding = ENCODINGS[code]
        row_bytes = encoding.row_bytes(columns)
        first, end = start + offset, start + offset + rows * row_bytes
        if offset % alignment or end > data.size:
            raise reader.fail(f"tensor {name!r} lies at bytes {first} to {end} of {data.size}, alignment {alignment}")
        if name in tensors:
            raise reader.fail(f"tensor {name!r} comes twice")
        tensors[name] = Stored(name, (rows, columns), encoding, data[first:end].reshape(rows, row_bytes))
        spans.append((first, end, name))
    check_disjoint(path, spans)
    return GgufFile(path, metadata, tensors)


def _scaling(m: Metadata, arch: str, tensors: Mapping[str, Stored]) -> RopeScaling:
    kind = m.get(f"{arch}.rope.scaling.type", str, "none")
    factor = m.get(f"{arch}.rope.scaling.factor", float, m.get(f"{arch}.rope.scale_linear", float, 1.0))
    if _ROPE_FACTORS in tensors:
        if kind != "none":
            raise ArtifactError(f"llm.load: {m.path} has {_ROPE_FACTORS!r} and RoPE scaling {kind!r}; one is expected")
        return RopeScaling("factors", factors=tuple(tensors[_ROPE_FACTORS].vector().tolist()))
    if kind == "linear" or (kind == "none" and factor != 1.0):
        return RopeScaling("linear", factor)
    if kind == "yarn":
        sharper = 0.1 * float(np.log(factor)) + 1.0 if factor > 1 else 1.0
        return RopeScaling(
            "yarn",
            factor,
            m.number(f"{arch}.rope.scaling.original_context_length"),
            beta_fast=m.get(f"{arch}.rope.scaling.yarn_beta_fast", float, 32.0),
            beta_slow=m.get(f"{arch}.rope.scaling.yarn_beta_slow", float, 1.0),
            attention=m.get(f"{arch}.rope.scaling.attn_factor", float, 1.0) * sharper,
        )
    if kind != "none":
        raise ArtifactError(f"llm.load: {m.path} scales RoPE by {kind!r}; none, linear, yarn and factors are known")
    return RopeScaling()


def _config(file: GgufFile, arch: str) -> ModelConfig:
    m = file.metadata
    if m.number(f"{arch}.expert_count", 0) != 0:
        raise ArtifactError(f"llm.load: {file.path} is a mixture of experts, which is not implemented")
    heads = m.number(f"{arch}.attention.head_count")
    dim = m.number(f"{arch}.embedding_length")
    head_dim = m.number(f"{arch}.attention.key_length", dim // max(1, heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if m.number(f"{arch}.{key}", head_dim) != head_dim:
            raise ArtifactError(f"llm.load: {file.path} has {key} other than the head's {head_dim}: not implemented")
    embedding = file.tensors.get("token_embd.weight")
    window = m.number(f"{arch}.attention.sliding_window", 0)
    return ModelConfig(
        dim=dim,
        hidden=m.number(f"{arch}.feed_forward_length"),
        layers=m.number(f"{arch}.block_count"),
        heads=heads,
        kv_heads=m.number(f"{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=m.number(f"{arch}.vocab_size", embedding.shape[0] if embedding else 0),
        context=m.number(f"{arch}.context_length"),
        eps=m.get(f"{arch}.attention.layer_norm_rms_epsilon", float),
        rope_base=m.get(f"{arch}.rope.freq_base", float, 10000.0),
        rope=_scaling(m, arch, file.tensors),
        tied="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        window=window or None,
    )


def weights_of(file: GgufFile) -> Weights:
    """The model in a GGUF file. Raises ArtifactError where it is none that this package runs."""
    arch = file.metadata.get("general.architecture", str)
    if arch not in ("llama", "qwen2"):
        raise ArtifactError(f"llm.load: {file.path} holds architecture {arch!r}; llama and qwen2 are implemented")
    try:
        config = _config(file, arch)
    except ArgumentValueError as error:
        raise ArtifactError(f"llm.load: the config of {file.path} is impossible: {error}") from error
    tensors: dict[str, Stored] = {}
    for name, stored in file.tensors.items():
        ours = _TOP.get(name)
        layer = re.fullmatch(r"blk\.(\d{1,5})\.(.+)", name)
        if layer and layer[2] in _IN_LAYER:
            ours = layer_name(int(layer[1]), _IN_LAYER[layer[2]])
        if ours is not None:
            tensors[ours] = stored
    used = {id(tensors[name]) for name in expected_shapes(config) if name in tensors}
    for name, stored in file.tensors.items():
        if name != _ROPE_FACTORS and id(stored) not in used:
            raise ArtifactError(f"llm.load: {file.path} has a tensor {name!r} that its architecture does not know")
    # llama.cpp writes the rows of q and k of this architecture as rotary pairs side by side.
    return Weights(file.path, config, as_pairs(tensors, config) if arch == "llama" else tensors)
