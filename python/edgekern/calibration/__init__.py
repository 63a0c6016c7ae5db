"""Calibration: from a float model and sample data to the range of every activation.

:class:`Histogram` needs NumPy alone. :class:`Calibrator` and the functions on models need ``edgekern[toolkit]``.
"""

from edgekern.calibration.calibrator import Calibrator
from edgekern.calibration.feeds import Feeds
from edgekern.calibration.measure_coverage import Coverage, CoverageRow, coverage
from edgekern.calibration.observed import observed_tensors, weighted_inputs
from edgekern.calibration.observers.histogram import AnyMethod, Histogram, Method
from edgekern.calibration.ranges import Ranges, TensorRange
from edgekern.calibration.sources.base import Samples
from edgekern.calibration.sources.open_samples import samples
from edgekern.calibration.table import TableRow, table_of
from edgekern.graph.model import load_model, model_hash

__all__ = [
    "AnyMethod",
    "Calibrator",
    "Coverage",
    "CoverageRow",
    "Feeds",
    "Histogram",
    "Method",
    "Ranges",
    "Samples",
    "TableRow",
    "TensorRange",
    "coverage",
    "load_model",
    "model_hash",
    "observed_tensors",
    "samples",
    "table_of",
    "weighted_inputs",
]
