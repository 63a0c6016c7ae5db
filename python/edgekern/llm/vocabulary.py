"""Which tokenizer belongs to a model file: one that was named, the one inside it, or the one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgekern import files
from edgekern.errors import ArtifactError
from edgekern.file_kinds import naming_kind
from edgekern.llm.gguf import GgufFile, Metadata
from edgekern.llm.safetensors import read_json
from edgekern.llm.spm import SpmTokenizer, load_tokenizer_bin
from edgekern.llm.tokenizer import Tokenizer

_NORMAL, _CONTROL, _USER = 1, 3, 4  # token types of a GGUF vocabulary
_META_SPACE = "\N{LOWER ONE EIGHTH BLOCK}".encode()


def _array(m: Metadata, key: str, length: int) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = m.get(key, np.ndarray)
    if len(values) != length:
        raise ArtifactError(f"tokenizer: {m.path} has {len(values)} values under {key!r} for {length} tokens")
    return values


def _strings(m: Metadata, key: str) -> list[str]:
    try:
        return [raw.decode() for raw in m.get(key, list)]
    except UnicodeDecodeError as error:
        raise ArtifactError(f"tokenizer: {m.path} has a string under {key!r} that is not UTF-8") from error


def _known(m: Metadata, key: str, vocab: int) -> int | None:
    token = m.number(key, -1)
    if token >= vocab:
        raise ArtifactError(f"tokenizer: {key!r} of {m.path} is {token}; there are {vocab} tokens")
    return token if token >= 0 else None


def gguf_tokenizer(file: GgufFile, vocab: int) -> Tokenizer | None:
    """The vocabulary inside a GGUF file, or None when it has none.

    Raises
    ------
    ArtifactError
        It has not the model's size, is damaged, or of a kind that is not implemented.
    """
    m = file.metadata
    kind = m.get("tokenizer.ggml.model", str, "none")
    if kind in ("none", "no_vocab"):
        return None
    pieces: list[bytes] = m.get("tokenizer.ggml.tokens", list)
    if len(pieces) != vocab:
        raise ArtifactError(f"tokenizer: {m.path} has {len(pieces)} tokens; the model has {vocab}")
    types = _array(m, "tokenizer.ggml.token_type", vocab)
    hidden = frozenset(np.flatnonzero(types == _CONTROL).tolist())
    bos = _known(m, "tokenizer.ggml.bos_token_id", vocab)
    ends = (_known(m, f"tokenizer.ggml.{name}_token_id", vocab) for name in ("eos", "eot"))
    stops = frozenset(end for end in ends if end is not None)
    begins = bos if m.get("tokenizer.ggml.add_bos_token", bool, kind == "llama") else None
    if kind == "llama":
        scores = _array(m, "tokenizer.ggml.scores", vocab).astype(np.float64)
        if np.isnan(scores).any():
            raise ArtifactError(f"tokenizer: {m.path} has scores that are no numbers; damaged")
        lead = m.get("tokenizer.ggml.add_space_prefix", bool, True)
        spaced = [piece.replace(_META_SPACE, b" ") for piece in pieces]
        unknown = _known(m, "tokenizer.ggml.unknown_token_id", vocab) or 0
        return SpmTokenizer(
            spaced, scores.tolist(), bos=begins, stops=stops, hidden=hidden, lead_space=lead, unknown=unknown
        )
    if kind != "gpt2":
        raise ArtifactError(
            f"tokenizer: {m.path} has a vocabulary of kind {kind!r}; llama and gpt2 are read. Pass tokenizer="
        )
    from edgekern.llm.bpe import merges_tokenizer

    special = np.flatnonzero((types == _CONTROL) | (types == _USER)).tolist()
    pre = m.get("tokenizer.ggml.pre", str, "default")
    merges = _strings(m, "tokenizer.ggml.merges")
    return merges_tokenizer(m.path, _strings(m, "tokenizer.ggml.tokens"), merges, special, pre, bos=begins, stops=stops)


def folder_stops(folder: Path) -> frozenset[int]:
    """The ids that end a text: eos_token_id of generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            given = read_json(folder / name).get("eos_token_id")
            ids = given if isinstance(given, list) else [given]
            if all(type(token) is int for token in ids):
                return frozenset(ids)
    return frozenset()


def file_tokenizer(path: Path, vocab: int, *, stops: frozenset[int] = frozenset()) -> Tokenizer:
    """Read a tokenizer.json, or a tokenizer.bin of llama2.c. Raises ArtifactError, OSError."""
    with naming_kind(path, "a tokenizer.json or tokenizer.bin", "tokenizer"):
        return _read_tokenizer(path, vocab, stops)


def _read_tokenizer(path: Path, vocab: int, stops: frozenset[int]) -> Tokenizer:
    if path.suffix == ".json":
        from edgekern.llm.bpe import load_tokenizer_json

        return load_tokenizer_json(path, vocab, stops=stops)
    return load_tokenizer_bin(path, vocab)


def restore(source: Path, text: bytes, vocab: int) -> Tokenizer:
    """The tokenizer of a ``state`` as JSON. Raises ArtifactError when it is none, or not of a model of this size."""

    def fail(fact: str) -> NoReturn:
        raise ArtifactError(f"tokenizer: the one inside {source} is damaged: {fact}")

    try:
        state = files.parse_json(text, most_values=4 * vocab + 1024)
    except (ValueError, RecursionError) as error:
        fail(str(error))
    if not isinstance(state, dict):
        fail("it is no JSON object")

    def ids(key: str) -> frozenset[int]:
        given = state.get(key)
        if not isinstance(given, list) or not all(type(one) is int and 0 <= one < vocab for one in given):
            fail(f"{key} are no ids of {vocab} tokens")
        return frozenset(given)

    bos, stops = state.get("bos"), ids("stops")
    if bos is not None and (type(bos) is not int or not 0 <= bos < vocab):
        fail(f"bos is {bos!r}")
    if state.get("kind") == "tokenizers":
        from edgekern.llm.bpe import restore_bpe

        content, processed = state.get("content"), state.get("processed")
        if not isinstance(content, str) or type(processed) is not bool:
            fail("it lacks its content")
        return restore_bpe(source, content, vocab, bos=bos, stops=stops, processed=processed)
    pieces, scores, unknown, lead = (state.get(key) for key in ("pieces", "scores", "unknown", "lead_space"))
    if state.get("kind") != "spm" or not isinstance(pieces, list) or not isinstance(scores, list):
        fail(f"it is of kind {state.get('kind')!r}")
    sound = len(pieces) == len(scores) <= vocab and all(type(score) is float for score in scores)
    if not sound or not all(type(piece) is str and all(ord(c) < 256 for c in piece) for piece in pieces):
        fail("its pieces and scores are no pieces and scores")
    if type(unknown) is not int or not 0 <= unknown < len(pieces) or type(lead) is not bool:
        fail(f"unknown is {unknown!r} and lead_space {lead!r}")
    return SpmTokenizer(
        [piece.encode("latin-1") for piece in pieces],
        scores,
        bos=bos,
        stops=stops,
        hidden=ids("hidden"),
        lead_space=lead,
        unknown=unknown,
    )
