"""The two ways to the ranges of all tensors: by the values of each, and by what its readers make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from edgekern.calibration.observers.histogram import EXPONENTS
from edgekern.calibration.observers.kinds import HISTOGRAM
from edgekern.calibration.open_runner import one_line
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.tensor_ranges import tensor_ranges
from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.calibration.kept_feeds import KeptFeeds
    from edgekern.calibration.observers.histogram import AnyMethod, Histogram, Method
    from edgekern.calibration.observers.observer_set import ObserverSet
    from edgekern.calibration.ranges import OptionValue, TensorRange
    from edgekern.calibration.runner import FloatRunner

AUTO = "auto"


@dataclass(frozen=True)
class RangeOptions:
    """What is asked of every range; see :meth:`Histogram.range`."""

    method: AnyMethod
    symmetric: bool
    num_bits: int
    num_bins: int | Literal["auto"]
    percentile: float
    exponent: float | None
    skip_zeros: bool

    @property
    def shared(self) -> dict[str, Any]:
        """What holds for every candidate of "auto" as well."""
        names = ("symmetric", "num_bits", "num_bins", "skip_zeros")
        return {name: getattr(self, name) for name in names}

    @property
    def used(self) -> dict[str, OptionValue]:
        """What the method looked at."""
        used: dict[str, OptionValue] = {"symmetric": self.symmetric, "num_bits": self.num_bits}
        if self.method == "percentile":
            used["percentile"] = self.percentile
        if self.method in EXPONENTS:
            used["exponent"] = EXPONENTS[self.method] if self.exponent is None else self.exponent
        if "entropy" in self.method:
            used |= {"num_bins": self.num_bins, "skip_zeros": self.skip_zeros}
        return used


def ranges_by_values(
    function: str, observers: ObserverSet, asked: RangeOptions, *, progress: bool
) -> dict[str, TensorRange]:
    """Of each tensor's histogram alone."""
    seen = sum(histogram.count > 0 for histogram in _histograms(observers).values())
    method = cast("Method", asked.method)
    with progress_bar("choosing ranges", seen, enabled=progress) as step:

        def range_of(name: str, histogram: Histogram) -> tuple[float, float]:
            step()
            return histogram.range(method, percentile=asked.percentile, exponent=asked.exponent, **asked.shared)

        return tensor_ranges(function, observers, range_of, asked.num_bits)


def ranges_by_outputs(
    function: str,
    observers: ObserverSet,
    asked: RangeOptions,
    runner: FloatRunner,
    kept: KeptFeeds,
    *,
    progress: bool,
) -> tuple[dict[str, TensorRange], int]:
    """Of the candidates, the one that costs least where the tensor is read, and how many kept samples say so."""
    from edgekern.calibration.score_outputs import CANDIDATES, MOST_SAMPLES, choose_by_outputs

    if not len(kept):
        raise CalibrationError(
            f"{function}: method 'auto' runs kept samples, and there are none; leave kept_bytes above 0 when the "
            "Calibrator is made and collect again, or choose method='mse'"
        )
    limits = {
        name: {label: histogram.range(**options, **asked.shared) for label, options in CANDIDATES.items()}
        for name, histogram in _histograms(observers).items()
        if histogram.count
    }
    samples = list(kept)[:MOST_SAMPLES]
    with progress_bar("running readers", len(samples), enabled=progress) as step:
        try:
            best, ran = choose_by_outputs(runner, samples, limits, asked.num_bits, done=step)
        except Exception as error:  # onnxruntime raises a class per status, all private
            raise CalibrationError(
                f"{function}: method 'auto' could not run a part of the model: {one_line(error)}; choose another"
            ) from error
    tensors = tensor_ranges(function, observers, lambda name, _: limits[name][best[name]], asked.num_bits)
    return {name: replace(tensor, method=best[name]) for name, tensor in tensors.items()}, ran


def _histograms(observers: ObserverSet) -> Mapping[str, Histogram]:
    return {name: cast("Histogram", kept[HISTOGRAM]) for name, kept in observers.items()}
