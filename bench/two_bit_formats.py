"""What formats of about 2 bits a weight leave of a matrix: their errors, on random and on real weights, in NumPy.

All find their scales by least squares. Formats of more than 2.0 bits with their scales stand there to compare.
"""

from collections.abc import Callable, Iterator

import numpy as np

from bench.harness import Row, print_table, sqnr_db
from bench.peers import Array
from edgekern.quantization.methods.ternary import quantize_ternary

LEVELS = (-1.5, -0.5, 0.5, 1.5)
_ROUNDS = 12


def _halves(scale: Array) -> Array:
    return np.asarray(scale.astype(np.float16), np.float32)


def _bytes(scale: Array) -> Array:
    """Scales as 255ths of the largest of their column."""
    most = scale.max(axis=1, keepdims=True)
    return np.asarray(np.rint(scale / most * 255).clip(1, 255) * most / 255, np.float32)


def _ternary(weights: Array, group: int, scales: Callable[[Array], Array]) -> Array:
    codes, scale = quantize_ternary(weights, group)
    return np.asarray(codes * np.repeat(scales(scale), group, axis=1)[:, : weights.shape[1]], np.float32)


def _levels(weights: Array, group: int, few: int = 0) -> Array:
    """Four levels, or of the first ``few`` values of a group three, by codes and scales in turns; float16 scales."""
    columns, k = weights.shape
    parts = weights.reshape(columns, -1, group)
    scale = np.abs(parts).mean(axis=2, keepdims=True) * np.float32(1.0)
    three = np.arange(group) < few
    for _ in range(_ROUNDS):
        ratio = parts / scale
        codes = np.where(three, np.rint(ratio / 1.2).clip(-1, 1) * 1.2, (np.floor(ratio) + 0.5).clip(-1.5, 1.5))
        scale = (parts * codes).sum(axis=2, keepdims=True) / np.square(codes).sum(axis=2, keepdims=True).clip(1e-9)
        scale = np.maximum(scale, 1e-9)
    return np.asarray((codes * _halves(scale)).reshape(columns, k), np.float32)


def _four_bits(weights: Array, group: int) -> Array:
    from edgekern import _core

    codes, scale = _core.quantize_groups(np.ascontiguousarray(weights), group, 1)
    return np.asarray(codes * np.repeat(_halves(scale), group, axis=1)[:, : weights.shape[1]], np.float32)


FORMATS: dict[str, tuple[float, Callable[[Array], Array]]] = {
    "ternary, float16 scales of 128": (2.0, lambda w: _ternary(w, 128, _halves)),
    "ternary, float16 scales of 64": (1.875, lambda w: _ternary(w, 64, _halves)),
    "ternary, 8-bit scales of 32": (2.0, lambda w: _ternary(w, 32, _bytes)),
    "88 of 128 four levels, 40 ternary": (2.0, lambda w: _levels(w, 128, 40)),
    "four levels, one scale a column": (2.0, lambda w: _levels(w, w.shape[1])),
    "four levels, float16 scales of 128": (2.125, lambda w: _levels(w, 128)),
    "four levels, float16 scales of 64": (2.25, lambda w: _levels(w, 64)),
    "int4, float16 scales of 128": (4.125, lambda w: _four_bits(w, 128)),
}


def rows(matrices: dict[str, list[Array]]) -> Iterator[Row]:
    """The signal-to-noise ratio of each format, over all matrices of each kind."""
    for name, (bits, restored) in FORMATS.items():
        row: dict[str, object] = {"format": name, "bits": bits}
        for kind, found in matrices.items():
            whole = [w[:, : w.shape[1] // 128 * 128] for w in found]
            row[kind] = sqnr_db(
                np.concatenate([w.ravel() for w in whole]), np.concatenate([restored(w).ravel() for w in whole])
            )
        yield row


def show(matrices: dict[str, list[Array]]) -> None:
    print_table(list(rows(matrices)), {"format": "", "bits": ".3f", **dict.fromkeys(matrices, ".2f")})
