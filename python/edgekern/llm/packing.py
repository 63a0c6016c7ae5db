"""From a file's matrices to the packed ones of the decoder, a few megabytes of float32 at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.llm.encodings import Q4_0, FloatArray, q4_0_codes
from edgekern.llm.weights import Stored

Kind = Literal["float32", "int8", "int4"]
Packed = _core.PackedWeights | _core.PackedFloats
KINDS: tuple[Kind, ...] = ("float32", "int8", "int4")
_BLOCK_BYTES = 8 << 20


def weight_kind(name: str) -> Kind:
    """The kind of this name. Raises ArgumentValueError when there is none."""
    for kind in KINDS:
        if kind == name:
            return kind
    raise ArgumentValueError(f"llm.load: weights must be one of {', '.join(KINDS)}, got {name!r}")


@dataclass(frozen=True)
class WeightFormat:
    """How the matrices are kept: float32, int8 with a scale per output, int4 with one per ``group_size`` inputs."""

    kind: Kind
    group_size: int | None = None

    def __post_init__(self) -> None:
        weight_kind(self.kind)
        if (self.kind == "int4") != (self.group_size is not None):
            raise ArgumentValueError(f"llm.load: group_size is for weights='int4', got {self.group_size!r}")
        if self.group_size not in (None, 32, 64, 128):
            raise ArgumentValueError(f"llm.load: group_size must be 32, 64 or 128, got {self.group_size!r}")

    def __str__(self) -> str:
        return self.kind if self.group_size is None else f"{self.kind} g{self.group_size}"

    @property
    def bits(self) -> int:
        return {"float32": 32, "int8": 8, "int4": 4}[self.kind]

    def packing_bytes(self, rows: int, columns: int) -> int:
        """What packing one matrix takes besides the packed one."""
        return rows * columns * (4 if self.kind == "float32" else 1) + 3 * _BLOCK_BYTES

    def pack(self, parts: Sequence[Stored], *, interleaved: bool = False) -> Packed:
        """Pack matrices with the same columns as one: one after the other, or row by row in turn."""
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        if self.kind == "float32":
            whole = np.empty((rows, columns), np.float32)
            for first, block in _blocks(parts, interleaved):
                whole[first : first + len(block)] = block
            return _core.pack_float32(whole)
        codes = np.empty((rows, columns), np.int8)
        if self.kind == "int8":
            scale = np.empty(rows, np.float32)
            for first, block in _blocks(parts, interleaved):
                last = first + len(block)
                codes[first:last], scale[first:last] = _core.dynamic_quantize(block, "", 0)
            return _core.pack_weights(codes.T, scale)
        group = self.group_size or 32
        scales = np.empty((rows, -(-columns // group)), np.float32)
        if group == Q4_0.block and all(part.encoding is Q4_0 for part in parts):  # as they are
            _copy_q4_0(parts, codes, scales, interleaved)
        else:
            for first, block in _blocks(parts, interleaved):
                last = first + len(block)
                codes[first:last], scales[first:last] = _core.quantize_groups(block, group, 0)
        return _core.pack_groups(codes, scales, group)


def _copy_q4_0(parts: Sequence[Stored], codes: npt.NDArray[np.int8], scales: FloatArray, interleaved: bool) -> None:
    start, step = 0, len(parts) if interleaved else 1
    for index, part in enumerate(parts):
        rows = part.shape[0]
        at = slice(index, None, step) if interleaved else slice(start, start + rows)
        codes[at], scales[at] = q4_0_codes(part.raw(0, rows), part.shape[1])
        start += rows
    if not np.isfinite(scales).all():
        names = ", ".join(part.source for part in parts)
        raise ArtifactError(f"llm.load: one of the tensors {names} holds NaN or infinity; the file is damaged")


def _blocks(parts: Sequence[Stored], interleaved: bool) -> Iterator[tuple[int, FloatArray]]:
    """First row and rows of each block of the matrix that the parts make together."""
    columns = parts[0].shape[1]
    step = max(1, _BLOCK_BYTES // (4 * columns))
    if interleaved:
        step = max(1, step // len(parts))
        for first in range(0, parts[0].shape[0], step):
            last = min(parts[0].shape[0], first + step)
            stacked = np.stack([part.read(first, last) for part in parts], axis=1)
            yield first * len(parts), stacked.reshape(-1, columns)
        return
    start = 0
    for part in parts:
        for first in range(0, part.shape[0], step):
            yield start + first, part.read(first, min(part.shape[0], first + step))
        start += part.shape[0]
