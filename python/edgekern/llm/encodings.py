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


def _halves(data: Bytes) -> npt.NDArray[Any]:
    return np.ascontiguousarray(data).view("<u2")


def decode(data: Bytes, encoding: Encoding, columns: int) -> FloatArray:
    """Real values of encoded rows: (rows, row_bytes) bytes to (rows, columns) float32."""
    rows = data.shape[0]
    if encoding is F32:
        return np.ascontiguousarray(data).view("<f4").astype(np.float32, copy=False).reshape(rows, columns)
    if encoding is F16:
        return _halves(data).view("<f2").astype(np.float32).reshape(rows, columns)
    if encoding is BF16:
        return (_halves(data).astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(rows, columns)
    blocks = np.ascontiguousarray(data).reshape(rows * columns // encoding.block, encoding.bytes)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    codes = blocks[:, 2:]
    if encoding is Q8_0:
        values = codes.view(np.int8).astype(np.float32)
    else:
        values = np.concatenate([codes & 15, codes >> 4], axis=1).astype(np.float32) - np.float32(8)
    return (values * scale).reshape(rows, columns)
