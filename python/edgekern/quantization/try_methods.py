"""Of all methods of choosing ranges, the one whose quantized model is nearest to the float model.

No method is right for every model: each fails some by 20 dB and more. Which one a model wants is seen at its outputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern.calibration import Calibrator, Ranges
from edgekern.calibration.compute_ranges import AUTO
from edgekern.calibration.open_runner import one_line, open_runner
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.score_outputs import CANDIDATES, Options
from edgekern.errors import ArgumentTypeError, CalibrationError, EdgekernError, EdgekernWarning
from edgekern.graph.model import open_model
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.methods import needs_samples
from edgekern.quantization.quantize_model import quantize

if TYPE_CHECKING:
    from edgekern.calibration.runner import FloatRunner
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Outputs = list[Array]

METHODS: dict[str, Options] = {**CANDIDATES, AUTO: {"method": AUTO}}

# All methods run so many samples; those whose error is so many times the least run no more.
FIRST_SAMPLES, FAR = 8, 1.5
# What the float outputs that are compared with may take, those of one sample at least.
OUTPUT_BYTES = 16 << 20


def choose_ranges(
    calibrator: Calibrator,
    model: ModelLike,
    config: QuantConfig | None = None,
    *,
    shapes: Shapes | None = None,
    progress: bool = True,
) -> Ranges:
    """Choose ranges by every method, quantize the model by each, and give those of the model nearest to the float one.

    The methods are "mse", "max", "p-norm" of 3, the percentiles 99.9, 99.99 and 99.999, "entropy", and "auto". What is
    compared is the relative error of the worst output, amplitude over amplitude, as a mean over the samples that the
    calibrator kept: of energies, the one sample that goes most wrong would decide.

    Parameters
    ----------
    calibrator : Calibrator. Of this model, with what was collected; see its ``kept_bytes``.
    model, config, shapes
        As for :func:`edgekern.quantize`. Codes at the borders are left out of the comparison.
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    Ranges
        ``method`` and ``options`` say by which method.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, QuantizationError
        When ``calibrator`` is none, and as :func:`edgekern.quantize`.
    CalibrationError
        When it kept no sample, or onnxruntime cannot run a quantized model.

    Warns
    -----
    EdgekernWarning
        As :meth:`edgekern.Calibrator.compute_ranges` with the method that is chosen.

    Examples
    --------
    >>> ranges = ek.choose_ranges(calibrator, "model.onnx")         # doctest: +SKIP
    >>> qdq = ek.quantize("model.onnx", ranges)                     # doctest: +SKIP
    """
    if not isinstance(calibrator, Calibrator):
        raise ArgumentTypeError(
            f"choose_ranges: calibrator must be a Calibrator, got {type(calibrator).__name__}; make one and collect"
        )
    samples = calibrator.kept_feeds
    if not samples:
        raise CalibrationError(
            "choose_ranges: calibrator kept no samples; collect some, with kept_bytes above 0 when it is made"
        )
    quiet = calibrator.emptied(progress=False).merge(calibrator)  # of two bars at a time neither can be read
    plain = replace(config or QuantConfig(), inputs="float32", outputs="float32")
    if needs_samples(plain):  # what takes minutes says the same of every method
        plain = replace(plain, rounding="filter_sum")
    exact = _float_outputs(model, samples)
    rounds = [part for part in (exact[:FIRST_SAMPLES], exact[FIRST_SAMPLES:]) if part]
    left = dict.fromkeys(METHODS, 0.0)  # of each method the sum of errors
    found: dict[str, tuple[Ranges, list[warnings.WarningMessage]]] = {}
    ran = 0
    with progress_bar("choosing a method", len(METHODS) * len(exact), enabled=progress) as step:
        for part in rounds:
            for name in left:
                if name not in found:
                    found[name] = _ranges_by(quiet, METHODS[name])
                called, fed = f"the model quantized by {name!r}", samples[ran : ran + len(part)]
                made = _quantized_outputs(model, found[name][0], plain, shapes, fed, called)
                for wanted, got in zip(part, made, strict=True):
                    left[name] += _error(wanted, got)
                    step()
            ran += len(part)
            least = min(left.values())
            left = {name: total for name, total in left.items() if total <= FAR * least}
            if len(left) == 1:
                break
    ranges, said = found[min(left, key=left.__getitem__)]
    for message in said:
        warnings.warn(str(message.message), message.category, stacklevel=2)
    return ranges


def _ranges_by(calibrator: Calibrator, options: Options) -> tuple[Ranges, list[warnings.WarningMessage]]:
    """The ranges of one method, and what it warns of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", EdgekernWarning)
        return calibrator.compute_ranges(**options), said


def _float_outputs(model: ModelLike, samples: Sequence[Mapping[str, Array]]) -> list[Outputs]:
    """Of as many samples as there is room for."""
    kept: list[Outputs] = []
    taken = 0
    for outputs in _outputs(_runner(model, "the model"), samples, "the model"):
        taken += sum(array.nbytes for array in outputs)
        if kept and taken > OUTPUT_BYTES:
            break
        kept.append(outputs)
    return kept


def _quantized_outputs(
    model: ModelLike,
    ranges: Ranges,
    config: QuantConfig,
    shapes: Shapes | None,
    samples: Sequence[Mapping[str, Array]],
    called: str,
) -> Iterator[Outputs]:
    """Of the model in 8 bits, which is gone when they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # of methods that are not taken
        runner = _runner(quantize(model, ranges, config, shapes=shapes), called)
    yield from _outputs(runner, samples, called)


def _runner(model: ModelLike, called: str) -> FloatRunner:
    opened = open_model(model, function="choose_ranges")
    return open_runner("choose_ranges", called, opened, [value.name for value in opened.proto.graph.output])


def _outputs(runner: FloatRunner, samples: Sequence[Mapping[str, Array]], called: str) -> Iterator[Outputs]:
    """What a model makes of each sample, in the order of its outputs."""
    for sample in samples:
        try:
            made = {name: np.array(array) for part in runner.run(sample) for name, array in part.items()}
        except Exception as error:  # onnxruntime raises a class per status, all private
            if isinstance(error, EdgekernError):
                raise
            raise CalibrationError(
                f"choose_ranges: onnxruntime could not run {called}: {one_line(error)}; "
                "name a method to compute_ranges, or calibrate with --method"
            ) from error
        yield [made[name] for name in sorted(made)]


def _error(wanted: Outputs, found: Outputs) -> float:
    """Of the worst float output, the error over its own amplitude; shapes that differ tell of none."""
    worst = 0.0
    for want, have in zip(wanted, found, strict=True):
        if want.dtype.kind != "f" or have.shape != want.shape:
            continue
        finite = np.isfinite(want)
        exact = want[finite].astype(np.float64)
        error = np.nan_to_num(have[finite].astype(np.float64) - exact, nan=math.inf)
        power = float(np.square(exact).sum())
        if power:
            worst = max(worst, float(np.square(error).sum()) / power)
    return math.sqrt(worst)
