"""llama2.c's checkpoint without a version: seven int32, then float32 tensors, each for all layers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgekern import files
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.llm.config import ModelConfig
from edgekern.llm.encodings import F32, Bytes
from edgekern.llm.weights import EMBEDDING, FINAL_NORM, HEAD, Stored, Weights, as_pairs, expected_shapes, layer_name

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42"


def _config(path: Path, header: bytes) -> ModelConfig:
    dim, hidden, layers, heads, kv_heads, vocab, context = _HEADER.unpack(header)
    if heads < 1 or dim % heads:
        raise ArtifactError(f"llm.load: {path} is no llama2.c checkpoint: dim {dim} is no multiple of {heads} heads")
    try:
        return ModelConfig(
            dim=dim,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim // heads,
            vocab=abs(vocab),
            context=context,
            tied=vocab > 0,
        )
    except ArgumentValueError as error:
        raise ArtifactError(f"llm.load: {path} is no llama2.c checkpoint: {error}") from error


def load_llama2c(path: Path) -> Weights:
    """Map a legacy llama2.c checkpoint (``.bin``).

    Raises
    ------
    ArtifactError
        The header is impossible, or the file's size is not what the header says.
    """
    data = files.map_file(path, function="llm.load")
    if data.size < _HEADER.size:
        raise ArtifactError(f"llm.load: {path} has {data.size} bytes; a llama2.c header has {_HEADER.size}")
    header = data[: _HEADER.size].tobytes()
    if int.from_bytes(header[:4], "little") == _VERSIONED:
        version = int.from_bytes(header[4:8], "little")
        raise ArtifactError(
            f"llm.load: {path} is a llama2.c checkpoint of version {version}; only the legacy one without a version is "
            "read. Export it with version 0, or as GGUF or safetensors"
        )
    config = _config(path, header)
    shapes = expected_shapes(config)
    tensors: dict[str, Stored] = {}
    at = _HEADER.size

    def take(name: str, source: str) -> None:
        nonlocal at
        rows, columns = shapes[name]
        tensors[name] = Stored(source, (rows, columns), F32, _part(path, data, at, rows, columns, source))
        at += rows * columns * F32.bytes

    take(EMBEDDING, "tok_embeddings")
    for kind in ("attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up"):
        for layer in range(config.layers):
            take(layer_name(layer, kind), f"{kind}[{layer}]")
    take(FINAL_NORM, "final_norm")
    at += config.context * config.head_dim * F32.bytes  # tables of cosines and sines
    if not config.tied:
        take(HEAD, "output")
    if at != data.size:
        raise ArtifactError(f"llm.load: {path} has {data.size} bytes, but its header describes {at}")
    return Weights(path, config, as_pairs(tensors, config))


def _part(path: Path, data: Bytes, at: int, rows: int, columns: int, source: str) -> Bytes:
    row_bytes = columns * F32.bytes
    if at + rows * row_bytes > data.size:
        raise ArtifactError(
            f"llm.load: {path} ends within tensor {source!r}: {data.size} bytes, {at + rows * row_bytes} needed"
        )
    return np.reshape(data[at : at + rows * row_bytes], (rows, row_bytes))
