"""QNN's input lists: a line a sample, with a raw file for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekern import files
from edgekern.calibration.sources.base import Array, Feeds, Input, stack
from edgekern.calibration.sources.raw import read_raw
from edgekern.errors import ArgumentValueError

_MAX_BYTES = 1 << 28
_OUTPUTS = ("#", "%")  # such lines name the outputs that the converter is to keep


class InputList:
    """``name:=path`` for each input, or paths in the model's order; relative to the list or the current folder."""

    preprocessing: Mapping[str, Any] | None = None
    labels: Array | None = None

    def __init__(self, path: Path, inputs: Sequence[Input]) -> None:
        self._path, self._inputs = path, list(inputs)
        self._lines = [(at, line) for at, line in _lines(path) if not line.startswith(_OUTPUTS)]
        if not self._lines:
            raise ArgumentValueError(f"samples: {path} has no line with a sample")

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, number: int) -> Feeds:
        at, line = self._lines[number]
        where = f"{self._path}, line {at}"
        named = _named(where, line.split(), [i.name for i in self._inputs])
        return {i.name: read_raw(self._found(where, named[i.name]), i) for i in self._inputs}

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        return stack(rows)

    def _found(self, where: str, name: str) -> Path:
        for path in (self._path.parent / name, Path(name)):
            if path.exists():
                return path
        raise ArgumentValueError(
            f"samples: {where} names {name}, which is neither in {self._path.parent} nor in the current folder"
        )


def is_input_list(path: Path) -> bool:
    """Whether the first line with a sample names a file that is there."""
    try:
        first = next((line for _, line in _lines(path) if not line.startswith(_OUTPUTS)), "")
    except (ArgumentValueError, OSError):
        return False
    names = [part.partition(":=")[2] or part for part in first.split()]
    return any(":=" in part for part in first.split()) or any(
        (folder / name).is_file() for name in names for folder in (path.parent, Path())
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = files.read_bytes(path, function="samples", limit=_MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ArgumentValueError(f"samples: {path} is no text: {error}") from error
    return [(at, line.strip()) for at, line in enumerate(text.splitlines(), 1) if line.strip()]


def _named(where: str, parts: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """The path for each input."""
    if all(":=" not in part for part in parts):
        if len(parts) != len(inputs):
            raise ArgumentValueError(f"samples: {where} has {len(parts)} paths, but the model has inputs {inputs}")
        return dict(zip(inputs, parts, strict=True))
    named = dict(part.partition(":=")[::2] for part in parts)
    for name in named:
        if name not in inputs:
            raise ArgumentValueError(f"samples: {where} names {name!r}, but the model's inputs are {inputs}")
    if missing := [name for name in inputs if name not in named]:
        raise ArgumentValueError(f"samples: {where} has no path for {missing}")
    return named
