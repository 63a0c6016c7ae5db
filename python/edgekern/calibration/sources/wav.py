"""Sound from WAV files, in windows of one length."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import gcd, prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from edgekern import files
from edgekern._arguments import integer
from edgekern.calibration.sources.base import Array, Feeds, Input, UnreadableError, only_input, optional, stack
from edgekern.errors import ArgumentValueError

_MOST_HERTZ = 1_000_000
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_DTYPES = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}


class Sound(NamedTuple):
    """Where the samples of a WAV file lie, and what they are."""

    rate: int
    channels: int
    dtype: str
    start: int
    frames: int


class WavWindows:
    """Windows of mono sound between -1 and 1, as long as the model's input; what is left of a file is left out.

    A file shorter than a window is one sample, filled up with zeros.

    Parameters
    ----------
    paths : WAV files of integers (8, 16 or 32 bits) or floats
    inputs : of the model, which must have one
    labels : (files,) int64, optional
    rate : of the model, in Hz. Files of others are resampled by scipy; None takes files as they are.
    """

    def __init__(
        self, paths: Sequence[Path], inputs: Sequence[Input], *, labels: Array | None = None, rate: int | None = None
    ) -> None:
        self._input = only_input(inputs, "WAV files")
        self._shape = self._input.row_shape()
        self._window = prod(self._shape)
        if rate is not None and not 1 <= integer("samples", "rate", rate) <= _MOST_HERTZ:
            raise ArgumentValueError(f"samples: rate must be 1 to {_MOST_HERTZ} Hz, got {rate}")
        self._rate = rate
        self._places: list[tuple[Path, Sound | None, int]] = []
        of: list[int] = []
        for number, path in enumerate(paths):
            sound, frames = self._measured(path)
            windows = max(frames // self._window, 1) if sound else 1
            self._places += [(path, sound, at) for at in range(windows)]
            of += [number] * windows
        self.labels = None if labels is None else labels[of]
        rates = {sound.rate for _, sound, _ in self._places if sound}
        if rate is None and len(rates) > 1:
            raise ArgumentValueError(f"samples: WAV files have the rates {sorted(rates)}; give the model's (--rate)")
        self._said = rate or next(iter(rates), None)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return {"kind": "wav", "rate": self._said, "window": self._window, "mono": True, "range": [-1, 1]}

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> Feeds:
        path, sound, at = self._places[number]
        if sound is None:
            raise UnreadableError(f"{path} (no WAV file of 8, 16 or 32 bit integers or of floats)")
        if self._rate in (None, sound.rate):
            mono = _mono(path, sound, at * self._window, self._window)
        else:
            whole = _mono(path, sound, 0, sound.frames)
            mono = _resampled(whole, sound.rate, int(self._rate or 0))[at * self._window : (at + 1) * self._window]
        filled = np.zeros(self._window, np.float32)
        filled[: len(mono)] = mono
        return {self._input.name: self._input.stored(filled.reshape(self._shape))}

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        return stack(rows)

    def _measured(self, path: Path) -> tuple[Sound | None, int]:
        """What a file holds, None for a damaged one, and its frames at the model's rate."""
        try:
            with files.open_regular(path, function="samples") as file:
                sound = _parse(file)
        except (ValueError, struct.error):
            return None, 0
        if self._rate in (None, sound.rate):
            return sound, sound.frames
        optional(
            "scipy.signal",
            f"files of another rate ({path.name}: {sound.rate} Hz, the model's {self._rate})",
            "pip install scipy, or resample them first",
        )
        return sound, -(-sound.frames * int(self._rate or 0) // sound.rate)


def _parse(file: BinaryIO) -> Sound:
    """Raises ValueError or struct.error where it is no WAV file that is read here."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise ValueError("no WAV file")
    form: tuple[int, ...] | None = None
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"fmt ":
            body = file.read(size + size % 2)
            form = struct.unpack_from("<HHIIHH", body)
            if form[0] == _EXTENSIBLE:
                form = (struct.unpack_from("<H", body, 24)[0], *form[1:])
        elif name == b"data":
            if form is None or (dtype := _DTYPES.get((form[0], form[5]))) is None or not form[1] or not form[2]:
                raise ValueError("of a form that is not read")
            start = file.tell()
            size = min(size, file.seek(0, 2) - start)  # a recorder that was cut off wrote another size
            return Sound(form[2], form[1], dtype, start, size // (form[1] * np.dtype(dtype).itemsize))
        else:
            file.seek(size + size % 2, 1)
    raise ValueError("no samples")


def _mono(path: Path, sound: Sound, first: int, frames: int) -> Array:
    """Frames of a file, channels averaged, float32; fewer at its end."""
    dtype = np.dtype(sound.dtype)
    frame = sound.channels * dtype.itemsize
    with files.open_regular(path, function="samples") as file:
        file.seek(sound.start + first * frame)
        stored = file.read(max(min(frames, sound.frames - first), 0) * frame)
    values = np.frombuffer(stored, dtype).reshape(-1, sound.channels).astype(np.float64)
    if dtype.kind == "u":
        values = (values - 128) / 128
    elif dtype.kind == "i":
        values /= -float(np.iinfo(dtype).min)
    return np.asarray(values.mean(axis=1), np.float32)


def _resampled(mono: Array, rate: int, wanted: int) -> Array:
    signal = optional("scipy.signal", "files of another rate", "pip install scipy, or resample them first")
    shared = gcd(rate, wanted)
    resampled: Array = signal.resample_poly(mono, wanted // shared, rate // shared)
    return resampled.astype(np.float32)
