"""Text to token ids and back: what every tokenizer offers, and how tokens become text while they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """Ids run from 0 to ``vocab - 1``; ``stops`` end a text."""

    vocab: int
    bos: int | None
    stops: frozenset[int]

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text, after the id that begins one where the model wants it and ``bos`` is true."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; ids that begin or end a text give none."""
        ...


class TextStream:
    """Text of tokens as they come: a character that several tokens write appears with the last of them."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-4:])  # what a token means may depend on the few before it
        self._shown = tokenizer.decode(self._ids)

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(REPLACEMENT) and len(self._ids) < 32:
            return ""
        new = text[len(self._shown) :]
        self._ids = self._ids[-4:]
        self._shown = self._tokenizer.decode(self._ids)
        return new

    def finish(self) -> str:
        """What was held back for a character that never became whole."""
        return self._tokenizer.decode(self._ids)[len(self._shown) :]
