"""Schemes: how the range of an activation becomes its encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekern.quantization.encodings import MAX_SCALE, MIN_SCALE, Encoding

if TYPE_CHECKING:
    from edgekern.quantization.config import Activations


def encode_range(lo: float, hi: float, activations: Activations) -> Encoding:
    """The encoding of a range by the scheme that a QuantConfig names."""
    return affine_u8(lo, hi) if activations == "u8" else affine_s8(lo, hi)


def affine_u8(lo: float, hi: float) -> Encoding:
    """Asymmetric uint8 over a range, extended to contain 0 so that zero is exact; an empty range has scale 1."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    if hi == lo:
        return Encoding(1.0, signed=False)
    step = _within_float32((hi - lo) / 255.0)
    return Encoding(step, int(np.clip(np.rint(-lo / step), 0, 255)), signed=False)


def affine_s8(lo: float, hi: float) -> Encoding:
    """Symmetric int8 over the larger side of a range; an empty range has scale 1."""
    largest = max(-lo, hi, 0.0)
    return Encoding(_within_float32(largest / 127.0) if largest > 0.0 else 1.0, signed=True)


def _within_float32(scale: float) -> float:
    return min(max(scale, MIN_SCALE), MAX_SCALE)
