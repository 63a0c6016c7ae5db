"""Weight rounding, the obvious way."""

import itertools

import numpy as np
import numpy.typing as npt


def round_keeping_sum(ratio: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of all ways to round each entry up or down that give the rounded sum: (that sum, the least squared error)."""
    wanted = np.rint(ratio.sum())
    options = itertools.product(*((np.floor(r), np.ceil(r)) for r in ratio))
    errors = [float(((np.array(q) - ratio) ** 2).sum()) for q in options if sum(q) == wanted]
    return float(wanted), min(errors)
