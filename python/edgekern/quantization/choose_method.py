"""Of several methods of choosing ranges, the one whose quantized model is nearest to the float model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern.calibration import Calibrator, Ranges
from edgekern.calibration.score_outputs import CANDIDATES
from edgekern.errors import ArgumentTypeError, CalibrationError, EdgekernWarning
from edgekern.graph.model import open_model
from edgekern.quantization.quantize_model import quantize

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike
    from edgekern.quantization.config import QuantConfig

Array = npt.NDArray[Any]


def choose_method(
    calibrator: Calibrator, model: ModelLike, config: QuantConfig | None = None, *, shapes: Shapes | None = None
) -> Ranges:
    """Quantize a model by each method, run all on the samples that the calibrator kept, and give the best one's ranges.

    Parameters
    ----------
    calibrator : Calibrator. Of this model, with what was collected; see its ``kept_bytes``.
    model, config, shapes
        As for :func:`edgekern.quantize`.

    Returns
    -------
    Ranges
        Of the method whose worst output has the least energy of error over its own.

    Raises
    ------
    ArgumentTypeError
        When ``calibrator`` is none.
    CalibrationError
        When it kept no sample.
    """
    if not isinstance(calibrator, Calibrator):
        raise ArgumentTypeError(
            f"choose_method: calibrator must be a Calibrator, got {type(calibrator).__name__}; make one and collect"
        )
    samples = calibrator.kept_feeds
    if not samples:
        raise CalibrationError(
            "choose_method: calibrator kept no samples; collect some, with kept_bytes above 0 when it is made"
        )
    wanted = _outputs(model, samples)
    best, least = None, float("inf")
    for options in CANDIDATES.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EdgekernWarning)  # of methods that are not taken
            ranges = calibrator.compute_ranges(**options)
            found = _outputs(quantize(model, ranges, config, shapes=shapes), samples)
        noise = _noise(wanted, found)
        if best is None or noise < least:
            best, least = ranges, noise
    assert best is not None
    return best


def _outputs(model: ModelLike, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Every output, the samples behind one another."""
    from edgekern.calibration.runner import FloatRunner

    opened = open_model(model, function="choose_method")
    names = [value.name for value in opened.proto.graph.output]
    runner = FloatRunner(opened, names, function="choose_method")
    made: dict[str, list[Array]] = {name: [] for name in names}
    for sample in samples:
        for part in runner.run(sample):
            for name, array in part.items():
                made[name].append(np.array(array).reshape(-1))
    return {name: np.concatenate(parts) for name, parts in made.items() if parts}


def _noise(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """Of the worst float output, energy of error over energy; sizes that differ have no error that could be told."""
    ratios = [0.0]
    for name, want in wanted.items():
        if want.dtype.kind != "f" or found[name].shape != want.shape:
            continue
        exact = want.astype(np.float64)
        finite = np.isfinite(exact)
        error = np.where(finite, found[name] - exact, 0.0)
        power = float(np.square(exact[finite]).sum())
        ratios.append(float(np.square(error).sum()) / power if power else 0.0)
    return max(ratios)
