"""Raw numbers: a folder of .bin files, one a sample, or one .bin of samples one after another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import files
from edgekern.calibration.sources.base import Array, Feeds, Input, stack
from edgekern.errors import ArgumentValueError

HEADER_FORMAT = "edgekern.samples"
_HEADER_KEYS = {"format", "version", "samples", "inputs", "preprocessing"}
_MAX_HEADER_BYTES = 1 << 20
_MAX_HEADER_VALUES = 1 << 16
_FLOATS = "fV"  # ml_dtypes' bfloat16 is V


def read_raw(path: Path, given: Input) -> Array:
    """One sample of one input: in the input's dtype, or float32 where that is another float.

    Raises
    ------
    ArgumentValueError
        The file has another size; the message says both.
    """
    shape, dtype = given.row_shape(), given.kind
    bytes_of = {prod(shape) * dtype.itemsize: dtype}
    if dtype.kind in _FLOATS:
        bytes_of.setdefault(prod(shape) * 4, np.dtype(np.float32))
    with files.open_regular(path, function="samples") as file:
        size = os.fstat(file.fileno()).st_size
        if size not in bytes_of:
            wanted = " or ".join(f"{count} bytes as {kind}" for count, kind in bytes_of.items())
            raise ArgumentValueError(
                f"samples: {path} has {size} bytes, but a sample of input {given.name!r} with shape {shape} takes "
                f"{wanted}; write it again in that shape, without a header"
            )
        stored = np.frombuffer(file.read(size), bytes_of[size])
    return stored.reshape(shape).astype(dtype, copy=False)


class RawFolder:
    """One .bin a sample; for several inputs, a folder by the name of each, with the same file names in all."""

    preprocessing: Mapping[str, Any] | None = None
    labels: Array | None = None

    def __init__(self, folder: Path, inputs: Sequence[Input]) -> None:
        self._inputs = list(inputs)
        self._folders = {i.name: folder / i.name if len(inputs) > 1 else folder for i in inputs}
        found = {name: {path.name for path in place.glob("*.bin")} for name, place in self._folders.items()}
        first = next(iter(found.values()))
        for name, names in found.items():
            if different := names ^ first:
                raise ArgumentValueError(
                    f"samples: {self._folders[name]} and the folders of the other inputs hold different files; "
                    f"{min(different)} is in one of them only"
                )
        if not first:
            raise ArgumentValueError(f"samples: {next(iter(self._folders.values()))} holds no .bin file")
        self._names = sorted(first)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> Feeds:
        name = self._names[number]
        return {i.name: read_raw(self._folders[i.name] / name, i) for i in self._inputs}

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        return stack(rows)


class CalibSet:
    """Samples one after another in one file; of each, the inputs in the model's order.

    Beside it, ``NAME.bin.json`` may say what the file holds; else its size, divided by a sample's, is their number.
    """

    labels: Array | None = None

    def __init__(self, path: Path, inputs: Sequence[Input]) -> None:
        header = _read_header(path)
        self.preprocessing: Mapping[str, Any] | None = header.get("preprocessing")
        self._path = path
        self._inputs = [_stored(path, i, header) for i in inputs] if header else list(inputs)
        self._shapes = [i.row_shape() for i in self._inputs]
        self._sample_bytes = sum(prod(s) * i.kind.itemsize for s, i in zip(self._shapes, self._inputs, strict=True))
        with files.open_regular(path, function="samples") as file:
            size = os.fstat(file.fileno()).st_size
        self._count, rest = divmod(size, self._sample_bytes) if self._sample_bytes else (0, size)
        said = header.get("samples", self._count)
        if rest or not self._count or said != self._count:
            of = " + ".join(f"{i.name} {s} {i.kind}" for i, s in zip(self._inputs, self._shapes, strict=True))
            held = f"its header says {said} samples" if said != self._count and not rest else "it holds no whole number"
            raise ArgumentValueError(
                f"samples: {path} has {size} bytes, and a sample takes {self._sample_bytes} ({of}); {held}; write it "
                "again with edgekern calibration-set"
            )
        self._wanted = {i.name: i.kind for i in inputs}

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> Feeds:
        with files.open_regular(self._path, function="samples") as file:
            file.seek(number * self._sample_bytes)
            stored = file.read(self._sample_bytes)
        feeds, at = {}, 0
        for given, shape in zip(self._inputs, self._shapes, strict=True):
            array = np.frombuffer(stored, given.kind, prod(shape), at).reshape(shape)
            feeds[given.name] = array.astype(self._wanted[given.name], copy=False)
            at += array.nbytes
        return feeds

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        return stack(rows)


def header_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_header(path: Path) -> dict[str, Any]:
    beside = header_path(path)
    if not beside.exists():
        return {}
    text = files.read_bytes(beside, function="samples", limit=_MAX_HEADER_BYTES)
    try:
        header = files.parse_json(text, most_values=_MAX_HEADER_VALUES)
        if not isinstance(header, dict) or (header.get("format"), header.get("version")) != (HEADER_FORMAT, 1):
            raise ValueError("it is no header of samples")
    except (ValueError, RecursionError) as error:
        raise ArgumentValueError(f"samples: {beside} does not describe {path.name}: {error}") from error
    refuse_unknown(beside, header, _HEADER_KEYS)
    return header


def refuse_unknown(path: Path, given: Mapping[str, Any], known: set[str]) -> None:
    """Raise when a file says what nobody here would follow."""
    if unknown := sorted(set(given) - known):
        raise ArgumentValueError(f"samples: {path} has the key {unknown[0]!r}, which means nothing here; {known=!r}")


def _stored(path: Path, given: Input, header: Mapping[str, Any]) -> Input:
    """An input as the file has it."""
    try:
        entry = next((e for e in header["inputs"] if e["name"] == given.name), None)
        if entry is None:
            raise ArgumentValueError(
                f"samples: {path} has no input {given.name!r}; it holds {[e['name'] for e in header['inputs']]}"
            )
        stored = Input(given.name, (None, *(int(size) for size in entry["shape"])), np.dtype(entry["dtype"]))
    except (KeyError, TypeError) as error:
        raise ArgumentValueError(f"samples: {header_path(path)} is no header of samples ({error!r})") from error
    fits = len(stored.shape) == len(given.shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(given.shape[1:], stored.shape[1:], strict=True)
    )
    if not fits:
        raise ArgumentValueError(
            f"samples: {path} holds samples of shape {stored.shape[1:]} of input {given.name!r}, but the model takes "
            f"{given.shape[1:]}"
        )
    return stored


def describe(inputs: Mapping[str, Array], samples: int, preprocessing: Mapping[str, Any] | None) -> bytes:
    """The header of a file of such samples."""
    described = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in inputs.items()]
    content: dict[str, Any] = {"format": HEADER_FORMAT, "version": 1, "samples": samples, "inputs": described}
    if preprocessing is not None:
        content["preprocessing"] = dict(preprocessing)
    return (json.dumps(content, indent=1) + "\n").encode()
