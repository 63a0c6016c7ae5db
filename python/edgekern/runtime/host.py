"""Host steps: nodes without a kernel, computed by onnxruntime between two segments."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import number
from edgekern._extras import install
from edgekern._onnxruntime import open_session, run_to_end
from edgekern.artifact import HostStep, Program
from edgekern.artifact.host_constants import only_weights_fold
from edgekern.artifact.host_model import check_host_model
from edgekern.errors import ArgumentValueError, ArtifactError, EdgekernError, HostStepError, HostTimeoutError

Array = npt.NDArray[Any]

HOST_TIMEOUT_S = 60.0  # a layer takes milliseconds; a loop without an end takes all of it
_SOON_S = 0.002  # many times what the thread of a watched run costs


def host_timeout(value: object) -> float | None:
    """``host_timeout_s``, checked."""
    if value is None:
        return None
    seconds = number("InferenceSession", "host_timeout_s", value)
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ArgumentValueError(
            f"InferenceSession: host_timeout_s must be a positive number of seconds or None, got {value!r}"
        )
    return seconds


def refuse_host_steps(program: Program, function: str) -> None:
    """The answer to ``allow_host=False``.

    Raises
    ------
    HostStepError
        When the program has host steps; it names each with its nodes and the reason.
    """
    steps = {step.name: step for one in (program, *program.alternatives) for step in one.host_steps}
    if not steps:
        return
    lines = [f"  {name}: {step}" for name, step in steps.items()]
    count = "1 step needs" if len(lines) == 1 else f"{len(lines)} steps need"
    raise HostStepError("\n".join([f"{function}: {count} onnxruntime, and allow_host=False forbids it", *lines]))


# Closing one would wait for its threads, and a process forked by others has none of them.
_left_at_fork: list[Any] = []


class HostRunner:
    """One host step, bound to a session's arena.

    Parameters
    ----------
    timeout_s : seconds that a run may take, or None

    Raises
    ------
    EdgekernError
        When onnxruntime is not installed.
    ArtifactError
        When onnxruntime cannot read the sub-model, or it has other inputs and outputs than the program says.
    """

    def __init__(
        self, program: Program, step: HostStep, core: _core.Session, num_threads: int, timeout_s: float | None
    ) -> None:
        model = bytes(program.host_model(step))
        self._loops = check_host_model(model, step.name)  # of these very bytes: a mapped file may have changed

        # What is constant is folded already, but for weights behind a DequantizeLinear.
        fold = not self._loops and only_weights_fold(model)

        def open_here() -> Any:
            try:
                # Its threads would spin on the CPUs that our next segment wants.
                return open_session(model, num_threads=num_threads, as_written=False, fold=fold, spin=False)
            except ModuleNotFoundError as error:
                raise EdgekernError(
                    f"InferenceSession: {step.name} ({'+'.join(step.operators)}) runs in onnxruntime, which is not "
                    f"installed; {install('toolkit')}"
                ) from error
            except Exception as error:  # onnxruntime raises a class per status, all private
                raise ArtifactError(f"InferenceSession: onnxruntime refuses {step.name}: {error}") from error

        self._open, self._session = open_here, open_here()
        self._name, self._timeout_s = step.name, timeout_s
        self._inputs = {name: core.tensor(number) for name, number in step.inputs}
        self._outputs = {name: core.tensor(number) for name, number in step.outputs}
        takes = {value.name for value in self._session.get_inputs()}
        gives = {value.name for value in self._session.get_outputs()}
        if takes != self._inputs.keys() or not gives >= self._outputs.keys():
            raise ArtifactError(
                f"InferenceSession: the model of {step.name} computes {sorted(gives)} from {sorted(takes)}, but the "
                f"program wants {sorted(self._outputs)} from {sorted(self._inputs)}; compile it again"
            )
        self._watched = True

    def after_fork(self) -> None:
        """Leave a session whose threads are the parent's: the next run opens one for this process."""
        if self._session is not None:
            _left_at_fork.append(self._session)
            self._session = None

    def run(self) -> None:
        """Read the arena, compute, write the arena."""
        for (name, place), result in zip(self._outputs.items(), self._compute(), strict=True):
            if not isinstance(result, np.ndarray) or result.shape != place.shape or result.dtype != place.dtype:
                found = (
                    f"{result.dtype}{list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
                )
                raise EdgekernError(
                    f"run: '{name}' of {self._name} came as {found}, but the program was compiled for "
                    f"{place.dtype}{list(place.shape)}"
                )
            np.copyto(place, result)

    def _compute(self) -> list[Any]:
        if self._session is None:
            self._session = self._open()
        _core.rest_workers()  # what onnxruntime computes needs the CPUs
        names, start = list(self._outputs), time.monotonic()
        try:
            if not self._watched:
                return list(self._session.run(names, self._inputs))
            results = run_to_end(self._session, names, self._inputs, self._timeout_s)
        except TimeoutError as error:
            raise HostTimeoutError(
                f"run: {self._name} has not ended within {self._timeout_s:g} s in onnxruntime; give InferenceSession a "
                "larger host_timeout_s, or None to wait for ever"
            ) from error
        except Exception as error:
            raise EdgekernError(f"run: {self._name} failed in onnxruntime: {error}") from error
        # What is soon done and turns in no loop does without the thread from now on: its shapes are fixed.
        self._watched = self._loops or time.monotonic() - start > _SOON_S
        return results
