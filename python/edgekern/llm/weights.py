"""The tensors of a model under one set of names, read from the mapped file when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgekern.errors import ArtifactError
from edgekern.llm.config import ModelConfig
from edgekern.llm.encodings import Bytes, Encoding, FloatArray, decode

EMBEDDING, FINAL_NORM, HEAD = "embedding", "final_norm", "head"
LAYER_NAMES = ("attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "up", "down")
BIAS_NAMES = ("q_bias", "k_bias", "v_bias")


def layer_name(layer: int, name: str) -> str:
    """``layers.3.gate``: the name of a layer's tensor here, whatever the file calls it."""
    return f"layers.{layer}.{name}"


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in a mapped file.

    Attributes
    ----------
    source : the file's own name of the tensor, for messages
    shape : (rows, columns); a vector has one row
    data : (rows, row_bytes) uint8, a view of the mapped file
    pairs : 0, or head_dim where the rows of each head come as rotary pairs side by side; they are read halves apart
    """

    source: str
    shape: tuple[int, int]
    encoding: Encoding
    data: Bytes
    pairs: int = 0

    def raw(self, first: int, last: int) -> Bytes:
        """Rows [first, last) as the file encodes them."""
        if self.pairs == 0 or self.shape[0] == 1:
            return self.data[first:last]
        row = np.arange(first, last)
        in_head, half = row % self.pairs, self.pairs // 2
        rows: Bytes = self.data[row - in_head + in_head % half * 2 + in_head // half]
        return rows

    def read(self, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows [first, last) as float32. Raises ArtifactError when one is NaN or infinite."""
        values = decode(self.raw(first, self.shape[0] if last is None else last), self.encoding, self.shape[1])
        if not np.isfinite(values).all():
            raise ArtifactError(f"llm.load: tensor {self.source!r} holds NaN or infinity; the file is damaged")
        return values

    def vector(self) -> FloatArray:
        """The values of a tensor with one row."""
        values = self.read().reshape(-1)
        if self.pairs:
            values = values.reshape(-1, self.pairs // 2, 2).swapaxes(1, 2).reshape(-1)
        return values


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Every tensor that a model of this config has, with its (rows, columns)."""
    dim, hidden = config.dim, config.hidden
    layer = {
        "attention_norm": (1, dim),
        "q": (config.q_width, dim),
        "k": (config.kv_width, dim),
        "v": (config.kv_width, dim),
        "o": (dim, config.q_width),
        "ffn_norm": (1, dim),
        "gate": (hidden, dim),
        "up": (hidden, dim),
        "down": (dim, hidden),
    }
    if config.qkv_bias:
        layer |= {"q_bias": (1, config.q_width), "k_bias": (1, config.kv_width), "v_bias": (1, config.kv_width)}
    shapes = {EMBEDDING: (config.vocab, dim), FINAL_NORM: (1, dim)}
    if not config.tied:
        shapes[HEAD] = (config.vocab, dim)
    return shapes | {layer_name(index, name): shape for index in range(config.layers) for name, shape in layer.items()}


@dataclass(frozen=True)
class Weights:
    """A model's config and tensors.

    Raises
    ------
    ArtifactError
        A tensor is missing or has the wrong shape; the message names it as the file does.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, Stored]

    def __post_init__(self) -> None:
        expected = expected_shapes(self.config)
        for name, shape in expected.items():
            if name not in self.tensors:
                raise ArtifactError(f"llm.load: {self.path} has no tensor for {name}, which its config calls for")
            stored = self.tensors[name]
            if stored.shape != shape:
                raise ArtifactError(
                    f"llm.load: tensor {stored.source!r} in {self.path} has shape {stored.shape}; the config calls for "
                    f"{shape}"
                )
            wanted = (shape[0], stored.encoding.row_bytes(shape[1]))
            if shape[1] % stored.encoding.block or stored.data.shape != wanted:
                raise ArtifactError(
                    f"llm.load: tensor {stored.source!r} in {self.path} has rows of {shape[1]} values, which "
                    f"{stored.encoding.name} writes in blocks of {stored.encoding.block}"
                )

    def __getitem__(self, name: str) -> Stored:
        return self.tensors[name]

    def of_layer(self, layer: int, name: str) -> Stored:
        return self.tensors[layer_name(layer, name)]

    @property
    def head(self) -> Stored:
        return self.tensors[EMBEDDING if self.config.tied else HEAD]


def as_pairs(tensors: dict[str, Stored], config: ModelConfig) -> dict[str, Stored]:
    """The same tensors, with q and k (and their biases) marked as rotary pairs side by side."""

    def mark(name: str, stored: Stored) -> Stored:
        kind = name.rpartition(".")[2]
        return replace(stored, pairs=config.head_dim) if kind in ("q", "k", "q_bias", "k_bias") else stored

    return {name: mark(name, stored) for name, stored in tensors.items()}


def check_disjoint(path: Path, spans: Iterable[tuple[int, int, str]]) -> None:
    """Raise when two tensors of a file share a byte. ``spans`` are (first byte, past the last, name)."""
    ordered = sorted(spans)
    for (_, end, name), (begin, _, following) in pairwise(ordered):
        if begin < end:
            raise ArtifactError(f"llm.load: tensors {name!r} and {following!r} overlap in {path}; the file is damaged")
