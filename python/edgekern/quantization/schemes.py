"""Schemes: how the range of an activation becomes its encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekern.quantization.encodings import MAX_SCALE, MIN_SCALE, Encoding

if TYPE_CHECKING:
    from edgekern.quantization.config import Activations


def encode_range(lo: float, hi: float, activations: Activations, bits: int = 8) -> Encoding:
    """The encoding of a range by the scheme that a QuantConfig names."""
    return affine_unsigned(lo, hi, bits) if activations == "u8" else affine_signed(lo, hi, bits)


def affine_unsigned(lo: float, hi: float, bits: int = 8) -> Encoding:
    """Asymmetric over a range, extended to contain 0 so that zero is exact; an empty range has scale 1."""
    lo, hi, most = min(lo, 0.0), max(hi, 0.0), (1 << bits) - 1
    if hi == lo:
        return Encoding(1.0, signed=False, bits=bits)
    step = _within_float32((hi - lo) / most)
    return Encoding(step, int(np.clip(np.rint(-lo / step), 0, most)), signed=False, bits=bits)


def affine_signed(lo: float, hi: float, bits: int = 8) -> Encoding:
    """Symmetric over the larger side of a range; an empty range has scale 1."""
    largest, most = max(-lo, hi, 0.0), (1 << (bits - 1)) - 1
    return Encoding(_within_float32(largest / most) if largest > 0.0 else 1.0, signed=True, bits=bits)


def _within_float32(scale: float) -> float:
    return min(max(scale, MIN_SCALE), MAX_SCALE)
