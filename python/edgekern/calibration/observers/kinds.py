"""The list of all kinds of observers."""

from __future__ import annotations

from typing import Any

from edgekern.calibration.observed import weighted_inputs
from edgekern.calibration.observers.base import Kind
from edgekern.calibration.observers.gram import GramMatrix
from edgekern.calibration.observers.histogram import Histogram, update_all
from edgekern.calibration.observers.kept_samples import KeptSamples
from edgekern.calibration.observers.means import ChannelMeans
from edgekern.calibration.observers.moving_average import MovingAverage
from edgekern.calibration.observers.statistics import ChannelStatistics

HISTOGRAM, CHANNEL_MEANS = "histogram", "channel_means"

KINDS: dict[str, Kind[Any]] = {
    HISTOGRAM: Kind(Histogram, update_all=update_all),
    CHANNEL_MEANS: Kind(ChannelMeans, watches=weighted_inputs),
    "channel_statistics": Kind(ChannelStatistics),
    "gram": Kind(GramMatrix, watches=weighted_inputs),
    "moving_average": Kind(MovingAverage, follow=MovingAverage.follow, needs_order=True),
    "samples": Kind(KeptSamples, watches=weighted_inputs),
}
DEFAULT = (HISTOGRAM, CHANNEL_MEANS)
