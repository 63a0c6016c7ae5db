"""What activations look like, and what breaks calibrators: named samples of many distributions."""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
DRAWN = 100_000
SPACED = 1_000_000


def drawn(name: str) -> Floats:
    """Values drawn at random: what activations look like, and what breaks calibrators."""
    rng = np.random.default_rng(7)
    normal = rng.normal(size=DRAWN)
    values = {
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
    }[name]()
    return values.astype(np.float32)


NAMES = (
    "normal",
    "laplace",
    "student_t3",
    "uniform",
    "half_normal",
    "relu",
    "relu6",
    "one_outlier",
    "lognormal",
    "bimodal",
    "sparse",
    "negative",
    "constant",
    "two_values",
    "subnormal",
    "huge",
    "many_octaves",
)


def levels_of(x: Floats) -> int:
    return 128 if x.min() < 0 else 256


SPACED_NAMES = (
    "normal",
    "laplace",
    "logistic",
    "student_t2",
    "uniform",
    "exponential",
    "half_normal",
    "relu",
    "lognormal",
    "pareto",
    "gumbel",
    "one_outlier",
    "bimodal",
    "swish",
    "sigmoid",
)


def spaced(name: str) -> Floats:
    """Evenly spaced quantiles: the distribution without the luck of a draw, to which a flat minimum answers loudly."""
    p = (np.arange(SPACED) + 0.5) / SPACED
    normal = np.fromiter(map(NormalDist().inv_cdf, p), np.float64, SPACED)
    values = {
        "normal": lambda: normal,
        "laplace": lambda: np.where(p < 0.5, np.log(2 * p), -np.log(2 - 2 * p)),
        "logistic": lambda: np.log(p / (1 - p)),
        "student_t2": lambda: (2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p))),
        "uniform": lambda: 2 * p - 1,
        "exponential": lambda: -np.log1p(-p),
        "half_normal": lambda: np.abs(normal),
        "relu": lambda: np.maximum(normal, 0),
        "lognormal": lambda: np.exp(normal),
        "pareto": lambda: (1 - p) ** (-1 / 3) - 1,
        "gumbel": lambda: -np.log(-np.log(p)),
        "one_outlier": lambda: np.append(normal, 287.2),
        "bimodal": lambda: np.concatenate([normal / 2 - 3, normal + 4]),
        "swish": lambda: 2 * normal / (1 + np.exp(-2 * normal)),
        "sigmoid": lambda: 1 / (1 + np.exp(-3 * normal)),
    }[name]()
    return values.astype(np.float32)
