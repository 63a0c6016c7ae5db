"""Distributions of activations: what layers give, what breaks calibrators, and data of few distinct values."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Samples = dict[str, Callable[[], npt.NDArray[np.floating]]]
DRAWN = 100_000


def _ordinary() -> Samples:
    """Values drawn at random: what activations look like, and what breaks calibrators."""
    rng = np.random.default_rng(7)
    normal = rng.normal(size=DRAWN)
    return {
        "normal": lambda: normal,
        "laplace": lambda: rng.laplace(size=DRAWN),
        "student_t3": lambda: rng.standard_t(3, DRAWN),
        "uniform": lambda: rng.uniform(-1, 1, DRAWN),
        "half_normal": lambda: np.abs(normal),
        "relu": lambda: np.maximum(normal, 0),
        "relu6": lambda: np.clip(3 * normal, 0, 6),
        "one_outlier": lambda: np.append(normal, 287.2),
        "lognormal": lambda: rng.lognormal(size=DRAWN),
        "bimodal": lambda: np.concatenate([normal / 2 - 3, normal + 4]),
        "sparse": lambda: np.where(rng.random(DRAWN) < 0.99, 0, normal),
        "negative": lambda: -np.exp(normal),
        "constant": lambda: np.full(1000, 3.14),
        "two_values": lambda: np.where(normal > 1, 0.5, -0.25),
        "subnormal": lambda: normal * 1e-40,
        "huge": lambda: np.clip(normal, -3, 3) * 1e38,
        "many_octaves": lambda: normal * np.exp2(rng.integers(-30, 30, DRAWN)),
    }


def ordinary(name: str) -> Floats:
    """One of :data:`ORDINARY`."""
    return _ordinary()[name]().astype(np.float32)


ORDINARY = tuple(_ordinary())


def _few_valued() -> Samples:
    """Masks, codes, embeddings of flags: few values, far apart, none of which is a tail."""
    rng = np.random.default_rng(7)
    normal = rng.normal(size=DRAWN)
    return {
        "a quarter, 1 %, and one": lambda: np.repeat([0.25, 1.0], [DRAWN // 100, DRAWN - DRAWN // 100]),
        "1 to 8": lambda: np.tile(np.arange(1.0, 9.0), 12345),
        "0.2, 0.5, 1": lambda: rng.choice([0.2, 0.5, 1.0], DRAWN),
        "a mask": lambda: (rng.random(DRAWN) < 0.1).astype(np.float64),
        "one-hot": lambda: np.eye(300).ravel(),
        "a constant": lambda: np.full(DRAWN, 0.7),
        "a bias behind zeros": lambda: np.where(rng.random(DRAWN) < 0.1, rng.choice([0.1, 0.3, 2.0], DRAWN), 0),
        "signs": lambda: np.sign(normal),
        "4-bit codes": lambda: np.rint(np.clip(normal / 0.5, -8, 7)) * 0.5,
        "8-bit codes, signed": lambda: np.rint(np.clip(normal / 0.03, -128, 127)) * 0.03,
        "an 8-bit image": lambda: np.clip(np.rint(120 + 40 * normal), 0, 255) / 255,
        "two close, one far": lambda: rng.choice([0.01, 0.0101, 5.0], DRAWN, p=[0.5, 0.4, 0.1]),
    }


def few_valued(name: str) -> Floats:
    """One of :data:`FEW_VALUED`."""
    return _few_valued()[name]().astype(np.float32)


FEW_VALUED = tuple(_few_valued())
