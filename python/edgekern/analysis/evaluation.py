"""What a classifier gets right, beside its float model."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._onnxruntime import open_session
from edgekern._warn import warn_caller
from edgekern.analysis._borders import fitted
from edgekern.analysis._rows import cut
from edgekern.artifact import Program, TensorInfo
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.sources import Samples
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.graph.model import load_model
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

    Evaluated = InferenceSession | Program | ModelLike

Array = npt.NDArray[Any]
Scores = Callable[[Mapping[str, Array]], Array]

_FEW = 8  # labels that may be right by chance


@dataclass(frozen=True)
class Evaluation:
    """Shares of samples, all between 0 and 1.

    Attributes
    ----------
    samples : int. How many were run.
    top : mapping of k to the share whose label is among the k highest scores; empty without labels
    float_top : the same of the float model
    agreement : share in which both models have the same highest score; None without a float model
    per_class : mapping of a label to (samples, right ones), by the highest score
    unreadable : samples that were left out because they are damaged
    preprocessing : how files became inputs, where :func:`edgekern.samples` read them
    """

    samples: int
    top: Mapping[int, float] = field(default_factory=dict)
    float_top: Mapping[int, float] = field(default_factory=dict)
    agreement: float | None = None
    per_class: Mapping[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    unreadable: int = 0
    preprocessing: Mapping[str, Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = [f"{self.samples} samples" + (f", {self.unreadable} unreadable" if self.unreadable else "")]
        for k, share in self.top.items():
            beside = ""
            if k in self.float_top:
                beside = f"  float {self.float_top[k]:8.2%}  {100 * (share - self.float_top[k]):+.2f} points"
            lines.append(f"top-{k:<3} {share:8.2%}{beside}")
        if self.agreement is not None:
            lines.append(f"same highest score as float: {self.agreement:.2%}")
        return "\n".join(lines)

    def to_json(self) -> str:
        content = {
            "samples": self.samples,
            "unreadable": self.unreadable,
            "top": {str(k): share for k, share in self.top.items()},
            "float_top": {str(k): share for k, share in self.float_top.items()},
            "agreement": self.agreement,
            "per_class": {str(k): {"samples": n, "right": right} for k, (n, right) in self.per_class.items()},
            "preprocessing": None if self.preprocessing is None else dict(self.preprocessing),
        }
        return json.dumps(content, indent=1)


def evaluate(
    model: Evaluated,
    samples: Iterable[Mapping[str, Any]],
    labels: Sequence[int] | Array | None = None,
    *,
    top: Sequence[int] | None = None,
    versus: Evaluated | None = None,
    output: str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a classifier on samples and count what it gets right.

    Parameters
    ----------
    model : InferenceSession, Program, path of an .ekm; or an ONNX model, which onnxruntime runs
    samples : of :func:`edgekern.samples`, or any iterable of feeds. Where one of the models takes 8-bit codes and the
        other the numbers that they stand for, feeds are of either.
    labels : class of each sample, in their order; None takes those of the samples
    top : which shares to count; None is 1 and 5, as far as there are classes
    versus : the float model, or any other one, to compare with
    output : name of the scores; None is the first output
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    Evaluation

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        Labels are not one integer a sample, or none of the model's classes; an output is no score a class; ``top`` is
        of more classes than there are; there is nothing to count, neither labels nor another model; or a feed does not
        fit.

    Warns
    -----
    EdgekernWarning
        When far more labels would be right if each were one more, or one less.
    """
    ranks = _top((1, 5) if top is None else top)
    given = samples.labels if labels is None and isinstance(samples, Samples) else labels
    truth = None if given is None else _labels(given)
    if truth is None and versus is None:
        raise ArgumentValueError("evaluate: there is nothing to compare with; give labels, or versus (the float model)")
    opened, other = _opened(model), None if versus is None else _opened(versus)
    borders = _borders(other) | _borders(opened)
    ours = _scores(opened, output, borders)
    theirs = None if other is None else _scores(other, None, borders)
    places: list[Array] = []
    float_places: list[Array] = []
    classes: list[Array] = []
    shifts = Counter[int]()
    count = same = num_classes = 0
    with progress_bar("evaluating", _length(samples), enabled=progress) as step:
        for numbers, feeds in _numbered(samples):
            scores = ours(feeds)
            reference = None if theirs is None else theirs(feeds)
            count += len(scores)
            num_classes = scores.shape[1]
            if top is not None and ranks[-1] > num_classes:
                raise ArgumentValueError(f"evaluate: top must be of the model's {num_classes} classes, got {ranks[-1]}")
            if reference is not None:
                if reference.shape != scores.shape:
                    raise ArgumentValueError(
                        f"evaluate: the models give scores of shapes {scores.shape} and {reference.shape} for one feed"
                    )
                same += agreeing(scores, reference)
            if truth is not None:
                of = _of_feed(truth, numbers, scores)
                classes.append(of)
                places.append(places_of(scores, of))
                shifts.update((scores if reference is None else reference).argmax(axis=1) - of)
                if reference is not None:
                    float_places.append(places_of(reference, of))
            step()
    if not count:
        raise ArgumentValueError("evaluate: samples hold none")
    if truth is not None and not isinstance(samples, Samples) and len(truth) != count:
        raise ArgumentValueError(f"evaluate: labels must be one for each sample, got {len(truth)} for {count} samples")
    warn_of_shift("evaluate", shifts, count)
    shown = [k for k in ranks if k <= num_classes]
    return Evaluation(
        samples=count,
        top=_shares(places, shown),
        float_top=_shares(float_places, shown),
        agreement=None if versus is None else same / count,
        per_class=_per_class(places, classes),
        unreadable=len(getattr(samples, "unreadable", ())),
        preprocessing=getattr(samples, "preprocessing", None),
    )


def _numbered(samples: Iterable[Mapping[str, Any]]) -> Iterable[tuple[list[int], Mapping[str, Any]]]:
    if isinstance(samples, Samples):
        yield from samples.numbered()
        return
    if isinstance(samples, (Mapping, str, os.PathLike)) or not isinstance(samples, Iterable):
        raise ArgumentTypeError(
            f"evaluate: samples must be feeds, got {type(samples).__name__}; edgekern.samples reads files and folders"
        )
    first = 0
    for feeds in samples:
        if not isinstance(feeds, Mapping) or not feeds:
            raise ArgumentTypeError(f"evaluate: each of samples must map inputs to arrays, got {type(feeds).__name__}")
        array = next(iter(feeds.values()))
        rows = array.shape[0] if getattr(array, "ndim", 0) else 1
        yield list(range(first, first + rows)), feeds
        first += rows


def _opened(model: Evaluated) -> Any:
    """A session of ours or of onnxruntime's."""
    if isinstance(model, (str, os.PathLike)) and kind_of_file(model) == "ekm":
        model = InferenceSession(model)
    if isinstance(model, Program):
        model = InferenceSession(model)
    if isinstance(model, InferenceSession):
        return model
    encoded = load_model(model, function="evaluate").SerializeToString()
    return open_session(encoded, num_threads=_core.num_threads(), as_written=False)


def _borders(session: Any) -> dict[str, TensorInfo]:
    """The inputs of a program whose codes stand for other numbers."""
    infos = session.program.inputs if isinstance(session, InferenceSession) else ()
    return {info.name: info for info in infos if info.scale is not None and (info.scale, info.zero_point) != (1.0, 0)}


def _scores(session: Any, output: str | None, borders: Mapping[str, TensorInfo]) -> Scores:
    """A function from feeds to (rows, classes) scores."""
    names = [node.name for node in session.get_outputs()]
    if output is not None and output not in names:
        raise ArgumentValueError(f"evaluate: output must be one of {names}, got {output!r}")
    name = names[0] if output is None else output
    shapes = {node.name: node.shape for node in session.get_inputs()}
    floats = {node.name: node.type == "tensor(float)" for node in session.get_inputs()}

    def scores(feeds: Mapping[str, Array]) -> Array:
        try:
            fit = fitted(feeds, floats, borders)
            made = _joined([session.run([name], dict(part))[0] for part in cut(fit, shapes)])
        except Exception as error:
            if isinstance(session, InferenceSession):
                raise
            text = " ".join(str(error).split())  # onnxruntime raises a class per status, all private
            raise ArgumentValueError(f"evaluate: onnxruntime cannot run the model on this feed: {text}") from error
        rows = made.shape[0] if made.ndim else 0
        if made.ndim < 2 or not rows or made.size // rows != max(made.shape[1:]) or made.size == rows:
            raise ArgumentValueError(
                f"evaluate: output {name!r} has the shape {made.shape}, which is no score a class; name another with "
                f"output (--output); there are {names}"
            )
        return np.asarray(made.reshape(rows, -1))

    return scores


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def warn_of_shift(function: str, shifts: Mapping[int, int], count: int) -> None:
    """``shifts`` counts the class of the highest score less the label."""
    right = shifts.get(0, 0)
    shift = max((1, -1), key=lambda one: shifts.get(one, 0))
    would = shifts.get(shift, 0)
    if would > 2 * right and would - right > max(_FEW, count / 5):
        warn_caller(
            f"{function}: {right / count:.2%} of the labels are right, and {would / count:.2%} would be if each were "
            f"one {'more' if shift > 0 else 'less'}; change label_offset (--label-offset) by {shift:+d}"
        )


def _top(given: Sequence[int]) -> list[int]:
    ranks = sorted(set(given)) if not isinstance(given, (str, int)) else []
    if not ranks or not all(isinstance(k, int) and k > 0 for k in ranks):
        raise ArgumentValueError(f"evaluate: top must hold positive integers, such as (1, 5), got {given!r}")
    return ranks


def _labels(given: object) -> Array:
    labels = np.asarray(given)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ArgumentTypeError(
            f"evaluate: labels must be one integer a sample, got {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _of_feed(labels: Array, numbers: list[int], scores: Array) -> Array:
    """The labels of one feed's samples."""
    if len(numbers) != len(scores):
        raise ArgumentValueError(f"evaluate: a feed of {len(numbers)} samples gave {len(scores)} rows of scores")
    if numbers[-1] >= len(labels):
        raise ArgumentValueError(
            f"evaluate: labels must be one for each sample, got {len(labels)} and more than {numbers[-1]} samples"
        )
    of = labels[numbers]
    if of.min() < 0 or of.max() >= scores.shape[1]:
        wrong = int(of.max() if of.min() >= 0 else of.min())
        raise ArgumentValueError(
            f"evaluate: label {wrong} is none of the model's {scores.shape[1]} classes, 0 to {scores.shape[1] - 1}; "
            "shift labels with label_offset (--label-offset), or give those of this model"
        )
    return of


def agreeing(scores: Array, others: Array) -> int:
    """In how many rows both have the same highest score; NaN is none."""
    known = ~(np.isnan(scores).any(axis=1) | np.isnan(others).any(axis=1))
    return int(((scores.argmax(axis=1) == others.argmax(axis=1)) & known).sum())


def places_of(scores: Array, labels: Array) -> Array:
    """How many classes come before the label; equal scores in the order of classes, NaN before all."""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = ~(scores <= own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    before[np.arange(len(labels)), labels] = np.isnan(own[:, 0])
    return np.asarray(before.sum(axis=1))


def _shares(places: list[Array], ranks: list[int]) -> dict[int, float]:
    if not places:
        return {}
    joined = np.concatenate(places)
    return {k: float((joined < k).mean()) for k in ranks}


def _per_class(places: list[Array], classes: list[Array]) -> dict[int, tuple[int, int]]:
    if not places:
        return {}
    right, labels = np.concatenate(places) == 0, np.concatenate(classes)
    return {int(k): (int((labels == k).sum()), int(right[labels == k].sum())) for k in np.unique(labels)}


def _length(samples: object) -> int | None:
    try:
        return len(samples)  # type: ignore[arg-type]
    except TypeError:
        return None
