"""Clipping thresholds by their definitions: every candidate built in full, one after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.uint64]
TIE = 1e-9
MOST_CLIPPED = 20  # one value in so many


def entropy_divergences(counts: Counts, num_levels: int, most_clipped: int = MOST_CLIPPED) -> npt.NDArray[np.float64]:
    """KL(P || Q) for each number of kept bins from ``num_levels`` to all, in nats (TensorRT, S7310, GTC 2017).

    Infinite where more than one value in ``most_clipped`` is clipped; 1 is the definition to the letter.
    """
    h = counts.astype(np.float64)
    total = sum(map(int, counts))
    clipped = [total - inside for inside in np.cumsum(counts.astype(object))[num_levels - 1 :]]
    return np.array(
        [
            _divergence(h, kept, num_levels) if beyond * most_clipped <= total else float("inf")
            for kept, beyond in enumerate(clipped, num_levels)
        ]
    )


def _divergence(h: npt.NDArray[np.float64], kept: int, num_levels: int) -> float:
    p = h[:kept].copy()
    p[-1] += h[kept:].sum()  # what is clipped lands in the last bin, of P only
    starts = np.arange(num_levels) * kept // num_levels
    sizes = np.diff(starts, append=kept)
    mass = np.add.reduceat(h[:kept], starts)
    present = p > 0
    nonempty = np.add.reduceat(present.astype(np.int64), starts)
    q = np.where(present, np.repeat(mass / np.maximum(nonempty, 1), sizes), 0.0)
    if q.sum() == 0 or np.any(present & (q == 0)):
        return float("inf")
    p, q = p[present] / p.sum(), q[present] / q.sum()
    return float(np.sum(p * np.log(p / q)))


def entropy_of_window(counts: Counts, first: int, last: int, num_levels: int) -> float:
    """KL(P || Q) of the bins [first, last): what lies below lands in the first of them, above in the last."""
    h = counts.astype(np.float64)
    kept, q = h[first:last], np.zeros(last - first)
    p = kept.copy()
    p[0] += h[:first].sum()
    p[-1] += h[last:].sum()
    for group in range(num_levels):
        begin, end = (at * kept.size // num_levels for at in (group, group + 1))
        present = p[begin:end] > 0
        q[begin:end][present] = kept[begin:end].sum() / max(present.sum(), 1)
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    present = p > 0
    return float(np.sum(p[present] / p.sum() * np.log(p[present] / p.sum() / (q[present] / q.sum()))))


def entropy_search(counts: Counts, num_levels: int) -> tuple[int, float]:
    """Bins kept, and the divergence there: the most bins within ``TIE`` of the least divergence."""
    divergences = entropy_divergences(counts, num_levels)
    last = int(np.flatnonzero(divergences <= divergences.min() + TIE)[-1])
    return num_levels + last, float(divergences[last])


def entropy_threshold(counts: Counts, absmax: float, num_levels: int) -> float:
    kept, _ = entropy_search(counts, num_levels)
    return min(absmax, (kept + 0.5) * (absmax / counts.size))


def quantization_error(
    x: npt.NDArray[np.floating], scale: float, first: float, last: float, exponent: float = 2.0
) -> float:
    """Mean |x - nearest level|**exponent, the levels being scale * q for q in [first, last]."""
    v = x.astype(np.float64)
    return float(np.mean(np.abs(v - np.clip(np.rint(v / scale), first, last) * scale) ** exponent))


def range_error(x: npt.NDArray[np.floating], lo: float, hi: float, num_levels: int, exponent: float = 2.0) -> float:
    """The same for an asymmetric range with a whole zero point."""
    scale = (hi - lo) / (num_levels - 1)
    zero_point = np.rint(-lo / scale)
    return quantization_error(x, scale, -zero_point, num_levels - 1 - zero_point, exponent)
