"""Whether calibration saw enough: what its ranges leave out of other data, and how much they still move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from edgekern._arguments import integer
from edgekern._arrays import is_array, unnamed
from edgekern._reports import Chart, Report, table
from edgekern.calibration.feeds import Feeds, check_feeds
from edgekern.calibration.observers.histogram import Histogram, Method
from edgekern.calibration.open_runner import one_line, open_runner
from edgekern.calibration.ranges import Ranges, TensorRange
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError
from edgekern.graph.model import model_hash, open_model

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

# Of other data, so much more than of the data of calibration may lie outside.
MOST_OUTSIDE = 1e-3
# From so much on, more samples change what quantization rounds by.
MOST_MOVED = 0.1
_SHOWN = 20


@dataclass(frozen=True)
class CoverageRow:
    """What one tensor of the data is beside its range.

    Attributes
    ----------
    tensor : name
    lo, hi : the range
    seen_lo, seen_hi : smallest and largest finite value of the data; None where there is none
    count : values seen
    outside : share of them outside the range by more than half a step, which its codes do not hold; NaN and infinities
        are
    calibrated : share of the data of calibration that was, which the method has left out on purpose
    scale_first, scale_last : the step of 8 bits (or of what the ranges are for) when the method chooses a range of the
        first samples, and of more, of this data; None where there were too few, or the method cannot choose
    """

    tensor: str
    lo: float
    hi: float
    seen_lo: float | None
    seen_hi: float | None
    count: int
    outside: float
    calibrated: float
    scale_first: float | None
    scale_last: float | None

    @property
    def moved(self) -> float | None:
        """By which share of itself the step has changed from the first samples to more."""
        if self.scale_first is None or self.scale_last is None:
            return None
        if self.scale_first == self.scale_last:
            return 0.0
        return self.scale_last / self.scale_first - 1 if self.scale_first else float("inf")

    @property
    def mark(self) -> str:
        """What stands out: "outside" with more than a thousandth that was not left out on purpose; "moves" where the
        step has changed by a tenth and more."""
        marks = ["outside"] if self.outside > MOST_OUTSIDE + self.calibrated else []
        marks += ["moves"] if self.moved is not None and abs(self.moved) >= MOST_MOVED else []
        return ", ".join(marks)


@dataclass(frozen=True, repr=False)
class Coverage(Report):
    """Rows of :func:`coverage`, what lies outside most first; ``str()`` is the table of the first 20.

    Attributes
    ----------
    rows : tuple of CoverageRow
    method : of the ranges
    samples : how many there were
    first, last : of how many of them ``scale_first`` and ``scale_last`` are; None where there were too few
    """

    rows: tuple[CoverageRow, ...]
    method: str
    samples: int
    first: int | None
    last: int | None

    _derived: ClassVar[tuple[str, ...]] = ("moved", "mark")

    @property
    def outside(self) -> tuple[str, ...]:
        """Tensors of which more than a thousandth lies outside that calibration had not left out on purpose."""
        return tuple(row.tensor for row in self.rows if "outside" in row.mark)

    @property
    def moving(self) -> tuple[str, ...]:
        """Tensors whose step still changes by a tenth and more."""
        return tuple(row.tensor for row in self.rows if "moves" in row.mark)

    def table(self, count: int | None = None) -> str:
        """The first rows, or all."""
        columns = {"tensor": "<", "lo": ".5g", "hi": ".5g", "seen lo": ".5g", "seen hi": ".5g", "outside": ".3%"}
        columns |= {"at calibration": ".3%", "step moved": "+.1%", "": "<"}
        return table(
            columns,
            [
                (r.tensor, r.lo, r.hi, r.seen_lo, r.seen_hi, r.outside, r.calibrated, r.moved, r.mark)
                for r in self.rows[:count]
            ],
        )

    def __str__(self) -> str:
        left = len(self.rows) - _SHOWN
        more = f"... and {left} tensors more; table() has all, --json too\n" if left > 0 else ""
        moved = "too few samples, or a method that cannot choose anew, to see whether steps still move"
        if self.first is not None:
            moved = (
                f"steps of {self.first} samples against those of {self.last}: {len(self.moving)} move by 10 % and more"
            )
        verdict = f"{len(self.outside)} of {len(self.rows)} tensors have 0.1 % more outside than at calibration"
        return (
            f"{self.table(_SHOWN)}\n{more}{self.samples} samples against ranges by {self.method!r}: {verdict}\n{moved}"
        )

    def __repr__(self) -> str:
        return f"Coverage({len(self.rows)} tensors, {len(self.outside)} outside, {len(self.moving)} moving)"

    def _chart(self) -> Chart:
        bars = [(row.tensor, 100 * row.outside) for row in self.rows]
        return Chart("Values outside the range", "% of the values", bars, {"limit": 100 * MOST_OUTSIDE})


def coverage(
    float_model: ModelLike, ranges: Ranges, data: Iterable[Feeds] | Feeds, *, first: int = 100, last: int = 500
) -> Coverage:
    """Run the float model on data that calibration has not seen, and see what its ranges leave out.

    Parameters
    ----------
    float_model : path, bytes or onnx.ModelProto
    ranges : Ranges. Of this very model.
    data : feeds by input name, or an iterable of them. A sample is a row of the first input's first axis.
    first, last : int
        How many samples the two steps are of whose difference shows whether ranges still move: after the batch with
        which so many are reached, or after all of them where ``last`` are more.

    Returns
    -------
    Coverage
        A row a tensor of the ranges.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, the data is empty, or a feed is not what the model takes.
    CalibrationError
        When the ranges are of another model, or onnxruntime cannot run a batch.
    """
    if not isinstance(ranges, Ranges):
        raise ArgumentTypeError(
            f"coverage: ranges must be Ranges, got {type(ranges).__name__}; Calibrator.compute_ranges gives them"
        )
    first, last = integer("coverage", "first", first), integer("coverage", "last", last)
    if not 1 <= first <= last:
        raise ArgumentValueError(f"coverage: first must be at least 1 and at most last, got {first} and {last}")
    model = open_model(float_model, function="coverage")
    if (found := model_hash(model)) != ranges.model_hash:
        raise CalibrationError(
            f"coverage: ranges must be of float_model, got those of another model (hash {ranges.model_hash[:12]}..., "
            f"float_model has {found[:12]}...); calibrate this model"
        )
    fed = {value.name for value in model.inputs}
    unranked = {value.name for value in model.inputs if not value.type.tensor_type.HasField("shape")}
    runner = open_runner("coverage", "float_model", model, [name for name in ranges if name not in fed])
    names = [value.name for value in runner.inputs]
    if is_array(data) or not isinstance(data, Iterable):
        raise unnamed("coverage", "data", data, names)
    seen = {name: _Seen(tensor, _levels(ranges)) for name, tensor in ranges.items()}
    samples, steps = 0, _Steps(ranges, first, last)
    for feeds in [data] if isinstance(data, Mapping) else data:
        arrays = check_feeds("coverage", feeds, runner.inputs, unranked)
        for name in fed & seen.keys():
            seen[name].add(arrays[name])
        try:
            for values in runner.run(arrays):
                for name, array in values.items():
                    seen[name].add(array)
        except Exception as error:
            raise CalibrationError(f"coverage: onnxruntime could not run a batch of data: {one_line(error)}") from error
        samples += len(arrays[names[0]]) if arrays[names[0]].ndim else 1
        steps.take(samples, seen)
    if samples == 0:
        raise ArgumentValueError("coverage: data is empty; give at least one feed")
    steps.end(samples, seen)
    rows = [one.row(name, steps.first.get(name), steps.last.get(name)) for name, one in seen.items()]
    rows.sort(key=lambda row: (row.calibrated - row.outside, -abs(row.moved or 0.0)))
    return Coverage(tuple(rows), ranges.method, samples, *steps.samples)


_LARGEST = float(np.finfo(np.float32).max)  # masks are that large, and half a step more is infinite


class _Seen:
    """What has been seen of one tensor."""

    def __init__(self, tensor: TensorRange, levels: int) -> None:
        self.tensor, self.histogram = tensor, Histogram()
        half = (tensor.hi - tensor.lo) / levels / 2
        self._lo, self._hi = max(tensor.lo - half, -_LARGEST), min(tensor.hi + half, _LARGEST)
        self.count = self.outside = 0

    def add(self, array: npt.NDArray[Any]) -> None:
        values = np.ascontiguousarray(array, np.float32)
        self.histogram.update(values)
        self.count += values.size
        self.outside += values.size - int(np.count_nonzero((values >= self._lo) & (values <= self._hi)))

    def row(self, name: str, first: float | None, last: float | None) -> CoverageRow:
        there = self.histogram.count > 0
        return CoverageRow(
            name,
            self.tensor.lo,
            self.tensor.hi,
            self.histogram.min if there else None,
            self.histogram.max if there else None,
            self.count,
            self.outside / self.count if self.count else 0.0,
            self.tensor.clipped_fraction,
            first,
            last,
        )


class _Steps:
    """The steps that the method of some ranges chooses, of the first samples and of more."""

    def __init__(self, ranges: Ranges, first: int, last: int) -> None:
        self._ranges, self._first, self._last = ranges, first, last
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.samples: tuple[int | None, int | None] = (None, None)

    def take(self, samples: int, seen: Mapping[str, _Seen]) -> None:
        if self.samples[0] is None and samples >= self._first:
            self.first, self.samples = self._chosen(seen), (samples, None)
        elif self.samples[0] is not None and self.samples[1] is None and samples >= self._last:
            self.last, self.samples = self._chosen(seen), (self.samples[0], samples)

    def end(self, samples: int, seen: Mapping[str, _Seen]) -> None:
        """All samples count where there were less than wanted, but more than the first ones."""
        if self.samples[0] is not None and self.samples[1] is None and samples > self.samples[0]:
            self.last, self.samples = self._chosen(seen), (self.samples[0], samples)
        if not self.first or not self.last:
            self.samples = (None, None)

    def _chosen(self, seen: Mapping[str, _Seen]) -> dict[str, float]:
        options: dict[str, Any] = dict(self._ranges.options)
        levels, steps = _levels(self._ranges), {}
        for name, one in seen.items():
            if one.histogram.count == 0:
                continue
            try:
                lo, hi = one.histogram.range(cast(Method, self._ranges.method), **options)
            except (ArgumentValueError, TypeError):  # ranges of another way to choose, or of several
                continue
            steps[name] = (hi - lo) / levels
        return steps


def _levels(ranges: Ranges) -> int:
    """Steps that a range has."""
    return (1 << int(ranges.options.get("num_bits", 8))) - 1
