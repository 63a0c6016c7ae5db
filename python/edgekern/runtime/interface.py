"""OnnxruntimeMethods: what onnxruntime's sessions have beside ``run``, for InferenceSession."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from edgekern._arguments import file_path
from edgekern._arrays import Lent, written_array
from edgekern.artifact import ModelMetadata, Program, TensorInfo
from edgekern.artifact.container import Verify
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError
from edgekern.file_kinds import kind_of, kind_of_file
from edgekern.runtime.binding import Binding, SizedBinding
from edgekern.runtime.buckets import Sized
from edgekern.runtime.element_types import tensor_type
from edgekern.runtime.io_binding import IOBinding
from edgekern.runtime.options import SessionOptions, check_run_options
from edgekern.runtime.ort_value import OrtValue
from edgekern.runtime.providers import CPU, Providers, check_providers
from edgekern.runtime.run_trace import RunTrace

if TYPE_CHECKING:
    from edgekern.runtime.runner import Arena, Runner

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NodeArg:
    """An input or output as onnxruntime describes it: ``name``, ``shape``, ``type`` such as "tensor(float)".

    8 bits stand for ``(code - zero_point) * scale``: 1 and 0 where they are numbers themselves, None of other types.
    """

    name: str
    shape: Sequence[int | str]
    type: str
    scale: float | None = None
    zero_point: int | None = None


def opened(source: Any, verify: Verify) -> Program:
    """The program in a file or in bytes; an ONNX model is refused with the lines that compile it."""
    if isinstance(source, Program):
        return source
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise ArgumentTypeError(
            f"InferenceSession: path_or_bytes must be a path, bytes or Program, got {type(source).__name__}"
        )
    given = source if isinstance(source, bytes) else file_path("InferenceSession", "path_or_bytes", source)
    try:
        return Program.load(given, verify=verify)
    except ArtifactError as error:
        if (kind_of(given) if isinstance(given, bytes) else kind_of_file(given)) != "onnx":
            raise
        model, target = (
            ("model", "model.ekm") if isinstance(given, bytes) else (repr(str(given)), str(given.with_suffix(".ekm")))
        )
        raise ArtifactError(
            f"{error}. Compile it once, and open what is written:\n"
            f"    edgekern.compile({model}).save({target!r})\n"
            f"    session = edgekern.InferenceSession({target!r})"
        ) from error


class OnnxruntimeMethods(ABC):
    """Methods of a session that runs programs; see :class:`InferenceSession`."""

    _program: Program
    _arenas: tuple[Arena, ...]
    _ran: Runner  # last
    _sized: Sized | None
    _session_options: SessionOptions
    _run_trace: RunTrace | None

    @abstractmethod
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Lent]) -> list[Array]: ...

    @abstractmethod
    def _on_runner(self, size: int, call: Callable[[Runner], object]) -> None: ...

    def get_inputs(self) -> list[NodeArg]:
        """What :meth:`run` wants; a dimension of several sizes is there by its name."""
        return [self._node_arg(info, output=False) for info in self._program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What :meth:`run` gives."""
        return [self._node_arg(info, output=True) for info in self._program.outputs]

    def _node_arg(self, info: TensorInfo, *, output: bool) -> NodeArg:
        shape = list(info.shape) if self._sized is None else self._sized.shape(info.name, output=output)
        return NodeArg(info.name, shape, tensor_type(info.dtype), info.scale, info.zero_point)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: constants are compiled."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the ONNX model said of itself, and under "edgekern.quantization" what its quantizer did."""
        told, quantization = self._program.model_metadata, self._program.manifest.quantization
        if not quantization:
            return told
        return replace(told, custom_metadata_map={**told.custom_metadata_map, QUANTIZATION_KEY: quantization})

    def get_session_options(self) -> SessionOptions:
        """A copy of the options that the session was given."""
        return SessionOptions.of(self._session_options)

    def get_providers(self) -> list[str]:
        """["CPUExecutionProvider"]."""
        return [CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """No options, by the provider's name."""
        return {CPU: {}}

    def set_providers(
        self, providers: Providers | None = None, provider_options: Sequence[Mapping[Any, Any]] | None = None
    ) -> None:
        """Checked as those of a new session, and without effect: there is one."""
        check_providers("set_providers", providers, provider_options)

    def disable_fallback(self) -> None:  # noqa: B027
        """Nothing: no run falls back to another provider."""

    def enable_fallback(self) -> None:  # noqa: B027
        """Nothing: no run falls back to another provider."""

    def bind(
        self, inputs: Mapping[str, Lent | None] | None = None, outputs: Mapping[str, Lent | None] | None = None
    ) -> Binding:
        """Check arrays once and run on them any number of times.

        Parameters
        ----------
        inputs : an array for each input, of the dtype and shape that :meth:`get_inputs` states, C-contiguous and
            aligned: NumPy's, of whichever library lends its memory, or plain bytes of the right number (a bytearray, a
            memoryview, an mmap). None is a new one; None for all of them too
        outputs : the same for the outputs wanted, writeable

        Returns
        -------
        Binding
            Its ``run()`` makes no array and looks at none.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When a name is unknown or missing, or an array is not so.
        """
        number = 0 if self._sized is None else self._sized.whole("bind", _given(inputs, self._program))
        return Binding(self._arenas[0].runners[number], partial(self._on_runner, number), inputs, outputs)

    def _bound(self, inputs: Mapping[str, Lent | None], outputs: Mapping[str, Lent | None]) -> Binding | SizedBinding:
        """As :meth:`bind`, and of any sizes that :meth:`run` takes."""
        if self._sized is None:
            return self.bind(inputs, outputs)
        arrays = _given(inputs, self._program)
        sizes = self._sized.sizes(arrays)
        if all(size in one.sizes for one, size in zip(self._sized.buckets.dimensions, sizes, strict=True)):
            return self.bind(inputs, outputs)
        pieces, names = self._sized.pieces(sizes), list(outputs)
        made = self._sized.results(names, sizes, pieces)
        results = [
            new if (given := outputs[name]) is None else written_array("bind", f"output {name!r}", given)
            for name, new in zip(names, made, strict=True)
        ]
        self._sized.check_results(names, results, sizes, pieces)
        fed = dict(zip((info.name for info in self._program.inputs), arrays, strict=True))
        return SizedBinding(self.run, fed, dict(zip(names, results, strict=True)))

    def io_binding(self) -> IOBinding:
        """A new IOBinding, with nothing bound."""
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        """Read and write the memory that is bound.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When something is missing or has another dtype or shape, or another session made the binding.
        RunTerminatedError
            When ``run_options.terminate`` is set.
        """
        check_run_options("run_with_iobinding", run_options)
        if not isinstance(iobinding, IOBinding):
            raise ArgumentTypeError(
                f"run_with_iobinding: iobinding must be an IOBinding, got {type(iobinding).__name__}"
            )
        if not iobinding.belongs_to(self):
            raise ArgumentValueError("run_with_iobinding: iobinding must be of this session; call its io_binding()")
        iobinding.run()

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, OrtValue], run_options: Any = None
    ) -> list[OrtValue]:
        """As :meth:`run`, from OrtValues to OrtValues."""
        check_run_options("run_with_ort_values", run_options)
        if isinstance(input_dict_ort_values, Mapping):
            for name, value in input_dict_ort_values.items():
                if not isinstance(value, OrtValue):
                    raise ArgumentTypeError(
                        f"run_with_ort_values: input {name!r} must be an OrtValue, got {type(value).__name__}"
                    )
        return [OrtValue(array) for array in self.run(output_names, input_dict_ort_values)]

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, by ``time.monotonic_ns()``; 0 where it is off."""
        return 0 if self._run_trace is None else self._run_trace.start_ns

    def end_profiling(self) -> str:
        """Write the times of the runs (``SessionOptions.enable_profiling``) as a trace that Perfetto and Chrome draw.

        A session that goes, or a process that ends, does so by itself.

        Returns
        -------
        name of the file; an empty one where profiling is off, or has been ended

        Raises
        ------
        ArgumentValueError, OSError
            When its folder is gone, or it cannot be written. The times are kept for another call.
        """
        return "" if self._run_trace is None else self._run_trace.finish()

    @property
    def bytes_copied(self) -> int:
        """What the session's last run, of whichever thread, copied between the callers' arrays and the arena; 0 where
        kernels read and wrote the arrays themselves."""
        return self._ran.core.border_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Ends profiling. The session stays as it is."""
        self.end_profiling()


def _given(inputs: object, program: Program) -> list[Array]:
    """An array for each input, which say the sizes that are to run."""
    names = [info.name for info in program.inputs]
    if not isinstance(inputs, Mapping) or any(inputs.get(name) is None for name in names):
        raise ArgumentValueError(
            f"bind: inputs must have an array for each of {names}: the program has several sizes, and they say which"
        )
    return [written_array("bind", f"input {name!r}", inputs[name]) for name in names]
