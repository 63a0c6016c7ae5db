"""Calibration: from a float model and sample data to the range of every activation.

:class:`Histogram` needs NumPy alone. :class:`Calibrator` and the functions on models need ``edgekern[toolkit]``.
"""

from edgekern.calibration.calibrator import Calibrator
from edgekern.calibration.feeds import Feeds
from edgekern.calibration.measure_coverage import Coverage, CoverageRow, coverage
from edgekern.calibration.observed import observed_tensors, weighted_inputs
from edgekern.calibration.observers.histogram import Histogram, Method
from edgekern.calibration.ranges import Ranges, TensorRange
from edgekern.graph.model import load_model, model_hash

__all__ = [
    "Calibrator",
    "Coverage",
    "CoverageRow",
    "Feeds",
    "Histogram",
    "Method",
    "Ranges",
    "TensorRange",
    "coverage",
    "load_model",
    "model_hash",
    "observed_tensors",
    "weighted_inputs",
]
