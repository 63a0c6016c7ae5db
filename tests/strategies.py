"""Hypothesis strategies for the operands that tests share: odd shapes, full ranges, strides."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

IntegerFill = st.sampled_from(["random", "lowest", "highest", "extremes", "sparse"])


def fill_integers(shape: tuple[int, ...], dtype: npt.DTypeLike, fill: str, seed: int) -> npt.NDArray[Any]:
    """Fill an integer array over its full range; "extremes" mixes the lowest and the highest value."""
    rng, info = np.random.default_rng(seed), np.iinfo(np.dtype(dtype))
    if fill == "lowest":
        return np.full(shape, info.min, dtype)
    if fill == "highest":
        return np.full(shape, info.max, dtype)
    if fill == "extremes":
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    values = rng.integers(info.min, info.max, shape, dtype=info.dtype, endpoint=True)
    return np.where(rng.random(shape) < 0.1, values, 0).astype(dtype) if fill == "sparse" else values


@st.composite
def integer_arrays(draw: st.DrawFn, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int8) -> npt.NDArray[Any]:
    return fill_integers(shape, dtype, draw(IntegerFill), draw(st.integers(0, 2**32 - 1)))


@st.composite
def int8_matmul_operands(
    draw: st.DrawFn, max_side: int = 70, max_depth: int | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int8]]:
    """Draw (M, K) uint8 or int8 and (K, N) int8; B is sometimes the transpose of a C-contiguous array."""
    m, n = draw(st.integers(0, max_side)), draw(st.integers(0, max_side))
    k = draw(st.integers(0, max_depth or max_side))
    a = draw(integer_arrays((m, k), draw(st.sampled_from([np.int8, np.uint8]))))
    b = draw(integer_arrays((k, n), np.int8))
    return a, np.asfortranarray(b) if draw(st.booleans()) else b


@st.composite
def float_arrays(
    draw: st.DrawFn, shape: tuple[int, ...], *, special: bool = False, scale: float = 10.0
) -> npt.NDArray[np.float32]:
    """Draw float32 values over many magnitudes; ``special`` sprinkles in NaN, infinities, zeros and subnormals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponent = rng.normal(0.0, draw(st.sampled_from([0.0, 1.0, 4.0])), shape)
    values = (rng.normal(0.0, scale, shape) * np.exp2(exponent)).astype(np.float32)
    if special and values.size:
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38], np.float32)
        values = np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), values)
    return values


# One entry a shape class: a kernel that fails one of them fails it by name.
MATMUL_SHAPES = {
    "one": (1, 1, 1),
    "gemv": (1, 512, 512),
    "shallow": (71, 53, 2),
    "one_quad": (14, 333, 4),
    "deep": (5, 4, 5001),
    "narrow": (200, 1, 64),
    "tile": (6, 64, 64),
    "tile_plus_one": (7, 65, 65),
    "cube_block": (256, 256, 256),
    "cube_block_plus_one": (257, 257, 67),
    "empty_m": (0, 8, 8),
    "empty_n": (8, 0, 8),
    "empty_n_of_one_row": (1, 0, 8),
    "empty_k": (3, 3, 0),
}
