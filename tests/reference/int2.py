"""2-bit weights, the obvious way: the layout of csrc/gemm/pack2.h, and the best ternary weights of a group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .int4 import PANEL

QUAD, TRITS, STRIP = 4, 5, 16  # values of k side by side, digits of a byte, columns of a line


def digits(byte: int) -> list[int]:
    """The five ternary digits of a byte: what is left of a fraction of 256 in front of each product with 3."""
    found = []
    for _ in range(TRITS):
        byte *= 3
        found.append(byte // 256)
        byte %= 256
    return found


def unpack(
    packed: npt.NDArray[np.uint8], n: int, k: int, group: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Values (k, n) and scales (groups, n) of packed weights."""
    groups, panels, times = -(-k // group), -(-n // PANEL), group // 64
    values = np.zeros((groups * group, panels * PANEL), np.int8)
    halves = np.zeros((groups, panels * PANEL), np.float16)
    table = np.array([digits(byte) for byte in range(256)], np.int8) - 1
    pairs = (np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3).astype(np.int8) - 1
    at = 0

    def take(size: int) -> npt.NDArray[np.uint8]:
        nonlocal at
        at += size
        return packed[at - size : at]

    for first in range(0, panels * PANEL, PANEL):
        columns = slice(first, first + PANEL)
        for g in range(groups):
            row = g * group
            for _ in range(5 if times == 2 else 0):  # four pairs of bits a byte
                fours = pairs[take(PANEL * QUAD).reshape(PANEL, QUAD)]  # (columns, k, pair)
                values[row : row + 4 * QUAD, columns] = fours.transpose(2, 1, 0).reshape(-1, PANEL)
                row += 4 * QUAD
            for _ in range(2 if times == 2 else 3):
                fives = table[take(PANEL * QUAD).reshape(PANEL, QUAD)]
                values[row : row + QUAD * TRITS, columns] = fives.transpose(2, 1, 0).reshape(-1, PANEL)
                row += QUAD * TRITS
            for place in range(4 * times):  # pair after pair of the lines behind
                if place % 4 == 0:
                    line = pairs[take(STRIP * QUAD).reshape(STRIP, QUAD)]
                strip, quad = first + place // times * STRIP, row + place % times * QUAD
                values[quad : quad + QUAD, strip : strip + STRIP] = line[:, :, place % 4].T
            halves[g, columns] = take(2 * PANEL).view(np.float16)
    return values[:k, :n], halves[:, :n]


def ternary(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], float, float]:
    """Codes, scale and squared error of one group, of all choices the best: each m largest, and their mean size."""
    size = np.abs(weights.astype(np.float64))
    best = (np.zeros(len(weights), np.int8), 1.0, float(np.square(size).sum()))
    for least in np.unique(size[size > 0]):
        codes = np.where(size >= least, np.sign(weights), 0).astype(np.int8)
        scale = float(size[size >= least].mean())
        error = float(np.square(weights - codes * scale).sum())
        if error < best[2]:
            best = (codes, scale, error)
    return best
