"""Host steps: nodes without a kernel, computed by onnxruntime between two segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.artifact import HostStep, Program
from edgekern.errors import ArtifactError, EdgekernError

Array = npt.NDArray[Any]


# Closing one would wait for its threads, and a process forked by others has none of them.
_left_at_fork: list[Any] = []


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
        # Its threads would spin for milliseconds after their work, on the CPUs that our next segment wants.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = program.container.blob(step.blob)[: step.blob_bytes]

        def open_session() -> Any:
            try:
                return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises a class per status, all private
                raise ArtifactError(f"InferenceSession: onnxruntime refuses {step.name}: {error}") from error

        self._name = step.name
        self._open, self._session = open_session, open_session()
        self._inputs = {name: core.tensor(number) for name, number in step.inputs}
        self._outputs = {name: core.tensor(number) for name, number in step.outputs}

    def after_fork(self) -> None:
        """Leave a session whose threads are the parent's: the next run opens one for this process."""
        if self._session is not None:
            _left_at_fork.append(self._session)
            self._session = None

    def run(self) -> None:
        """Read the arena, compute, write the arena."""
        if self._session is None:
            self._session = self._open()
        _core.rest_workers()  # what onnxruntime computes needs the CPUs
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
