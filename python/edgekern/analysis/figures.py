"""Figures of what rounding did to numbers: signal to noise, cosine, divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Below it a layer is one to look at; below the second one it is sensitive. A thousandth of the power is 30 dB.
WATCH_DB, SENSITIVE_DB = 30.0, 25.0
# 0.995 alone is 20 dB, and is blind to a wrong gain: the SQNR decides, and this only adds to it.
LEAST_COSINE = 0.995
MOST_CLIPPED = 1e-3
MOST_RELATIVE_MSE = 1e-3

_TINY = 1e-30
_BLOCK = 1 << 15  # elements that are in the cache as float64


@dataclass
class Sums:
    """What the figures of one tensor need, added up over all feeds in float64."""

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    total: float = 0.0
    max_error: float = 0.0
    count: int = 0
    nonzero: int = 0

    def add(self, real: Array, ours: Array) -> None:
        flat, others = real.reshape(-1), ours.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            x, y = (each[start : start + _BLOCK].astype(np.float64) for each in (flat, others))
            error = y - x
            self.signal += _dot(x, x)
            self.other += _dot(y, y)
            self.product += _dot(x, y)
            self.noise += _dot(error, error)
            self.total += float(x.sum())
            self.max_error = float(np.maximum(self.max_error, np.abs(error, out=error).max()))  # NaN stays
            self.count += x.size
            self.nonzero += int(np.count_nonzero(x))

    @property
    def sqnr_db(self) -> float:
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        lengths = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.product / lengths if lengths else float(self.signal == self.other)

    @property
    def mse(self) -> float:
        return self.noise / self.count if self.count else 0.0

    @property
    def relative_mse(self) -> float:
        """The mean square error in variances of the tensor."""
        if self.noise == 0:
            return 0.0
        variance = self.signal / self.count - (self.total / self.count) ** 2
        return self.mse / variance if variance > 0 else math.inf


def _dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.einsum("i,i->", a, b))  # as ``@``, without threads that wait for one another


def decibels(signal: float, noise: float) -> float:
    """Signal to noise; infinite where there is no noise."""
    if noise == 0:
        return math.inf
    ratio = signal / noise  # 0 of infinite noise
    return 10 * math.log10(ratio) if ratio else -math.inf


def worst_first(sqnr_db: float) -> float:
    """By what outputs are sorted: NaN, which is less than nothing, is worse than all."""
    return -math.inf if math.isnan(sqnr_db) else sqnr_db


def mark(sqnr_db: float, *, cosine: float = 1.0, clipped: float = 0.0) -> str:
    """What the thresholds say: "sensitive", "watch", or nothing."""
    if sqnr_db < SENSITIVE_DB:
        return "sensitive"
    return "watch" if sqnr_db < WATCH_DB or cosine < LEAST_COSINE or clipped > MOST_CLIPPED else ""


def divergence(real: Sequence[Array], ours: Sequence[Array]) -> float | None:
    """Mean relative entropy of class probabilities, in nats; None where there is one class.

    Classes lie along axis 1 of images and along the last axis of all else. Logits go through softmax; what adds up to 1
    already is taken as it is.
    """
    total, count = 0.0, 0
    for x, y in zip(real, ours, strict=True):
        if x.ndim == 0 or not x.size:
            continue
        axis = 1 if x.ndim >= 4 else x.ndim - 1
        p, q = (np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]).astype(np.float64) for a in (x, y))
        if p.shape[1] < 2:
            continue
        if (p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3):
            log_p, log_q = np.log(np.maximum(p, _TINY)), np.log(np.maximum(q, _TINY))
        else:
            log_p, log_q = _log_softmax(p), _log_softmax(q)
            p = np.exp(log_p)
        total += float((p * (log_p - log_q)).sum())
        count += len(p)
    return max(total / count, 0.0) if count else None


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


@dataclass(frozen=True)
class Figures:
    """Of all outputs of a model, that of the worst one."""

    sqnr_db: float
    relative_mse: float
    kl: float | None


def figures_of(real: Sequence[Mapping[str, Array]], ours: Sequence[Mapping[str, Array]]) -> Figures:
    """Compare the outputs of all feeds."""
    sums, kl = [], []
    for name in real[0]:
        one = Sums()
        for x, y in zip(real, ours, strict=True):
            one.add(x[name], y[name])
        sums.append(one)
        kl.append(divergence([x[name] for x in real], [y[name] for y in ours]))
    known = [each for each in kl if each is not None]
    return Figures(
        min(one.sqnr_db for one in sums), max(one.relative_mse for one in sums), max(known) if known else None
    )
