"""How files write numbers: float32, float16, bfloat16, and GGUF's blocks of 32 with a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Encoding:
    """``block`` values take ``bytes`` bytes."""

    name: str
    block: int
    bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row; ``columns`` is a multiple of ``block``."""
        return columns // self.block * self.bytes


F32 = Encoding("F32", 1, 4)
F16 = Encoding("F16", 1, 2)
BF16 = Encoding("BF16", 1, 2)
Q8_0 = Encoding("Q8_0", 32, 34)  # float16 scale, 32 int8
Q4_0 = Encoding("Q4_0", 32, 18)  # float16 scale, 16 bytes: values 0..15 in the low nibbles, 16..31 in the high ones


def q4_0_codes(data: Bytes, columns: int) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Codes in [-8, 7] and scales of Q4_0 rows: (rows, columns) int8 and (rows, columns / 32) float32."""
    rows = data.shape[0]
    blocks = np.ascontiguousarray(data).reshape(rows, columns // Q4_0.block, Q4_0.bytes)
    scale = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    return (nibbles.astype(np.int8) - np.int8(8)).reshape(rows, columns), scale


def _halves(data: Bytes) -> npt.NDArray[Any]:
    return np.ascontiguousarray(data).view("<u2")


def decode(data: Bytes, encoding: Encoding, columns: int) -> FloatArray:
    """Real values of encoded rows: (rows, row_bytes) bytes to (rows, columns) float32."""
    rows = data.shape[0]
    if encoding is F32:
        return np.require(np.ascontiguousarray(data).view("<f4"), np.float32, "A").reshape(rows, columns)
    if encoding is F16:
        return _halves(data).view("<f2").astype(np.float32).reshape(rows, columns)
    if encoding is BF16:
        return (_halves(data).astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(rows, columns)
    if encoding is Q4_0:
        codes, scales = q4_0_codes(data, columns)
        values = codes.reshape(rows, -1, 32).astype(np.float32) * scales[..., None]
    else:
        blocks = np.ascontiguousarray(data).reshape(rows, columns // Q8_0.block, Q8_0.bytes)
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.float32) * scales
    return values.reshape(rows, columns)
