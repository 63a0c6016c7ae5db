"""What activations look like, and what breaks calibrators: named samples of many distributions."""

from statistics import NormalDist

import numpy as np

from bench.distributions import ORDINARY, Floats, ordinary

drawn, NAMES = ordinary, ORDINARY
SPACED = 1_000_000


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
