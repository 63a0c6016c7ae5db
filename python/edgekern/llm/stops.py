"""Where a text ends: at a token, or where its text holds a string."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgekern._arguments import integer
from edgekern._arrays import lent
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.llm.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class Stops:
    """What ends a text: token ids, and strings, which need a tokenizer to be seen."""

    ids: frozenset[int]
    strings: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    @staticmethod
    def of(stop: object, tokenizer: Tokenizer | None) -> Stops:
        """From what a caller gave; None is the tokenizer's own."""
        if stop is None:
            return Stops(tokenizer.stops if tokenizer is not None else frozenset())
        stop = lent("generate", "stop", stop)
        given = [stop] if isinstance(stop, (str, int)) else stop
        if hasattr(given, "tolist"):
            given = given.tolist()
        if isinstance(given, (bytes, dict)) or not isinstance(given, Collection):
            raise ArgumentTypeError(
                f"generate: stop must hold token ids and strings, such as [2, '.'], got {type(stop).__name__} {stop!r}"
            )
        strings = tuple(one for one in given if isinstance(one, str))
        if "" in strings:
            raise ArgumentValueError("generate: stop has an empty string, which every text holds")
        if strings and tokenizer is None:
            raise ArgumentValueError(
                f"generate: stop has the string {strings[0]!r}, but the model has no tokenizer to see it with; load it "
                "with tokenizer=path, or pass token ids"
            )
        ids = [_token(one) for one in given if not isinstance(one, str)]
        return Stops(frozenset(ids), strings, tokenizer)

    def watch(self, prompt: Sequence[int]) -> Watch:
        """For one text that begins after ``prompt``."""
        return Watch(self, prompt)


def _token(given: object) -> int:
    if isinstance(given, bool):
        raise ArgumentTypeError(f"generate: stop must hold token ids and strings, got {given!r}")
    return integer("generate", "a token of stop", given)


class Watch:
    """Gives tokens on as soon as no string can begin in them any more."""

    def __init__(self, stops: Stops, prompt: Sequence[int]) -> None:
        self._stops = stops
        self._stream = TextStream(stops.tokenizer, prompt) if stops.strings and stops.tokenizer is not None else None
        self._held: list[tuple[int, int]] = []  # a token, and where its text ends in the text held
        self._text = ""

    def push(self, token: int) -> tuple[list[int], bool]:
        """Tokens to give out now, and whether the text has ended with this one."""
        if token in self._stops.ids:
            return self.rest(), True
        if self._stream is None:
            return [token], False
        self._text += self._stream.push(token)
        self._held.append((token, len(self._text)))
        found = [at for at in map(self._text.find, self._stops.strings) if at >= 0]
        if found:
            return self._release(min(found)), True
        return self._release(len(self._text) - self._longest_start()), False

    def rest(self) -> list[int]:
        """Tokens that are still held when no more come."""
        return self._release(len(self._text))

    def _release(self, end: int) -> list[int]:
        """Give out the tokens whose text ends by then, and forget that text."""
        count = sum(at <= end for _, at in self._held)
        out = self._held[:count]
        cut = out[-1][1] if out else 0
        self._held = [(token, at - cut) for token, at in self._held[count:]]
        self._text = self._text[cut:]
        return [token for token, _ in out]

    def _longest_start(self) -> int:
        """Characters at the text's end that may be the beginning of a string."""
        return max(
            (size for stop in self._stops.strings for size in range(1, len(stop)) if self._text.endswith(stop[:size])),
            default=0,
        )
