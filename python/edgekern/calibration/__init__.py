"""Calibration: from a float model and sample data to the range of every activation.

:class:`Histogram` needs NumPy alone. :class:`Calibrator` and the functions on models need ``edgekern[toolkit]``.
"""

from edgekern.calibration.calibrator import Calibrator
from edgekern.calibration.feeds import Feeds
from edgekern.calibration.observed import observed_tensors, weighted_inputs
from edgekern.calibration.observers.histogram import Histogram, Method
from edgekern.calibration.ranges import Ranges, TensorRange
from edgekern.calibration.sources.base import Samples
from edgekern.calibration.sources.open_samples import samples
from edgekern.graph.model import load_model, model_hash

__all__ = [
    "Calibrator",
    "Feeds",
    "Histogram",
    "Method",
    "Ranges",
    "Samples",
    "TensorRange",
    "load_model",
    "model_hash",
    "observed_tensors",
    "samples",
    "weighted_inputs",
]
