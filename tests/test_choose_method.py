"""choose_method: the ranges of the method whose quantized model is nearest to the float one."""

import numpy as np
import pytest

import edgekern as ek
from edgekern import quickstart
from edgekern.errors import ArgumentTypeError, CalibrationError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

from edgekern.calibration.score_outputs import CANDIDATES  # noqa: E402
from edgekern.quantization import choose_method  # noqa: E402


@pytest.fixture(scope="module")
def calibrator() -> ek.Calibrator:
    train, _ = quickstart.load_digits()
    return ek.Calibrator(quickstart.MODEL, progress=False).collect({"image": train.images[:64]})


def outputs(model: bytes, calibrator: ek.Calibrator) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], feeds)[0] for feeds in calibrator.kept_feeds])


def test_the_chosen_ranges_are_those_of_the_nearest_model(calibrator: ek.Calibrator) -> None:
    exact = outputs(quickstart.MODEL.read_bytes(), calibrator)

    def error(ranges: ek.Ranges) -> float:
        found = outputs(ek.quantize(quickstart.MODEL, ranges).SerializeToString(), calibrator)
        return float(np.square(found - exact).sum())

    errors = [error(calibrator.compute_ranges(**options)) for options in CANDIDATES.values()]
    chosen = choose_method(calibrator, quickstart.MODEL)
    assert error(chosen) <= 1.02 * min(errors)
    assert min(errors) < 0.9 * max(errors)
    assert chosen.method in {options["method"] for options in CANDIDATES.values()}
    assert choose_method(calibrator, quickstart.MODEL) == chosen


def test_what_cannot_be_chosen_by_is_named() -> None:
    empty = ek.Calibrator(quickstart.MODEL, progress=False)
    with pytest.raises(CalibrationError, match="choose_method: calibrator kept no samples; collect some"):
        choose_method(empty, quickstart.MODEL)
    with pytest.raises(ArgumentTypeError, match="choose_method: calibrator must be a Calibrator, got NoneType"):
        choose_method(None, quickstart.MODEL)  # type: ignore[arg-type]
