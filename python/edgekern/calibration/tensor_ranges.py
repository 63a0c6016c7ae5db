"""From what observers kept to the range of every tensor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from edgekern.calibration.observers.kinds import CHANNEL_MEANS, HISTOGRAM
from edgekern.calibration.ranges import TensorRange
from edgekern.errors import CalibrationError, ClippingWarning, EdgekernWarning, LeftOutWarning

_MOST_NAMED = 8

if TYPE_CHECKING:
    from edgekern.calibration.observers.histogram import Histogram
    from edgekern.calibration.observers.means import ChannelMeans
    from edgekern.calibration.observers.observer_set import ObserverSet


def tensor_ranges(
    function: str, observers: ObserverSet, range_of: Callable[[str, Histogram], tuple[float, float]], num_bits: int
) -> dict[str, TensorRange]:
    """The range of every tensor that had an element, by ``range_of``, and what ``num_bits`` over it lose.

    Odd tensors are warned about by name.
    """
    histograms = {name: cast("Histogram", kept[HISTOGRAM]) for name, kept in observers.items()}
    seen = {name: h for name, h in histograms.items() if h.count or h.num_nan or h.num_inf}
    for name, h in seen.items():
        _report(function, name, h)
    ranges = {}
    for name, h in seen.items():
        lo, hi = range_of(name, h)
        power, noise = h.powers(lo, hi, num_bits=num_bits)
        means = cast("ChannelMeans | None", observers[name].get(CHANNEL_MEANS))
        ranges[name] = TensorRange(
            lo,
            hi,
            h.count,
            h.num_nan,
            h.num_inf,
            clipped_fraction=h.fraction_outside(lo, hi),
            channel_means=None if means is None else means.values(),
            power=power,
            noise=noise,
        )
    return ranges


def least_db(num_bits: int) -> float:
    """Below it, quantization loses a tensor rather than rounding it.

    Ordinary activations have 30 dB and more in 8 bits, and 6 dB less for each bit less. At 3 dB half of the power is
    noise in any width.
    """
    return max(15.0 - 6.0 * (8 - num_bits), 3.0)


def report_noise(
    function: str,
    histograms: Mapping[str, Histogram],
    ranges: Mapping[str, TensorRange],
    num_bits: int,
    least_noise: Callable[[Histogram], tuple[float, float]] | None,
) -> None:
    """Name the tensors of which a range leaves little, worst first; ``least_noise`` is a choice to compare with."""

    def db(name: str, lo: float, hi: float) -> float:
        return histograms[name].sqnr_db(lo, hi, num_bits=num_bits)

    found = {name: db(name, r.lo, r.hi) for name, r in ranges.items()}
    least = least_db(num_bits)
    low = sorted((name for name in found if found[name] < least), key=found.__getitem__)
    if not low:
        return
    shown = []
    for name in low[:_MOST_NAMED]:
        better = "" if least_noise is None else f", {db(name, *least_noise(histograms[name])):.1f} by mse"
        shown.append(f"{name!r} ({found[name]:.1f} dB{better})")
    more = f" and {len(low) - len(shown)} more" if len(low) > len(shown) else ""
    message = (
        f"{function}: {len(low)} of {len(ranges)} tensors have less than {least:g} dB of signal over the noise of "
        f"{num_bits} bits in their ranges: {', '.join(shown)}{more}; what reads them will be far from float: "
        "choose another method, or leave that part of the model out of quantization"
    )
    warnings.warn(message, ClippingWarning, stacklevel=3)  # whoever called compute_ranges


def _report(function: str, name: str, histogram: Histogram) -> None:
    odd = histogram.num_nan + histogram.num_inf
    counts = f"{histogram.num_nan} NaN and {histogram.num_inf} infinite of {histogram.count + odd} values"
    if histogram.count == 0:
        raise CalibrationError(
            f"{function}: tensor {name!r} had no finite value ({counts}); "
            "look for a division by zero or an overflow before it"
        )
    if odd:
        _warn(f"tensor {name!r}: {counts} were left out of its range", LeftOutWarning)
    if histogram.absmax == 0:
        _warn(f"tensor {name!r}: all {histogram.count} values were 0, so its scale will be 1.0")


def _warn(message: str, category: type[EdgekernWarning] = EdgekernWarning) -> None:
    warnings.warn(message, category, stacklevel=6)  # whoever called compute_ranges
