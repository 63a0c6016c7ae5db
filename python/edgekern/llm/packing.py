"""From a file's matrices to the packed ones of the decoder, a few megabytes of float32 at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.llm.encodings import Q4_0, q4_0_codes
from edgekern.llm.weights import Stored

Kind = Literal["float32", "int8", "int4", "int2"]
Packed = _core.PackedWeights | _core.PackedFloats
KINDS: tuple[Kind, ...] = ("float32", "int8", "int4", "int2")  # the largest first
GROUPS: dict[str, tuple[int, ...]] = {"int4": (32, 64, 128), "int2": (64, 128)}  # the default first
BLOCK_BYTES = 1 << 20  # of float32 that are read and quantized at a time
_BLOCKS_ALIVE = 4  # a decoded block, what it was decoded from, and what malloc keeps of those before it


def weight_kind(name: str) -> Kind:
    """The kind of this name. Raises ArgumentValueError when there is none."""
    for kind in KINDS:
        if kind == name:
            return kind
    raise ArgumentValueError(f"llm.load: weights must be one of {', '.join(KINDS)}, got {name!r}")


@dataclass(frozen=True)
class WeightFormat:
    """How the matrices are kept: float32, int8 with a scale per output, others with one per ``group_size`` inputs."""

    kind: Kind
    group_size: int | None = None

    def __post_init__(self) -> None:
        weight_kind(self.kind)
        sizes = GROUPS.get(self.kind)
        if (sizes is not None) != (self.group_size is not None):
            raise ArgumentValueError(f"llm.load: group_size is for weights='int4' and 'int2', got {self.group_size!r}")
        if sizes is not None and self.group_size not in sizes:
            rule = f"{', '.join(map(str, sizes[:-1]))} or {sizes[-1]}"
            raise ArgumentValueError(
                f"llm.load: group_size must be {rule} with weights={self.kind!r}, got {self.group_size!r}"
            )

    @classmethod
    def of(cls, kind: Kind, group_size: int | None = None) -> WeightFormat:
        """With the kind's own size of groups where none is given."""
        return cls(kind, GROUPS[kind][0] if group_size is None and kind in GROUPS else group_size)

    def __str__(self) -> str:
        return self.kind if self.group_size is None else f"{self.kind} g{self.group_size}"

    @property
    def bits(self) -> int:
        return {"float32": 32, "int8": 8, "int4": 4, "int2": 2}[self.kind]

    def packing_bytes(self, rows: int, columns: int, block_bytes: int) -> int:
        """What packing one matrix takes besides the packed one."""
        values = rows * columns
        block = min(max(block_bytes, 4 * columns), 4 * values)
        whole = values * (4 if self.kind == "float32" else 1)
        scales = 4 * rows * (1 if self.group_size is None else 2 * -(-columns // self.group_size))
        return whole + scales + _BLOCKS_ALIVE * block

    def pack(self, parts: Sequence[Stored], *, interleaved: bool = False, block_bytes: int = BLOCK_BYTES) -> Packed:
        """Pack matrices with the same columns as one: one after the other, or row by row in turn."""
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        blocks = _blocks(parts, interleaved, block_bytes)
        if self.kind == "float32":
            whole = _room((rows, columns), np.dtype(np.float32))
            for part, first, last, at in blocks:
                whole[at] = part.read(first, last)
            return _core.pack_float32(whole)
        codes = _room((rows, columns), np.dtype(np.int8))
        if self.kind == "int8":
            scale = np.empty(rows, np.float32)
            for part, first, last, at in blocks:
                codes[at], scale[at] = _core.dynamic_quantize(part.read(first, last), "", 0)
            return _core.pack_weights(codes.T, scale)
        group = self.group_size or GROUPS[self.kind][0]
        scales = _room((rows, -(-columns // group)), np.dtype(np.float32))
        as_they_are = self.kind == "int4" and group == Q4_0.block and all(part.encoding is Q4_0 for part in parts)
        for part, first, last, at in blocks:
            if as_they_are:
                codes[at], scales[at] = q4_0_codes(part.raw(first, last), columns)
            else:
                codes[at], scales[at] = _core.quantize_groups(part.read(first, last), group, 0, self.bits)
        if as_they_are and not np.isfinite(scales).all():
            names = ", ".join(part.source for part in parts)
            raise ArtifactError(f"llm.load: one of the tensors {names} holds NaN or infinity; the file is damaged")
        return _core.pack_groups(codes, scales, group, self.bits)


@dataclass(frozen=True)
class Rounded:
    """Rows of a matrix as a method has rounded them: ``(codes - zero) * scale``.

    Attributes
    ----------
    codes : (rows, columns) int8
    scale : (rows, groups) float32; one group a row where ``group_size`` is None
    zero : (rows, groups) float32, or None where all are 0
    group_size : None for int8
    bits : 8, 4 or 2
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.float32] | None = None
    group_size: int | None = None
    bits: int = 8

    def __getitem__(self, rows: slice) -> Rounded:
        zero = None if self.zero is None else self.zero[rows]
        return replace(self, codes=self.codes[rows], scale=self.scale[rows], zero=zero)

    def times(self, factors: npt.NDArray[np.float32]) -> Rounded:
        """Each row times its factor, exactly but for the scales' own rounding."""
        return replace(self, scale=self.scale * factors[:, None])

    def restored(self) -> npt.NDArray[np.float32]:
        """The weights that codes stand for."""
        columns = self.codes.shape[1]

        def along(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return np.repeat(values, self.group_size or columns, axis=1)[:, :columns]

        made = self.codes.astype(np.float32)
        if self.zero is not None:
            made -= along(self.zero)
        made *= along(self.scale)
        return made

    def pack(self, *, interleaved: bool = False) -> Packed:
        """As the decoder reads them; ``interleaved``: rows of the first half and of the second in turn."""
        order = np.arange(len(self.codes)).reshape(2, -1).T.reshape(-1) if interleaved else slice(None)
        codes, scale = np.ascontiguousarray(self.codes[order]), np.ascontiguousarray(self.scale[order])
        if self.group_size is None:
            return _core.pack_weights(codes.T, scale[:, 0])
        if self.zero is None:
            return _core.pack_groups(codes, scale, self.group_size, self.bits)
        zero = np.ascontiguousarray(self.zero[order].T)
        return _core.pack_weights_int4(codes.T, np.ascontiguousarray(scale.T), zero, self.group_size)


def _room(shape: tuple[int, int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array whose memory goes back to the system with it: malloc would keep as much as the largest one."""
    size = shape[0] * shape[1] * dtype.itemsize
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE), dtype).reshape(shape)


def _blocks(parts: Sequence[Stored], interleaved: bool, block_bytes: int) -> Iterator[tuple[Stored, int, int, slice]]:
    """A part, its rows from first to last, and where they lie in the matrix that the parts make together."""
    step = max(1, block_bytes // (4 * parts[0].shape[1]))
    start, apart = 0, len(parts)
    for index, part in enumerate(parts):
        rows = part.shape[0]
        for first in range(0, rows, step):
            last = min(rows, first + step)
            in_turn = slice(first * apart + index, last * apart, apart)
            yield part, first, last, in_turn if interleaved else slice(start + first, start + last)
        start += rows
