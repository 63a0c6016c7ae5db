"""A program beside its float model on the same samples, in one pass: error of each output, right answers, agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arrays import is_array, unnamed
from edgekern.analysis.evaluation import agreeing, places_of, warn_of_shift
from edgekern.analysis.figures import Sums, worst_first
from edgekern.analysis.runs import Run
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.sources import Samples
from edgekern.errors import ArgumentTypeError, ArgumentValueError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What the two have given.

    Attributes
    ----------
    samples : how many were run
    outputs : error of each float output
    top, float_top : shares whose label is among the k highest scores; None without labels
    agreement : share in which both have the same highest score; None where it was not asked for
    """

    samples: int
    outputs: Mapping[str, Sums]
    top: float | None = None
    float_top: float | None = None
    agreement: float | None = None

    @property
    def drop(self) -> float:
        """What the program loses of the right answers; negative where it gains."""
        assert self.top is not None
        assert self.float_top is not None
        return self.float_top - self.top

    @property
    def worst(self) -> tuple[str, Sums]:
        """The output with the least signal to noise."""
        return min(self.outputs.items(), key=lambda each: worst_first(each[1].sqnr_db))


def side_by_side(
    ours: Run,
    theirs: Run,
    samples: Iterable[Mapping[str, Any]] | Mapping[str, Any],
    labels: Array | None,
    *,
    function: str,
    scores: str | None,
    top: int = 1,
    progress: bool = True,
) -> Seen:
    """Run both on all samples.

    Parameters
    ----------
    labels : (samples,) class of each; None counts no right answers
    scores : name of the output whose scores are ranked; None ranks none

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When there is no sample, the models have no output in common or of other shapes, scores are no score a class,
        ``top`` is of all classes, or labels do not fit.

    Warns
    -----
    EdgekernWarning
        When far more labels would be right if each were one more, or one less.
    """
    sums: dict[str, Sums] = {}
    places, float_places, shifts = list[Array](), list[Array](), Counter[int]()
    count = same = 0
    total = len(samples) if isinstance(samples, Sized) else None
    with progress_bar("beside float", total, enabled=progress) as step:
        for numbers, feeds in numbered(function, samples):
            mine, real = ours(feeds), theirs(feeds)
            _add(function, sums, mine, real)
            if scores is not None:
                ranked, expected = (_ranked(function, each, scores) for each in (mine, real))
                same += agreeing(ranked, expected)
                if labels is not None:
                    of = _classes(function, labels, numbers, ranked)
                    if top >= ranked.shape[1]:
                        raise ArgumentValueError(
                            f"{function}: top must be less than the model's {ranked.shape[1]} classes, else all is "
                            f"right, got {top}"
                        )
                    places.append(places_of(ranked, of))
                    float_places.append(places_of(expected, of))
                    shifts.update((expected.argmax(axis=1) - of).tolist())
            count += len(numbers)
            step()
    if not count:
        raise ArgumentValueError(f"{function}: data holds no samples; give some")
    if labels is not None and not isinstance(samples, Samples) and len(labels) != count:
        raise ArgumentValueError(
            f"{function}: labels must be one for each sample, got {len(labels)} for {count} samples"
        )
    warn_of_shift(function, shifts, count)
    right, float_right = (
        float((np.concatenate(each) < top).mean()) if each else None for each in (places, float_places)
    )
    return Seen(count, sums, right, float_right, None if scores is None else same / count)


def numbered(function: str, samples: object) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
    """Each feed with the numbers of the samples in it."""
    if isinstance(samples, Samples):
        yield from samples.numbered()
        return
    if is_array(samples) or not isinstance(samples, Iterable) or isinstance(samples, str):
        raise unnamed(function, "data", samples, [])
    first = 0
    for feeds in [samples] if isinstance(samples, Mapping) else samples:
        if not isinstance(feeds, Mapping) or not feeds:
            raise ArgumentTypeError(
                f"{function}: each of data must map inputs to arrays, got {type(feeds).__name__}; edgekern.samples "
                "reads files and folders"
            )
        array = next(iter(feeds.values()))
        rows = array.shape[0] if getattr(array, "ndim", 0) else 1
        yield list(range(first, first + rows)), feeds
        first += rows


def labels_of(function: str, samples: object, labels: object) -> Array | None:
    """Those that were given, else those of the samples.

    Raises
    ------
    ArgumentTypeError
        When they are not one integer a sample.
    """
    given = samples.labels if labels is None and isinstance(samples, Samples) else labels
    if given is None:
        return None
    found = np.asarray(given)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ArgumentTypeError(
            f"{function}: labels must be one integer a sample, got {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64)


def _add(function: str, sums: dict[str, Sums], mine: Mapping[str, Array], real: Mapping[str, Array]) -> None:
    common = [name for name in real if name in mine]
    if not common:
        raise ArgumentValueError(
            f"{function}: program has the outputs {sorted(mine)} and float_model {sorted(real)}, and none is in both; "
            "is it another model?"
        )
    for name in (name for name in common if real[name].dtype.kind == "f"):
        if mine[name].shape != real[name].shape:
            raise ArgumentValueError(
                f"{function}: output {name!r} has the shape {mine[name].shape} in program and {real[name].shape} in "
                "float_model; is it another model?"
            )
        sums.setdefault(name, Sums()).add(real[name], mine[name])


def _ranked(function: str, outputs: Mapping[str, Array], scores: str) -> Array:
    """(rows, classes) scores."""
    if scores not in outputs:
        raise ArgumentValueError(f"{function}: output must be one of {sorted(outputs)}, got {scores!r}")
    array = outputs[scores]
    rows = array.shape[0] if array.ndim else 0
    if array.ndim < 2 or not rows or array.size // rows != max(array.shape[1:]) or array.size == rows:
        raise ArgumentValueError(
            f"{function}: output {scores!r} has the shape {array.shape}, which is no score a class; name another with "
            f"output (--output); there are {sorted(outputs)}"
        )
    return array.reshape(rows, -1)


def _classes(function: str, labels: Array, numbers: list[int], scores: Array) -> Array:
    """The labels of one feed's samples."""
    if len(numbers) != len(scores) or numbers[-1] >= len(labels):
        raise ArgumentValueError(
            f"{function}: labels must be one for each sample, got {len(labels)}, and a feed of samples {numbers[0]} to "
            f"{numbers[-1]} gave {len(scores)} rows of scores"
        )
    of = labels[numbers]
    if of.min() < 0 or of.max() >= scores.shape[1]:
        wrong = int(of.max() if of.min() >= 0 else of.min())
        raise ArgumentValueError(
            f"{function}: label {wrong} is none of the model's {scores.shape[1]} classes, 0 to {scores.shape[1] - 1}; "
            "shift labels with label_offset (--label-offset), or give those of this model"
        )
    return np.asarray(of)
