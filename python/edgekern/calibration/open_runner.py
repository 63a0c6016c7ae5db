"""Opens the float model in onnxruntime, and says what onnxruntime says when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.calibration.runner import FloatRunner
    from edgekern.graph.skeleton import Skeleton


def open_runner(function: str, called: str, model: Skeleton, names: Sequence[str]) -> FloatRunner:
    """A runner for tensors of a model, which errors call ``called``."""
    from edgekern.calibration.runner import FloatRunner

    try:
        return FloatRunner(model, names, function=function)
    except OSError:
        raise
    except Exception as error:  # onnxruntime raises a class per status, all private
        raise CalibrationError(f"{function}: onnxruntime cannot run {called}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())
