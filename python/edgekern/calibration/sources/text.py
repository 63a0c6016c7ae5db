"""Texts through a tokenizer, a line a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import files
from edgekern._arguments import integer
from edgekern._extras import install
from edgekern.calibration.sources.base import Array, Feeds, Input, optional
from edgekern.errors import ArgumentValueError

_MAX_BYTES = 1 << 30
_FIELDS = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}
DEFAULT_LENGTH = 128


class Texts:
    """Token ids of each line, cut at ``max_length``; a feed is filled up to its longest text, or to ``max_length``.

    Parameters
    ----------
    paths : text files, UTF-8; empty lines are no samples
    inputs : of the model: input_ids, and attention_mask and token_type_ids where it has them
    tokenizer : a tokenizer.json, for the package tokenizers
    max_length : tokens; None is what the model takes, 128 where that is free
    padding : "longest" of a feed, or "max_length"; None is "max_length" where the model's length is fixed
    """

    labels: Array | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        inputs: Sequence[Input],
        *,
        tokenizer: str | Path | None = None,
        max_length: int | None = None,
        padding: str | None = None,
    ) -> None:
        if tokenizer is None:
            raise ArgumentValueError("samples: texts need the model's tokenizer.json; give tokenizer (--tokenizer)")
        for given in inputs:
            if given.name not in _FIELDS:
                raise ArgumentValueError(
                    f"samples: texts give {sorted(_FIELDS)}, but the model has the input {given.name!r}; write .npz"
                )
        if padding not in (None, "longest", "max_length"):
            raise ArgumentValueError(f"samples: padding must be 'longest' or 'max_length', got {padding!r}")
        if max_length is not None and integer("samples", "max_length", max_length) < 1:
            raise ArgumentValueError(f"samples: max_length must be at least 1, got {max_length}")
        sizes = {i.shape[1] for i in inputs if len(i.shape) == 2 and isinstance(i.shape[1], int)}
        fixed = int(next(iter(sizes))) if len(sizes) == 1 else None
        self._length = max_length or fixed or DEFAULT_LENGTH
        if fixed is not None and self._length != fixed:
            raise ArgumentValueError(f"samples: max_length is {max_length}, but the model takes {fixed} tokens")
        self._full = padding == "max_length" or (padding is None and fixed is not None)
        self._inputs, self._path = list(inputs), Path(tokenizer)
        self._lines = [line for path in paths for line in _lines(path)]
        if not self._lines:
            raise ArgumentValueError(f"samples: {', '.join(map(str, paths))} holds no text")
        self._open()

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        padding = "max_length" if self._full else "longest"
        return {"kind": "text", "tokenizer": self._path.name, "max_length": self._length, "padding": padding}

    def __len__(self) -> int:
        return len(self._lines)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, number: int) -> Feeds:
        encoded = self._tokenizer.encode(self._lines[number])
        return {i.name: np.array(getattr(encoded, _FIELDS[i.name]), i.dtype or np.int64) for i in self._inputs}

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        longest = self._length if self._full else max(len(next(iter(row.values()))) for row in rows)
        feeds = {}
        for given in self._inputs:
            first = rows[0][given.name]
            filled = np.full((len(rows), longest), self._pad if given.name == "input_ids" else 0, first.dtype)
            for at, row in enumerate(rows):
                filled[at, : len(row[given.name])] = row[given.name]
            feeds[given.name] = filled
        return feeds

    def _open(self) -> None:
        tokenizers = optional("tokenizers", "texts", f"install it with: {install('toolkit')}")
        text = files.read_bytes(self._path, function="samples", limit=_MAX_BYTES)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(text)
        except Exception as error:  # the package raises Exception itself
            raise ArgumentValueError(f"samples: {self._path} is no tokenizer.json: {error}") from error
        self._pad = (self._tokenizer.padding or {}).get("pad_id", 0)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._length)


def _lines(path: Path) -> list[str]:
    try:
        text = files.read_bytes(path, function="samples", limit=_MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ArgumentValueError(f"samples: {path} is not UTF-8: {error}") from error
    return [line for line in text.splitlines() if line.strip()]
