"""From a .ekllm file to a decoder: everything is checked, and the packed weights stay where they are mapped."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import _core, files
from edgekern.errors import ArgumentValueError
from edgekern.llm import vocabulary
from edgekern.llm.budget import matrix_shapes, sizes_of
from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.encodings import BF16, F16, F32, Q4_0, Q8_0
from edgekern.llm.packed_file import MATRICES, Blobs, blob_names
from edgekern.llm.packing import GROUPS, WeightFormat, weight_kind
from edgekern.llm.tokenizer import Tokenizer

CODES = {F32: 0, F16: 1, BF16: 2, Q8_0: 3, Q4_0: 4}
# Bits and map of panels: 0 symmetric, 1 with zero points, 2 ternary.
_MAPS = ((8, 0), (4, 0), (4, 1), (2, 2))
_ENCODINGS = {encoding.name: encoding for encoding in CODES}


def is_packed(path: Path) -> bool:
    """Whether a regular file begins as a .ekllm does."""
    if path.is_dir():
        return False
    with files.open_regular(path, function="llm.load") as opened:
        return opened.read(64)[8:].startswith(b'{"__metadata__":{"ekllm.')


class MappedModel:
    """A file whose header has passed every check.

    Raises
    ------
    ArtifactError
        It is damaged, of another version, or not what its config calls for.
    """

    def __init__(self, path: Path, *, verified: bool = True) -> None:
        self._blobs, self._verified = Blobs(path), verified
        model = self._blobs.model
        self.config = self._config(model.get("config"))
        self.form = self._form(model)
        names = self._blobs.names() - {"digest"}
        self._has_tokenizer = "tokenizer" in names
        expected = set(blob_names(self.config, tokenizer=self._has_tokenizer))
        if names != expected:
            odd = sorted(names ^ expected)[0]
            raise self._blobs.damaged(f"blob {odd!r} is {'not called for' if odd in names else 'absent'}")
        stored = model.get("embedding")
        if not isinstance(stored, str) or stored not in _ENCODINGS:
            raise self._blobs.damaged(f"its embedding is stored as {stored!r}")
        self._embedding = _ENCODINGS[stored]
        if self.config.dim % self._embedding.block:
            raise self._blobs.damaged(f"its embedding has rows of {self.config.dim} values as {self._embedding.name}")

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer inside, or None."""
        if not self._has_tokenizer:
            return None
        text = self._blobs.take("tokenizer").tobytes().rstrip(b"\0")
        return vocabulary.restore(self._blobs.path, text, self.config.vocab)

    @property
    def panel_bytes(self) -> int:
        """Of all matrices: what a step reads where it is mapped."""
        names = [f"layers.{layer}.{name}" for layer in range(self.config.layers) for name in MATRICES]
        return sum(self._blobs.take(name, verified=False).size for name in (*names, "head"))

    def decoder(self, *, max_chunk: int, isa: str) -> _core.Decoder:
        """The core of a decoder on the mapped weights."""
        config, blobs = self.config, self._blobs
        layers = []
        for layer in range(config.layers):
            prefix = f"layers.{layer}."
            qkv, o, gate_up, down = (self._matrix(f"{prefix}{name}", name) for name in MATRICES)
            bias = blobs.floats(f"{prefix}qkv.bias", config.q_width + 2 * config.kv_width) if config.qkv_bias else None
            norms = [blobs.floats(f"{prefix}{name}", config.dim) for name in ("attention_norm", "ffn_norm")]
            layers.append((norms[0], qkv, bias, o, norms[1], gate_up, down))
        row = self._embedding.row_bytes(config.dim)
        table = blobs.take("embedding", config.vocab * row, verified=self._verified).reshape(config.vocab, row)
        return _core.Decoder(
            **sizes_of(config),
            eps=config.eps,
            rope_magnitude=config.rope_attention,
            rope_phases=list(config.rope_phases()),
            max_rows=max_chunk,
            embedding=table,
            embedding_code=CODES[self._embedding],
            layer_weights=layers,
            final_norm=blobs.floats("final_norm", config.dim),
            head=self._matrix("head", "head"),
            isa=isa,
        )

    def _matrix(self, name: str, kind: str) -> _core.PackedWeights:
        blobs = self._blobs
        rows, columns = matrix_shapes(self.config)[kind]
        given = blobs.matrices.get(name)
        if not isinstance(given, list) or len(given) != 3 or not all(type(value) is int for value in given):
            raise blobs.damaged(f"matrix {name!r} is {given!r}")
        bits, group, layout = given
        if (bits, layout) not in _MAPS or group not in GROUPS.get(f"int{bits}", (0,)):
            raise blobs.damaged(f"matrix {name!r} has {bits!r} bits, groups of {group!r} and map {layout!r}")
        scale = blobs.floats(f"{name}.scale", -(-rows // 16) * 16 if bits == 8 else 1)
        panels = blobs.take(name, verified=self._verified)
        try:
            return _core.map_packed(
                columns,
                rows,
                group,
                layout,
                1.0 if bits == 8 else float(scale[0]),
                panels,
                scale if bits == 8 else np.empty(0, np.float32),
                self._verified,
            )
        except ValueError as error:
            raise blobs.damaged(f"matrix {name!r}: {error}") from error

    def _form(self, model: dict[str, Any]) -> WeightFormat:
        try:
            return WeightFormat(weight_kind(str(model.get("weights"))), model.get("group_size"))
        except ArgumentValueError as error:
            raise self._blobs.damaged(str(error)) from error

    def _config(self, given: object) -> ModelConfig:
        try:
            values = self._typed(ModelConfig, given)
            scaling = self._typed(RopeScaling, values["rope"])
            factors = scaling["factors"]
            if not isinstance(factors, list) or not all(type(factor) is float for factor in factors):
                raise self._blobs.damaged("its rope has factors that are no numbers")
            return ModelConfig(**{**values, "rope": RopeScaling(**{**scaling, "factors": tuple(factors)})})
        except ArgumentValueError as error:
            raise self._blobs.damaged(f"its config is impossible: {error}") from error

    def _typed(self, kind: type[Any], given: object) -> dict[str, Any]:
        """The fields of a dataclass, each of its type."""
        names = {field.name: field.type for field in fields(kind)}
        if not isinstance(given, dict) or set(given) != set(names):
            raise self._blobs.damaged(f"its {kind.__name__} has not the fields of one")
        types = {"int": int, "float": float, "bool": bool}
        for name, annotation in names.items():
            value, wanted = given[name], types.get(str(annotation).removesuffix(" | None"))
            absent = value is None and str(annotation).endswith("None")
            if wanted is not None and not absent and type(value) is not wanted:
                raise self._blobs.damaged(f"{name} of its {kind.__name__} is {value!r}")
        if kind is RopeScaling and given["kind"] not in ("none", "linear", "llama3", "yarn", "factors"):
            raise self._blobs.damaged(f"its rope is of kind {given['kind']!r}")
        return given
