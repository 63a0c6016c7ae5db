"""What the tests of float products share: numbers, epilogues, and the float64 result that they are close to."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]

NO_CLAMP = {"activation": 0, "addend_first": False, "lo": -np.inf, "hi": np.inf}
# Clamps and curves, with and without an addend.
ENDINGS = st.sampled_from(
    [
        NO_CLAMP,
        {**NO_CLAMP, "lo": 0.0},
        {**NO_CLAMP, "lo": 0.0, "hi": 0.5},
        *({**NO_CLAMP, "activation": curve} for curve in (1, 2, 3)),
    ]
)
# How an addend joins: not at all, last, first.
ADDENDS = st.sampled_from([None, False, True])
RESULTS = st.sampled_from([np.float32, np.uint8, np.int8])


def floats(seed: int, *shape: int) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape).astype(np.float32)


def padded(values: Array) -> Array:
    """Along the last axis, to a multiple of 16, with something that nobody may see."""
    fill = -values.shape[-1] % 16
    return np.concatenate([values, np.full((*values.shape[:-1], fill), np.nan, values.dtype)], axis=-1)


def assert_close(found: Array, truth: Array, size: Array) -> None:
    """``size``: the same product of absolute values, which rounding errors are a part of."""
    assert (np.abs(found.astype(np.float64) - truth) <= 1e-6 * size + 1e-30).all()


def digest(result: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Window:
    """A window over depth, height and width; ``out`` follows where it is not given."""

    inside: Triple
    kernel: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    pad: Triple = (0, 0, 0)
    batch: int = 1
    given: Triple | None = None

    @property
    def out(self) -> Triple:
        if self.given is not None:
            return self.given
        d, h, w = (
            (side + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
            for side, kernel, stride, dilation, pad in zip(
                self.inside, self.kernel, self.stride, self.dilation, self.pad, strict=True
            )
        )
        return d, h, w

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def arguments(self) -> dict[str, Any]:
        names = {"in": self.inside, "out": self.out, "kernel": self.kernel, "stride": self.stride}
        names |= {"dilation": self.dilation, "pad": self.pad}
        return {"batch": self.batch, **{name: list(sides) for name, sides in names.items()}}


def windows() -> st.SearchStrategy[Window]:
    """Small ones, many of them with more padding than image."""
    axis = st.tuples(*(st.integers(1, most) for most in (9, 3, 3, 2)), st.integers(0, 2), st.integers(0, 2))

    def window(axes: list[tuple[int, ...]], batch: int) -> Window:
        columns = list(zip(*axes, strict=True))
        out = [max(1, (i + p + e - (k - 1) * d - 1) // s + 1) for i, k, s, d, p, e in axes]
        inside, kernel, stride, dilation, pad = (triple(column) for column in columns[:5])
        return Window(inside, kernel, stride, dilation, pad, batch, triple(out))

    depth = st.one_of(st.just((1, 1, 1, 1, 0, 0)), axis)
    return st.builds(window, st.tuples(depth, axis, axis).map(list), st.integers(1, 2))


def triple(sides: Any) -> Triple:
    d, h, w = sides
    return int(d), int(h), int(w)


def slow_windows(window: Window, x: Array) -> Array:
    """(output pixels, taps, channels), pixel by pixel."""
    rows = np.zeros((window.batch, *window.out, window.taps, x.shape[-1]), x.dtype)
    x = x.reshape(window.batch, *window.inside, -1)
    for place in np.ndindex(*window.out):
        for number, tap in enumerate(np.ndindex(*window.kernel)):
            at = [
                o * s + t * d - p
                for o, s, t, d, p in zip(place, window.stride, tap, window.dilation, window.pad, strict=True)
            ]
            if all(0 <= i < side for i, side in zip(at, window.inside, strict=True)):
                rows[(slice(None), *place, number)] = x[(slice(None), *at)]
    return rows
