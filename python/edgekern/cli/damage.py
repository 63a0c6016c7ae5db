"""Commands that tell what 8 bits cost, where and why."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgekern import analysis, calibration
from edgekern.artifact import Program
from edgekern.calibration.sources import Samples
from edgekern.cli.samples import inputs_for_both
from edgekern.cli.sources import DataOptions, as_ranges, open_data
from edgekern.cli.terminal import printable

_FEW = 16


def sensitivity(
    model: Path,
    ranges: Path,
    data: Sequence[Path],
    *,
    what: Literal["both", "weights", "activations"],
    metric: Literal["sqnr", "kl", "mse"],
    given: DataOptions,
    as_json: bool,
) -> str:
    read = calibration.Ranges.load(ranges)
    feeds = open_data(data, model, as_ranges(given, ranges))
    return _shown(analysis.sensitivity(model, read, few(feeds, given), what=what, metric=metric), as_json)


def compare(model: Path, program: Path, data: Sequence[Path], *, given: DataOptions, as_json: bool) -> str:
    opened = Program.load(program)
    feeds = few(open_data(data, inputs_for_both(opened, model), given, made_for=opened), given)
    return _shown(analysis.compare(model, opened, feeds), as_json)


def coverage(model: Path, ranges: Path, data: Sequence[Path], *, given: DataOptions, as_json: bool) -> str:
    read = calibration.Ranges.load(ranges)
    feeds = open_data(data, model, as_ranges(given, ranges))
    return _shown(calibration.coverage(model, read, feeds), as_json)


def few(read: Samples, given: DataOptions) -> Iterator[Mapping[str, Any]]:
    """Feeds of 16 samples, or of as many as are asked for: they tell layers apart, and their activations are kept."""
    taken = 0
    for feeds in read:
        yield feeds
        taken += len(next(iter(feeds.values())))
        if given.limit is None and taken >= _FEW:
            return


def _shown(report: Any, as_json: bool) -> str:
    text: str = report.to_json() if as_json else printable(str(report))
    return text
