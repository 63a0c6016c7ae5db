"""Host steps: nodes without a kernel, computed by onnxruntime between two segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.artifact import HostStep, Program
from edgekern.errors import ArtifactError, EdgekernError

Array = npt.NDArray[Any]


class HostRunner:
    """One host step, bound to a session's arena.

    Raises
    ------
    EdgekernError
        When onnxruntime is not installed.
    ArtifactError
        When onnxruntime cannot read the sub-model.
    """

    def __init__(self, program: Program, step: HostStep, core: _core.Session, num_threads: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise EdgekernError(
                f"InferenceSession: {step.name} ({'+'.join(step.operators)}) runs in onnxruntime, which is not "
                "installed; pip install 'edgekern[toolkit]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = num_threads
        model = program.container.blob(step.blob)[: step.blob_bytes]
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class per status, all private
            raise ArtifactError(f"InferenceSession: onnxruntime refuses {step.name}: {error}") from error
        self._name = step.name
        self._inputs = {name: core.tensor(number) for name, number in step.inputs}
        self._outputs = {name: core.tensor(number) for name, number in step.outputs}

    def run(self) -> None:
        """Read the arena, compute, write the arena."""
        try:
            results = self._session.run(list(self._outputs), self._inputs)
        except Exception as error:
            raise EdgekernError(f"run: {self._name} failed in onnxruntime: {error}") from error
        for (name, place), result in zip(self._outputs.items(), results, strict=True):
            result = np.asarray(result)
            if result.shape != place.shape or result.dtype != place.dtype:
                raise EdgekernError(
                    f"run: '{name}' of {self._name} came as {result.dtype}{list(result.shape)}, but the program was "
                    f"compiled for {place.dtype}{list(place.shape)}"
                )
            np.copyto(place, result)
