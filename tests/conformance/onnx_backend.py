"""edgekern as a backend of the onnx package: a model compiles without a host step, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep

import edgekern as ek


class _Prepared(BackendRep):
    def __init__(self, program: ek.Program) -> None:
        self._session = ek.InferenceSession(program)
        self._names = [info.name for info in program.inputs]

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        return tuple(self._session.run(None, dict(zip(self._names, inputs, strict=True))))


class EdgekernBackend(Backend):
    """Every node on a kernel: ``prepare`` raises HostStepError where one has none."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> BackendRep:
        return _Prepared(ek.compile(model, allow_host=False))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"
