"""Hugging Face folders: config.json and one or several .safetensors files, checked before they are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgekern import files
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.file_kinds import JSON_KINDS, naming_kind
from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.encodings import BF16, F16, F32
from edgekern.llm.weights import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Stored,
    Weights,
    check_disjoint,
    expected_shapes,
    layer_name,
)

_T = TypeVar("_T")
_ENCODINGS = {"F32": F32, "F16": F16, "BF16": BF16}
# What a config may take, and what a list of tensors may: a little, and so much for each that the config calls for.
_CONFIG_BYTES, _CONFIG_VALUES = 1 << 20, 1 << 16
_TENSOR_BYTES, _TENSOR_VALUES = 512, 16
_TOP = {"model.embed_tokens.weight": EMBEDDING, "model.norm.weight": FINAL_NORM, "lm_head.weight": HEAD}
_IN_LAYER = {
    "input_layernorm.weight": "attention_norm",
    "self_attn.q_proj.weight": "q",
    "self_attn.k_proj.weight": "k",
    "self_attn.v_proj.weight": "v",
    "self_attn.q_proj.bias": "q_bias",
    "self_attn.k_proj.bias": "k_bias",
    "self_attn.v_proj.bias": "v_bias",
    "self_attn.o_proj.weight": "o",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
}
_FAMILIES = ("llama", "mistral", "qwen2")


def read_json(path: Path, *, tensors: int = 0) -> dict[str, Any]:
    """The JSON object in a file that names so many tensors; an ArtifactError when it is none, a key comes twice, or it
    is larger than such a file can be."""
    limit = _CONFIG_BYTES + tensors * _TENSOR_BYTES
    with naming_kind(path, "a JSON file", *JSON_KINDS):
        return _object(path, files.read_bytes(path, function="llm.load", limit=limit), tensors)


def _object(path: Path, text: bytes, tensors: int) -> dict[str, Any]:
    """The JSON object in a text that names so many tensors; what it may hold is counted before it is parsed."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    try:
        most = _CONFIG_VALUES + tensors * _TENSOR_VALUES
        loaded = files.parse_json(text, most_values=most, pairs=unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"llm.load: {path} is no valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ArtifactError(f"llm.load: {path} holds no JSON object")
    return loaded


def field(path: Path, values: Mapping[str, Any], key: str, kind: type[_T], default: _T | None = None) -> _T:
    """A value of a JSON object as ``kind``; null counts as absent, and without a default it must be there."""
    value = values.get(key)
    if value is None:
        if default is None:
            raise ArtifactError(f"llm.load: {path} lacks {key!r}")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 62 else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArtifactError(f"llm.load: {key!r} in {path} must be a {kind.__name__}, got {value!r}")
    return value


def _scaling(path: Path, given: Mapping[str, Any]) -> RopeScaling:
    kind = field(path, given, "rope_type", str, field(path, given, "type", str, "default"))
    if kind == "default":
        return RopeScaling()
    if kind == "dynamic":
        raise ArtifactError(
            f"llm.load: {path} asks for dynamic NTK scaling, which turns stored keys by other angles as it grows; "
            "it is not implemented. Use linear, llama3 or yarn scaling"
        )
    if kind not in ("linear", "llama3", "yarn"):
        raise ArtifactError(f"llm.load: {path} asks for RoPE scaling {kind!r}; linear, llama3 and yarn are implemented")
    factor = field(path, given, "factor", float)
    if kind == "linear":
        return RopeScaling("linear", factor)
    original = field(path, given, "original_max_position_embeddings", int)
    if kind == "llama3":
        low, high = field(path, given, "low_freq_factor", float), field(path, given, "high_freq_factor", float)
        return RopeScaling("llama3", factor, original, low, high)
    if given.get("mscale") is not None or given.get("mscale_all_dim") is not None:
        raise ArtifactError(f"llm.load: {path} asks for yarn with mscale, which is not implemented")
    sharper = given.get("attention_factor")
    return RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=field(path, given, "beta_fast", float, 32.0),
        beta_slow=field(path, given, "beta_slow", float, 1.0),
        attention=None if sharper is None else field(path, given, "attention_factor", float),
    )


def _rope(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All that a config says of rotary positions, in one place: writers put it into ``rope_parameters``, into
    ``rope_scaling`` or beside them, and null where it says nothing."""
    said: dict[str, Any] = {}
    beside = {"rope_theta": given.get("rope_theta"), "partial_rotary_factor": given.get("partial_rotary_factor")}
    for part in (*(field(path, given, key, dict, {}) for key in ("rope_parameters", "rope_scaling")), beside):
        for key, value in part.items():
            if value is None:
                continue
            if isinstance(value, dict):
                raise ArtifactError(
                    f"llm.load: {path} has rotary positions of their own for {key!r} layers, which is not implemented"
                )
            if said.setdefault(key, value) != value:
                raise ArtifactError(f"llm.load: {path} has {key} = {said[key]!r} and {value!r}; one is expected")
    if said.get("partial_rotary_factor", 1) != 1 or said.get("truncate", True) is not True:
        raise ArtifactError(
            f"llm.load: {path} rotates a part of each head, or has yarn without truncation, which is not implemented"
        )
    return said


def _require_same_layers(path: Path, given: Mapping[str, Any]) -> None:
    kinds = set(map(str, field(path, given, "layer_types", list, [])))
    if len(kinds) > 1 or not kinds <= {"full_attention", "sliding_attention"}:
        raise ArtifactError(f"llm.load: {path} has layers of the types {sorted(kinds)}, which is not implemented")


def _window(path: Path, given: Mapping[str, Any], family: str) -> int | None:
    used = field(path, given, "use_sliding_window", bool, family != "qwen2")
    if family == "qwen2" and used:
        raise ArtifactError(f"llm.load: {path} slides the window in some layers only, which is not implemented")
    if not used or given.get("sliding_window") is None:
        return None
    return field(path, given, "sliding_window", int)


def read_config(path: Path) -> ModelConfig:
    """The config of a Hugging Face model. Raises ArtifactError where it is none of the LLaMA family's."""
    given = read_json(path)
    family = field(path, given, "model_type", str)
    if family not in _FAMILIES:
        raise ArtifactError(f"llm.load: {path} is a {family!r}; implemented are {', '.join(_FAMILIES)}")
    refused: dict[str, tuple[object, ...]] = {
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "hidden_act": ("silu", None),
    }
    refused |= {"quantization_config": (None,)}
    for key, allowed in refused.items():
        if given.get(key) not in allowed:
            raise ArtifactError(f"llm.load: {path} has {key} = {given[key]!r}, which is not implemented")
    dim, heads = field(path, given, "hidden_size", int), field(path, given, "num_attention_heads", int)
    context = field(path, given, "max_position_embeddings", int)
    rope = _rope(path, given)
    _require_same_layers(path, given)
    try:
        return ModelConfig(
            dim=dim,
            hidden=field(path, given, "intermediate_size", int),
            layers=field(path, given, "num_hidden_layers", int),
            heads=heads,
            kv_heads=field(path, given, "num_key_value_heads", int, heads),
            head_dim=field(path, given, "head_dim", int, dim // max(1, heads)),
            vocab=field(path, given, "vocab_size", int),
            context=context,
            eps=field(path, given, "rms_norm_eps", float),
            rope_base=field(path, rope, "rope_theta", float, 10000.0),
            rope=_scaling(path, {"original_max_position_embeddings": context, **rope}),
            tied=field(path, given, "tie_word_embeddings", bool, False),
            qkv_bias=family == "qwen2",
            window=_window(path, given, family),
        )
    except ArgumentValueError as error:
        raise ArtifactError(f"llm.load: {path} is impossible: {error}") from error


def read_safetensors(path: Path, *, tensors: int) -> dict[str, Stored]:
    """Map a .safetensors file of a model with so many tensors. Raises ArtifactError when its header does not describe
    its bytes exactly."""
    with naming_kind(path, "a safetensors file", "safetensors"):
        return _read_tensors(path, tensors)


def _read_tensors(path: Path, tensors: int) -> dict[str, Stored]:
    data = files.map_file(path, function="llm.load")
    length = int.from_bytes(data[:8].tobytes(), "little") if data.size >= 8 else -1
    most = _CONFIG_BYTES + tensors * _TENSOR_BYTES
    if not 2 <= length <= min(most, data.size - 8):
        raise ArtifactError(
            f"llm.load: {path} is no safetensors file of this model: its header would have {length} bytes of "
            f"{data.size}, and {tensors} tensors need {most} at most"
        )
    start, size = 8 + length, data.size - 8 - length
    found: dict[str, Stored] = {}
    spans = []
    for name, entry in _object(path, data[8:start].tobytes(), tensors).items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            raise ArtifactError(f"llm.load: the entry of tensor {name!r} in {path} is no object")
        dtype = field(path, entry, "dtype", str)
        shape, offsets = field(path, entry, "shape", list), field(path, entry, "data_offsets", list)
        if dtype not in _ENCODINGS:
            raise ArtifactError(f"llm.load: tensor {name!r} in {path} is {dtype}; F32, F16 and BF16 are read")
        whole = all(type(number) is int and 0 <= number < 1 << 40 for number in shape + offsets)
        if not whole or len(offsets) != 2 or not 1 <= len(shape) <= 2 or 0 in shape:
            raise ArtifactError(f"llm.load: tensor {name!r} in {path} has shape {shape} and offsets {offsets}")
        rows, columns = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
        encoding = _ENCODINGS[dtype]
        row_bytes = encoding.row_bytes(columns)
        first, end = offsets
        if end - first != rows * row_bytes or end > size:
            raise ArtifactError(
                f"llm.load: tensor {name!r} in {path} lies at {first} to {end} of {size} bytes; its shape {shape} of "
                f"{dtype} needs {rows * row_bytes}"
            )
        spans.append((first, end, name))
        found[name] = Stored(name, (rows, columns), encoding, data[start + first : start + end].reshape(rows, -1))
    check_disjoint(path, spans)
    return found


def _files(folder: Path, tensors: int) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    names = field(index, read_json(index, tensors=tensors), "weight_map", dict).values()
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ArtifactError(
                f"llm.load: {index} names the file {name!r}; a plain name in its own folder is expected"
            )
    return [folder / name for name in sorted(set(names))]


def load_huggingface(folder: Path) -> Weights:
    """The model in a folder with config.json and model.safetensors, or several files with an index.

    Raises
    ------
    ArtifactError
        A file is damaged, a tensor is missing, unknown or of another shape, or the model is of another family.
    OSError
        A file is absent.
    """
    config = read_config(folder / "config.json")
    known = expected_shapes(config).keys()
    found: dict[str, Stored] = {}
    for path in _files(folder, len(known)):
        for name, stored in read_safetensors(path, tensors=len(known)).items():
            if name in found:
                raise ArtifactError(f"llm.load: tensor {name!r} comes twice in {folder}")
            found[name] = stored
    if config.tied:
        found.pop("lm_head.weight", None)  # some writers keep a copy
    tensors: dict[str, Stored] = {}
    for name, stored in found.items():
        ours = _TOP.get(name)
        layer = re.fullmatch(r"model\.layers\.(\d{1,5})\.(.+)", name)
        if layer and layer[2] in _IN_LAYER:
            ours = layer_name(int(layer[1]), _IN_LAYER[layer[2]])
        if name.endswith("rotary_emb.inv_freq"):  # computed from the config
            continue
        if ours not in known or ours in tensors:
            raise ArtifactError(f"llm.load: {folder} has a tensor {name!r} that its config does not call for")
        tensors[ours] = stored
    return Weights(folder, config, tensors)
