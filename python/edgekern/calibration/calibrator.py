"""Calibrator: run a float model on sample data and keep a histogram of every activation, never the activations."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, cast, get_args

import numpy.typing as npt

from edgekern._arguments import file_path, integer
from edgekern._arrays import is_array, unnamed
from edgekern.calibration.checkpoint import load_named, resumable, write_state
from edgekern.calibration.collecting import collect_all
from edgekern.calibration.compute_ranges import AUTO, RangeOptions, ranges_by_outputs, ranges_by_values
from edgekern.calibration.feeds import Feeds, check_feeds, numpy_type
from edgekern.calibration.kept_feeds import LIMIT_BYTES, KeptFeeds
from edgekern.calibration.observed import observed_tensors
from edgekern.calibration.observers.histogram import AnyMethod, Histogram, check_options
from edgekern.calibration.observers.kinds import DEFAULT, HISTOGRAM, KINDS
from edgekern.calibration.observers.observer_set import ObserverSet
from edgekern.calibration.open_runner import one_line, open_runner
from edgekern.calibration.ranges import Ranges
from edgekern.calibration.sources.base import Input, Samples
from edgekern.calibration.tensor_ranges import report_noise
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError
from edgekern.graph.dimensions import fix_dimensions
from edgekern.graph.model import load_model, model_hash, open_model

if TYPE_CHECKING:
    from edgekern.calibration.observers.base import Observer
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

_FORMAT = "edgekern.calibrator"
_VERSION = 3


class Calibrator:
    """Observe the activations of a float model, batch by batch.

    The model runs in onnxruntime as it is written, with the observed tensors as extra outputs. Each is shown to its
    observers and freed: a :class:`Histogram`, and where weights multiply it the mean of each channel. So memory holds
    the weights once and 64 MB of one batch (what later nodes read, if that is more); the result does not depend on the
    order of the batches, on what else is observed, or on where a large batch is cut. A pickle or a copy holds the model
    and what was counted.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
    tensors : names to observe, optional. None is :func:`edgekern.calibration.observed_tensors`.
    observers : kinds to keep beside the histogram, optional. Names of
        :data:`edgekern.calibration.observers.kinds.KINDS`. None is ``["channel_means"]``, which the bias correction of
        quantization uses; ``[]`` leaves it out.
    kept_bytes : what the samples may take that are kept to choose ranges by (:func:`edgekern.choose_ranges`, the method
        "auto"): 32 of those collected, fewer where they are large, one at least; 16 MB by default. 0 keeps none.
    shapes : mapping, optional. Sizes of free dimensions, as for :func:`edgekern.compile`: batches must have them.
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When the model is not ONNX, its opset is unknown, a tensor named is not an activation of it, or ``shapes``
        contradicts it.
    CalibrationError
        When onnxruntime cannot run the model.

    Examples
    --------
    >>> calibrator = Calibrator("model.onnx")                       # doctest: +SKIP
    >>> calibrator.collect_many({"input": x} for x in batches)      # doctest: +SKIP
    >>> ranges = calibrator.compute_ranges(method="entropy")        # doctest: +SKIP
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        tensors: Sequence[str] | None = None,
        observers: Sequence[str] | None = None,
        kept_bytes: int = LIMIT_BYTES,
        shapes: Shapes | None = None,
        progress: bool = True,
    ) -> None:
        read = open_model(model, function="Calibrator")
        opened = fix_dimensions(read, shapes, function="Calibrator")
        known = observed_tensors(opened)
        names = known if tensors is None else _names("tensors", tensors)
        for name in names:
            if name not in known:
                raise ArgumentValueError(
                    f"Calibrator: tensors names {name!r}, which is no float activation of this model; "
                    "observed_tensors(model) lists those"
                )
        kinds = list(DEFAULT if observers is None else dict.fromkeys([HISTOGRAM, *_names("observers", observers)]))
        for kind in kinds:
            if kind not in KINDS:
                raise ArgumentValueError(f"Calibrator: observers names {kind!r}; known are {sorted(KINDS)}")
        self._source = file_path("Calibrator", "model", model).absolute() if _is_path(model) else model
        self._model_hash = model_hash(read)
        self._shapes, self._progress = shapes, progress
        self._num_batches = 0
        self._preprocessing: Mapping[str, Any] | None = None
        self._observers = ObserverSet.of_model(opened, names, kinds)
        fed = {value.name for value in opened.inputs}
        self._fed = [name for name in names if name in fed]
        self._runner = open_runner("Calibrator", "the model", opened, [name for name in names if name not in fed])
        self._inputs = self._runner.inputs
        free = [bool(value.shape) and not isinstance(value.shape[0], int) for value in self._inputs]
        self._kept = KeptFeeds(_kept_bytes(kept_bytes), by_row=all(free))
        self._unranked = {v.name for v in opened.inputs if not v.type.tensor_type.HasField("shape")}

    @property
    def model_hash(self) -> str:
        """Hash of the model; ranges carry it on."""
        return self._model_hash

    @property
    def input_names(self) -> list[str]:
        """Names of the arrays that :meth:`collect` takes."""
        return [value.name for value in self._inputs]

    @property
    def inputs(self) -> Sequence[Input]:
        """Names, shapes and dtypes of the arrays that :meth:`collect` takes."""
        return [Input(v.name, tuple(v.shape), numpy_type(v.type)) for v in self._inputs]

    @property
    def input_shapes(self) -> dict[str, tuple[int | str | None, ...]]:
        """Shapes of the arrays that :meth:`collect` takes; a free size is a name or None."""
        return {value.name: tuple(value.shape) for value in self._inputs}

    @property
    def num_batches(self) -> int:
        """Batches collected."""
        return self._num_batches

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """The histogram of each observed tensor, by name."""
        return {name: cast(Histogram, kept[HISTOGRAM]) for name, kept in self._observers.items()}

    @property
    def kept_feeds(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The samples that were kept, in the order of their hashes."""
        return list(self._kept)

    @property
    def observers(self) -> Mapping[str, Mapping[str, Observer]]:
        """All that is kept of each observed tensor, by name and kind."""
        return self._observers

    def __reduce__(self) -> tuple[Any, ...]:
        """With the model itself, read again where it came from: the receiver may have no such file."""
        proto = load_model(self._source, function="Calibrator")
        if model_hash(proto) != self._model_hash:
            raise CalibrationError(
                "Calibrator: the model has changed since it was given, and a pickle or a copy would be of another; "
                "send state_dict() and load it into a Calibrator of the first model"
            )
        try:
            model = proto.SerializeToString()
        except ValueError as error:  # protobuf's limit of 2 GB
            raise CalibrationError(
                "Calibrator: a model of 2 GB and more cannot be pickled or copied; send state_dict() and load it into "
                "a Calibrator of the same model"
            ) from error
        options = {
            "observers": self._observers.kinds,
            "kept_bytes": self._kept.limit_bytes,
            "shapes": self._shapes and dict(self._shapes),
            "progress": self._progress,
        }
        return _restored, (model, list(self._observers), options, self.state_dict())

    def __repr__(self) -> str:
        return f"Calibrator({len(self._observers)} tensors, num_batches={self._num_batches})"

    def collect(self, feeds: Feeds) -> Self:
        """Run one batch and count its activations.

        Parameters
        ----------
        feeds : mapping of input name to array, as for onnxruntime: NumPy's, or of whichever library lends its memory
            (torch on the CPU, DLPack, ``__array__``, the buffer protocol). Strided ones are copied, with an
            EdgekernWarning. A batch with an empty array counts nothing.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When an input is missing or unknown, or has another dtype or shape than the model says.
        CalibrationError
            When onnxruntime fails on this batch.
        """
        arrays = check_feeds("Calibrator.collect", feeds, self._inputs, self._unranked)
        if any(array.size == 0 for array in arrays.values()):
            return self
        # Counted apart and added when all of the model has run: a batch that fails counts nothing.
        seen: dict[str, Mapping[str, Observer]] = {}
        for values in self._run(arrays):
            seen |= self._observers.of(values)
            del values  # else they would live while the next ones are computed
        self._observers.follow(seen)
        self._kept.offer(arrays)
        self._num_batches += 1
        return self

    def collect_many(
        self,
        batches: Iterable[Feeds],
        *,
        executor: Any = None,
        workers: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Run every batch of an iterable, with progress; see :meth:`collect`.

        Parameters
        ----------
        batches : iterable of feeds, such as :func:`edgekern.samples` gives.
        executor : pool of ``concurrent.futures``, ``dask.distributed.Client`` or the module ``ray``, optional. Each
            worker opens the model once and sends back what it counted; the result has the same bits. Pictures and the
            like are read by the workers, from the same paths.
        workers : int, optional. With an executor, how many tasks run at a time, where it does not say itself; without,
            so many new processes on this machine (a script needs ``if __name__ == "__main__"``).
        checkpoint : path, optional. What is counted is saved there, every half minute, at the end, and when
            a batch fails. Where it exists the calibration goes on from it: batches that it has counted are read, to
            see that they are the same, and not run.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As :meth:`collect`; or the executor is of no kind that is known.
        CalibrationError
            As :meth:`collect`; a batch fails on a worker, with its number; an observer that depends on the order of the
            batches is to be on workers; or the checkpoint is of another model or of other data. What was counted before
            stays counted.
        """
        if isinstance(batches, Mapping):
            raise ArgumentTypeError("Calibrator.collect_many: batches must hold feeds, got one feeds; call collect")
        if is_array(batches) or not isinstance(batches, Iterable):
            raise unnamed("Calibrator.collect_many", "each of batches", batches, self.input_names)
        ordered = self._observers.ordered
        if ordered and (executor is not None or workers not in (None, 1)):
            raise CalibrationError(
                f"Calibrator.collect_many: {ordered[0]!r} depends on the order of the batches, and workers have none; "
                "collect without executor and workers, or leave it out of observers"
            )
        self._note_preprocessing(batches)
        collect_all(self, batches, executor=executor, workers=workers, checkpoint=checkpoint, progress=self._progress)
        return self

    def _note_preprocessing(self, batches: object) -> None:
        """Ranges say how their data was made, so that it is made in one way."""
        made = batches.preprocessing if isinstance(batches, Samples) else None
        if made is not None and self._preprocessing not in (None, dict(made)):
            raise CalibrationError(
                "Calibrator.collect_many: these samples are preprocessed otherwise than the ones before; "
                f"{dict(made)} and {self._preprocessing}"
            )
        self._preprocessing = self._preprocessing if made is None else dict(made)

    def compute_ranges(
        self,
        method: AnyMethod = "mse",
        *,
        symmetric: bool = False,
        num_bits: int = 8,
        num_bins: int | Literal["auto"] = "auto",
        percentile: float = 99.99,
        exponent: float | None = None,
        skip_zeros: bool = True,
    ) -> Ranges:
        """Choose the range of every observed tensor; options are those of :meth:`Histogram.range`.

        "auto" runs the model again on eight samples that were kept, fewer where its activations are large. Of the
        ranges that "mse", "max", "p-norm" of 3, three percentiles and "entropy" give for a tensor it takes the one with
        the least error at the outputs of what reads the tensor; ``TensorRange.method`` names it.
        :func:`edgekern.choose_ranges` tries the methods on the whole model instead.

        Returns
        -------
        Ranges
            Without tensors that never had an element.

        Raises
        ------
        CalibrationError
            When nothing was collected, a tensor had no finite value, or "auto" has no kept sample.

        Warns
        -----
        EdgekernWarning
            For each tensor that had NaN or infinite values, which are left out, or was all zeros. Once, by name, for
            all that their ranges lose: less than 15 dB in 8 bits, 6 dB less for each bit less, but never less than 3.
        """
        function = "Calibrator.compute_ranges"
        check_options(function, method, percentile, exponent, get_args(AnyMethod))
        if self._num_batches == 0:
            raise CalibrationError(
                "Calibrator.compute_ranges: no batch was collected; call collect with sample data first"
            )
        asked = RangeOptions(method, symmetric, num_bits, num_bins, percentile, exponent, skip_zeros)
        used = asked.used
        if method == AUTO:
            tensors, used["samples"] = ranges_by_outputs(
                function, self._observers, asked, self._runner, self._kept, progress=self._progress
            )
        else:
            tensors = ranges_by_values(function, self._observers, asked, progress=self._progress)

        def least_noise(histogram: Histogram) -> tuple[float, float]:
            return histogram.range("mse", symmetric=symmetric, num_bits=num_bits)

        other = None if method == "mse" and exponent in (None, 2) else least_noise
        report_noise(function, self.histograms, tensors, num_bits, other)
        return Ranges(tensors, self._model_hash, method, used, self._preprocessing)

    def emptied(self, *, progress: bool | None = None) -> Self:
        """Another calibrator of the same open model that has counted nothing."""
        fresh = object.__new__(type(self))
        fresh.__dict__ = dict(self.__dict__)
        fresh._observers, fresh._kept = self._observers.emptied(), self._kept.emptied()
        fresh._num_batches, fresh._preprocessing = 0, None
        fresh._progress = self._progress if progress is None else progress
        return fresh

    def merge(self, other: Calibrator) -> Self:
        """Add what another calibrator of the same model counted."""
        if not isinstance(other, Calibrator):
            raise ArgumentTypeError(f"Calibrator.merge: other must be a Calibrator, got {type(other).__name__}")
        self._require_same("merge", "other", other._model_hash, other._observers)
        ordered = self._observers.ordered
        if ordered and self._num_batches and other._num_batches:
            raise CalibrationError(
                f"Calibrator.merge: {ordered[0]!r} depends on the order of the batches, and those of two have none "
                "between them; collect them one after another, or leave it out of observers"
            )
        self._observers.merge(other._observers)
        self._kept.merge(other._kept)
        self._num_batches += other._num_batches
        self._preprocessing = self._preprocessing or other._preprocessing
        return self

    def state_dict(self) -> dict[str, Any]:
        """What was counted, as nested dicts of NumPy arrays, numbers and strings: to save, send, or resume from."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model_hash": self._model_hash,
            "num_batches": self._num_batches,
            "tensors": self._observers.state_dict(),
            "kept": self._kept.state_dict(),
            **({} if self._preprocessing is None else {"preprocessing": dict(self._preprocessing)}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Replace what was counted by a saved state of the same model and tensors.

        Raises
        ------
        CalibrationError
            When the state is of another model, of other tensors or observers, or not a state.
        """
        try:
            if state["format"] != _FORMAT or state["version"] != _VERSION:
                raise ValueError(f"format {state['format']!r}, version {state['version']!r}")
            saved, num_batches = state["tensors"], operator.index(state["num_batches"])
            self._require_same("load_state_dict", "state", str(state["model_hash"]), saved)
            if num_batches < 0:
                raise ValueError(f"{num_batches} batches")
            observers = self._observers.loaded("Calibrator.load_state_dict", saved)
            kept = self._kept.loaded(state["kept"], {v.name: numpy_type(v.type) for v in self._inputs})
        except CalibrationError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"Calibrator.load_state_dict: state is not one that state_dict() made ({error!r})"
            ) from error
        self._observers, self._kept, self._num_batches = observers, kept, num_batches
        self._preprocessing = state.get("preprocessing")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was counted, and the samples that were kept, to a file, atomically; :meth:`resume` reads it."""
        write_state(path, self.state_dict(), "Calibrator.save")

    @classmethod
    def resume(
        cls,
        model: ModelLike,
        path: str | os.PathLike[str],
        *,
        shapes: Shapes | None = None,
        progress: bool = True,
    ) -> Self:
        """A calibrator that goes on from what :meth:`save` or a checkpoint wrote, with its tensors and observers.

        Raises
        ------
        CalibrationError
            When the file is of another model, or no saved calibration.
        """
        state, tensors, observers = resumable(model, path)
        resumed = cls(model, tensors=tensors, observers=observers, shapes=shapes, progress=progress)
        load_named(resumed, state, path, "Calibrator.resume")
        return resumed

    def _require_same(
        self, function: str, argument: str, other_hash: str, tensors: Mapping[str, Iterable[str]]
    ) -> None:
        if other_hash != self._model_hash:
            raise CalibrationError(
                f"Calibrator.{function}: {argument} is of another model ({other_hash[:12]}..., "
                f"this is {self._model_hash[:12]}...)"
            )
        if (difference := self._observers.difference(tensors)) is not None:
            raise CalibrationError(f"Calibrator.{function}: {argument} {difference}")

    def _run(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """What is observed of a batch, some tensors at a time."""
        yield {name: arrays[name] for name in self._fed}
        try:
            yield from self._runner.run(arrays)
        except Exception as error:  # onnxruntime raises a class per status, all private
            message = f"Calibrator.collect: onnxruntime could not run this batch: {one_line(error)}"
            raise CalibrationError(message) from error


def _is_path(model: ModelLike) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(model, (str, os.PathLike))


def _names(argument: str, given: object) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ArgumentTypeError(f"Calibrator: {argument} must be a list of names, got {type(given).__name__}")
    return list(dict.fromkeys(map(str, given)))


def _kept_bytes(given: object) -> int:
    limit = integer("Calibrator", "kept_bytes", given)
    if limit < 0:
        raise ArgumentValueError(f"Calibrator: kept_bytes must be at least 0, got {limit}; 0 keeps no samples")
    return limit


def _restored(model: bytes, tensors: Sequence[str], options: Mapping[str, Any], state: Mapping[str, Any]) -> Calibrator:
    return Calibrator(model, tensors=tensors, **options).load_state_dict(state)
