"""What the tests of products of 16-bit activations share: codes of their input, weights, and windows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from float_steps import padded

Array = npt.NDArray[Any]

# Quantizations of an input of about -4 to 4: both kinds of codes, in the middle, at the ends, and clipping.
CODES = st.sampled_from(
    [
        {"scale": 8 / 65535, "zero_point": 32768, "signed": 0},
        {"scale": 4 / 32767, "zero_point": 0, "signed": 1},
        {"scale": 4 / 65535, "zero_point": 0, "signed": 0},
        {"scale": 1 / 65535, "zero_point": 65535, "signed": 0},
        {"scale": 0.001, "zero_point": -32768, "signed": 1},
        {"scale": 0.001, "zero_point": 1234, "signed": 1},
    ]
)
USUAL: dict[str, Any] = {"scale": 8 / 65535, "zero_point": 32768, "signed": 0}


def weights_of(seed: int, *shape: int) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).integers(-128, 128, shape, dtype=np.int8)


def by_group(values: Array, groups: int = 1) -> Array:
    """Numbers of channels as blobs have them."""
    return padded(values.reshape(groups, -1))


def window(
    batch: int = 2,
    size: tuple[int, ...] = (7, 9),
    kernel: tuple[int, ...] = (3, 3),
    stride: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
    pad: tuple[int, ...] = (1, 1),
) -> SimpleNamespace:
    """The arguments of a step over height and width, and the shapes of its images without their channels."""
    out = [
        (s + 2 * p - (k - 1) * d - 1) // t + 1
        for s, k, t, d, p in zip(size, kernel, stride, dilation, pad, strict=True)
    ]
    names = {"in": size, "out": out, "kernel": kernel, "stride": stride, "dilation": dilation}
    arguments = {f"{name}_{side}": sides[at] for name, sides in names.items() for at, side in enumerate("hw")}
    return SimpleNamespace(
        arguments={"batch": batch, **arguments, "pad_top": pad[0], "pad_left": pad[1]},
        x=(batch, *size),
        y=(batch, *out),
        taps=kernel[0] * kernel[1],
    )
