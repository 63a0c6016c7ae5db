"""Tokenizers that the ``tokenizers`` package runs: tokenizer.json, and the merges of a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgekern.errors import ArtifactError

# How the text is cut before merging, by GGUF's name for it.
_DIGITS = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


class BpeTokenizer:
    """A tokenizer of the ``tokenizers`` package, with the ids that begin and end a text."""

    def __init__(
        self, backend: Backend, vocab: int, *, bos: int | None, stops: frozenset[int], processed: bool = False
    ) -> None:
        self.vocab, self.bos, self.stops = vocab, bos, stops
        self._backend, self._processed = backend, processed

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text; with ``bos`` after what the tokenizer puts before one."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=bos and self._processed).ids
        return [self.bos, *ids] if bos and self.bos is not None and not self._processed else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text


def load_tokenizer_json(path: Path, vocab: int, *, stops: frozenset[int]) -> BpeTokenizer:
    """Read a tokenizer.json. Raises ArtifactError when it is none, or has ids that the model lacks."""
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise ArtifactError(f"tokenizer: {path} cannot be read: {error}") from error
    if backend.get_vocab_size() > vocab:
        raise ArtifactError(f"tokenizer: {path} has {backend.get_vocab_size()} tokens; the model has {vocab}")
    return BpeTokenizer(backend, vocab, bos=None, stops=stops, processed=True)


def merges_tokenizer(
    path: Path,
    tokens: Sequence[str],
    merges: Sequence[str],
    special: Sequence[int],
    pre: str,
    *,
    bos: int | None,
    stops: frozenset[int],
) -> BpeTokenizer:
    """Byte-level BPE from tokens and merges, as GGUF carries them."""
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens) or any(not second or " " in second for _, second in pairs):
        raise ArtifactError(f"tokenizer: {path} has repeated tokens or merges that are no pairs; damaged")
    try:
        backend = Backend(models.BPE(vocab=ids, merges=pairs, fuse_unk=False))
    except Exception as error:  # the package raises plain Exception
        raise ArtifactError(f"tokenizer: {path} has merges that its tokens lack: {error}") from error
    if pre in ("default", "gpt-2", ""):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre in _DIGITS:
        cut = pre_tokenizers.Split(Regex(_WORDS.format(digits=_DIGITS[pre])), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        known = ", ".join(["default", "gpt-2", *_DIGITS])
        raise ArtifactError(f"tokenizer: {path} cuts text by {pre!r}; {known} are known. Pass tokenizer=tokenizer.json")
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(tokens[index], special=True) for index in special])
    return BpeTokenizer(backend, len(tokens), bos=bos, stops=stops)
