"""Calibrator: run a float model on sample data and keep a histogram of every activation, never the activations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from edgekern._arguments import file_path
from edgekern._arrays import Lent, is_array, lent, plain, unnamed
from edgekern.calibration.observed import observed_tensors, weighted_inputs
from edgekern.calibration.observers.histogram import Histogram, Method, check_options, update_all
from edgekern.calibration.observers.means import ChannelMeans
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.ranges import Ranges, TensorRange
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning
from edgekern.graph.model import load_model, model_hash, open_model

if TYPE_CHECKING:
    from edgekern.calibration.runner import FloatRunner
    from edgekern.graph.model import ModelLike
    from edgekern.graph.skeleton import Skeleton

Feeds = Mapping[str, Lent]

_FORMAT = "edgekern.calibrator"
_VERSION = 1

_INPUT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Calibrator:
    """Observe the activations of a float model, batch by batch.

    The model runs in onnxruntime as it is written, with the observed tensors as extra outputs. Each is counted into its
    :class:`Histogram` and freed (where weights multiply it, the mean of each channel is kept too), so memory holds the
    weights once and 64 MB of one batch (what later nodes read, if that is more); the result does not depend on the
    order of the batches, on what else is observed, or on where a large batch is cut. A pickle or a copy holds the model
    and what was counted.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
    tensors : names to observe, optional. None is :func:`edgekern.calibration.observed_tensors`.
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When the model is not ONNX, its opset is outside 7..23, or a tensor named is not an activation of it.
    CalibrationError
        When onnxruntime cannot run the model.

    Examples
    --------
    >>> calibrator = Calibrator("model.onnx")                       # doctest: +SKIP
    >>> calibrator.collect_many({"input": x} for x in batches)      # doctest: +SKIP
    >>> ranges = calibrator.compute_ranges(method="entropy")        # doctest: +SKIP
    """

    def __init__(self, model: ModelLike, *, tensors: Sequence[str] | None = None, progress: bool = True) -> None:
        opened = open_model(model, function="Calibrator")
        if tensors is not None and (isinstance(tensors, str) or not isinstance(tensors, Iterable)):
            raise ArgumentTypeError(f"Calibrator: tensors must be a list of names, got {type(tensors).__name__}")
        known = observed_tensors(opened)
        names = known if tensors is None else list(dict.fromkeys(map(str, tensors)))
        for name in names:
            if name not in known:
                raise ArgumentValueError(
                    f"Calibrator: tensors names {name!r}, which is no float activation of this model; "
                    "observed_tensors(model) lists those"
                )
        self._source = file_path("Calibrator", "model", model).absolute() if _is_path(model) else model
        self._model_hash = model_hash(opened)
        self._progress = progress
        self._num_batches = 0
        self._histograms = {name: Histogram() for name in names}
        self._means = {name: ChannelMeans() for name in weighted_inputs(opened) if name in self._histograms}
        fed = {value.name for value in opened.inputs}
        self._fed = [name for name in names if name in fed]
        self._runner = _open_runner(opened, [name for name in names if name not in fed])
        self._inputs = self._runner.inputs

    @property
    def model_hash(self) -> str:
        """Hash of the model; ranges carry it on."""
        return self._model_hash

    @property
    def input_names(self) -> list[str]:
        """Names of the arrays that :meth:`collect` takes."""
        return [value.name for value in self._inputs]

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
        return self._histograms

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
        return _restored, (model, list(self._histograms), self._progress, self.state_dict())

    def __repr__(self) -> str:
        return f"Calibrator({len(self._histograms)} tensors, num_batches={self._num_batches})"

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
        arrays = self._check_feeds(feeds)
        if any(array.size == 0 for array in arrays.values()):
            return self
        # Counted apart and added when all of the model has run: a batch that fails counts nothing.
        histograms: dict[str, Histogram] = {}
        means: dict[str, ChannelMeans] = {}
        for values in self._run(arrays):
            fresh = {name: Histogram() for name in values}
            update_all((fresh[name], array) for name, array in values.items())
            histograms |= fresh
            means |= {name: ChannelMeans().update(values[name]) for name in self._means.keys() & values.keys()}
            del values  # else they would live while the next ones are computed
        for name, histogram in histograms.items():
            self._histograms[name].merge(histogram)
        for name, seen in means.items():
            self._means[name].merge(seen)
        self._num_batches += 1
        return self

    def collect_many(self, batches: Iterable[Feeds]) -> Self:
        """Run every batch of an iterable, with progress; see :meth:`collect`."""
        if isinstance(batches, Mapping):
            raise ArgumentTypeError("Calibrator.collect_many: batches must hold feeds, got one feeds; call collect")
        if is_array(batches) or not isinstance(batches, Iterable):
            raise unnamed("Calibrator.collect_many", "each of batches", batches, self.input_names)
        total = len(batches) if isinstance(batches, Sequence) else None
        with progress_bar("calibrating", total, enabled=self._progress) as step:
            for feeds in batches:
                self.collect(feeds)
                del feeds  # else it would live while the iterable makes the next batch
                step()
        return self

    def compute_ranges(
        self,
        method: Method = "mse",
        *,
        symmetric: bool = False,
        num_bits: int = 8,
        num_bins: int | Literal["auto"] = "auto",
        percentile: float = 99.99,
        exponent: float = 2.0,
        skip_zeros: bool = True,
    ) -> Ranges:
        """Choose the range of every observed tensor; options are those of :meth:`Histogram.range`.

        Returns
        -------
        Ranges
            Without tensors that never had an element.

        Raises
        ------
        CalibrationError
            When nothing was collected, or a tensor had no finite value.

        Warns
        -----
        EdgekernWarning
            For each tensor that had NaN or infinite values, which are left out, or was all zeros.
        """
        check_options("Calibrator.compute_ranges", method, percentile, exponent)
        if self._num_batches == 0:
            raise CalibrationError(
                "Calibrator.compute_ranges: no batch was collected; call collect with sample data first"
            )
        seen = {n: h for n, h in self._histograms.items() if h.count or h.num_nan or h.num_inf}
        for name, h in seen.items():
            self._report(name, h)

        with progress_bar("choosing ranges", len(seen), enabled=self._progress) as step:

            def choose(name: str, histogram: Histogram) -> TensorRange:
                lo, hi = histogram.range(
                    method,
                    symmetric=symmetric,
                    num_bits=num_bits,
                    num_bins=num_bins,
                    percentile=percentile,
                    exponent=exponent,
                    skip_zeros=skip_zeros,
                )
                step()
                clipped = histogram.fraction_outside(lo, hi)
                means = self._means[name].values() if name in self._means else None
                return TensorRange(lo, hi, histogram.count, histogram.num_nan, histogram.num_inf, clipped, means)

            tensors = {name: choose(name, histogram) for name, histogram in seen.items()}
        used: dict[str, Any] = {"symmetric": symmetric, "num_bits": num_bits}
        used |= {"percentile": percentile} if method == "percentile" else {}
        used |= {"exponent": exponent} if method == "mse" else {}
        used |= {"num_bins": num_bins, "skip_zeros": skip_zeros} if method == "entropy" else {}
        return Ranges(tensors, self._model_hash, method, used)

    def merge(self, other: Calibrator) -> Self:
        """Add what another calibrator of the same model counted."""
        if not isinstance(other, Calibrator):
            raise ArgumentTypeError(f"Calibrator.merge: other must be a Calibrator, got {type(other).__name__}")
        self._require_same("merge", "other", other._model_hash, other._histograms)
        for name, histogram in other._histograms.items():
            self._histograms[name].merge(histogram)
        for name, means in other._means.items():
            self._means[name].merge(means)
        self._num_batches += other._num_batches
        return self

    def state_dict(self) -> dict[str, Any]:
        """What was counted, as nested dicts of NumPy arrays, numbers and strings: to save, send, or resume from."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model_hash": self._model_hash,
            "num_batches": self._num_batches,
            "tensors": {name: histogram.state_dict() for name, histogram in self._histograms.items()},
            "means": {name: means.state_dict() for name, means in self._means.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Replace what was counted by a saved state of the same model and tensors.

        Raises
        ------
        CalibrationError
            When the state is of another model, of other tensors, or not a state.
        """
        try:
            if state["format"] != _FORMAT or state["version"] != _VERSION:
                raise ValueError(f"format {state['format']!r}, version {state['version']!r}")
            self._require_same("load_state_dict", "state", str(state["model_hash"]), state["tensors"])
            histograms = {name: Histogram.from_state_dict(state["tensors"][name]) for name in self._histograms}
            means = {name: ChannelMeans.from_state_dict(state["means"][name]) for name in self._means}
            num_batches = int(state["num_batches"])
        except CalibrationError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"Calibrator.load_state_dict: state is not one that state_dict() made ({error!r})"
            ) from error
        self._histograms, self._means, self._num_batches = histograms, means, num_batches
        return self

    def _require_same(self, function: str, argument: str, other_hash: str, names: Iterable[str]) -> None:
        if other_hash != self._model_hash:
            raise CalibrationError(
                f"Calibrator.{function}: {argument} is of another model ({other_hash[:12]}..., "
                f"this is {self._model_hash[:12]}...)"
            )
        if different := set(names) ^ set(self._histograms):
            raise CalibrationError(
                f"Calibrator.{function}: {argument} observes other tensors; {min(different)!r} is in one of them only"
            )

    def _run(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """What is observed of a batch, some tensors at a time."""
        yield {name: arrays[name] for name in self._fed}
        try:
            yield from self._runner.run(arrays)
        except Exception as error:  # onnxruntime raises a class per status, all private
            message = f"Calibrator.collect: onnxruntime could not run this batch: {_one_line(error)}"
            raise CalibrationError(message) from error

    def _check_feeds(self, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        function = "Calibrator.collect"
        names = self.input_names
        if not isinstance(feeds, Mapping):
            raise unnamed(function, "feeds", feeds, names)
        for name in feeds:
            if name not in names:
                raise ArgumentValueError(f"{function}: feeds has {name!r}, but the model's inputs are {names}")
        arrays: dict[str, npt.NDArray[Any]] = {}
        for value in self._inputs:
            if value.name not in feeds:
                raise ArgumentValueError(f"{function}: feeds lacks {value.name!r}; the model's inputs are {names}")
            array = self._array(f"feeds[{value.name!r}]", feeds[value.name])
            wanted = _INPUT_DTYPES.get(value.type)
            if wanted is not None and array.dtype != wanted:
                raise ArgumentTypeError(
                    f"{function}: feeds[{value.name!r}] must be {wanted}, got {array.dtype}; convert it with astype"
                )
            fits = array.ndim == len(value.shape) and all(
                not isinstance(want, int) or have == want for have, want in zip(array.shape, value.shape, strict=True)
            )
            if not fits:
                shape = "(" + ", ".join(str(d) if d is not None else "?" for d in value.shape) + ")"
                raise ArgumentValueError(
                    f"{function}: feeds[{value.name!r}] has shape {array.shape}, but the model takes {shape}"
                )
            arrays[value.name] = plain(function, f"feeds[{value.name!r}]", array)
        return arrays

    @staticmethod
    def _array(argument: str, given: object) -> npt.NDArray[Any]:
        try:
            return np.asarray(lent("Calibrator.collect", argument, given))
        except ValueError as error:  # lists of different lengths
            raise ArgumentTypeError(
                f"Calibrator.collect: {argument} must be an array, got {type(given).__name__}"
            ) from error

    @staticmethod
    def _report(name: str, histogram: Histogram) -> None:
        odd = histogram.num_nan + histogram.num_inf
        counts = f"{histogram.num_nan} NaN and {histogram.num_inf} infinite of {histogram.count + odd} values"
        if histogram.count == 0:
            raise CalibrationError(
                f"Calibrator.compute_ranges: tensor {name!r} had no finite value ({counts}); "
                "look for a division by zero or an overflow before it"
            )
        if odd:
            warnings.warn(f"tensor {name!r}: {counts} were left out of its range", EdgekernWarning, stacklevel=3)
        if histogram.absmax == 0:
            message = f"tensor {name!r}: all {histogram.count} values were 0, so its scale will be 1.0"
            warnings.warn(message, EdgekernWarning, stacklevel=3)


def _is_path(model: ModelLike) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(model, (str, os.PathLike))


def _restored(model: bytes, tensors: Sequence[str], progress: bool, state: Mapping[str, Any]) -> Calibrator:
    return Calibrator(model, tensors=tensors, progress=progress).load_state_dict(state)


def _open_runner(model: Skeleton, names: Sequence[str]) -> FloatRunner:
    from edgekern.calibration.runner import FloatRunner

    try:
        return FloatRunner(model, names)
    except OSError:
        raise
    except Exception as error:  # onnxruntime raises a class per status, all private
        raise CalibrationError(f"Calibrator: onnxruntime cannot run the model: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
