"""Tokenizers that the ``tokenizers`` package runs: tokenizer.json, and the merges of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgekern import files
from edgekern.errors import ArtifactError

_FILE_BYTES, _TOKEN_BYTES = 1 << 20, 1 << 10  # what a tokenizer.json may take, and for each token with its merge

# How the text is cut before merging, by GGUF's name for it.
_DIGITS = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@contextmanager
def _typed(fact: str, *, callers: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What the package raises as an ArtifactError, but for ``callers``, which are the caller's own mistakes.

    It raises plain Exceptions, and its Rust code panics on files that it did not foresee: a BaseException, whose class
    has a name but no place to be imported from.
    """
    try:
        yield
    except callers:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ArtifactError(f"tokenizer: {fact}: {error}") from error


class BpeTokenizer:
    """A tokenizer of the ``tokenizers`` package, with the ids that begin and end a text."""

    def __init__(
        self,
        backend: Backend,
        vocab: int,
        *,
        source: Path,
        bos: int | None,
        stops: frozenset[int],
        processed: bool = False,
    ) -> None:
        self.vocab, self.bos, self.stops = vocab, bos, stops
        self._backend, self._source, self._processed = backend, source, processed

    def state(self) -> dict[str, Any]:
        """What :func:`restore_bpe` makes the same tokenizer of, for a file of JSON."""
        ends = {"bos": self.bos, "stops": sorted(self.stops), "processed": self._processed}
        return {"kind": "tokenizers", "content": self._backend.to_str(), **ends}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text; with ``bos`` after what the tokenizer puts before one."""
        with _typed(f"{self._source} cannot read this text", callers=(TypeError, ValueError)):
            ids: list[int] = self._backend.encode(text, add_special_tokens=bos and self._processed).ids
        return [self.bos, *ids] if bos and self.bos is not None and not self._processed else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        with _typed(f"{self._source} cannot write these ids", callers=(TypeError, ValueError, OverflowError)):
            text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text


def load_tokenizer_json(path: Path, vocab: int, *, stops: frozenset[int]) -> BpeTokenizer:
    """Read a tokenizer.json. Raises ArtifactError when it is none, or has ids that the model lacks."""
    content = files.read_bytes(path, function="tokenizer", limit=_FILE_BYTES + vocab * _TOKEN_BYTES)
    with _typed(f"{path} cannot be read"):
        backend = Backend.from_buffer(content)
    if backend.get_vocab_size() > vocab:
        raise ArtifactError(f"tokenizer: {path} has {backend.get_vocab_size()} tokens; the model has {vocab}")
    return BpeTokenizer(backend, vocab, source=path, bos=None, stops=stops, processed=True)


def restore_bpe(
    source: Path, content: str, vocab: int, *, bos: int | None, stops: frozenset[int], processed: bool
) -> BpeTokenizer:
    """The tokenizer of a state. Raises ArtifactError when there is none in it, or it has ids that the model lacks."""
    with _typed(f"{source} cannot be read"):
        backend = Backend.from_str(content)
    if backend.get_vocab_size() > vocab:
        raise ArtifactError(f"tokenizer: {source} has {backend.get_vocab_size()} tokens; the model has {vocab}")
    return BpeTokenizer(backend, vocab, source=source, bos=bos, stops=stops, processed=processed)


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
    with _typed(f"{path} has merges that its tokens lack"):
        backend = Backend(models.BPE(vocab=ids, merges=pairs, fuse_unk=False))
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
    with _typed(f"{path} has special tokens that cannot be added"):
        backend.add_special_tokens([AddedToken(tokens[index], special=True) for index in special])
    return BpeTokenizer(backend, len(tokens), source=path, bos=bos, stops=stops)
