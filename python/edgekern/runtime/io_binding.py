"""IOBinding: onnxruntime's way to name the memory that a session reads and writes."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekern._arguments import string
from edgekern._arrays import Lent, plain
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.binding import Binding, SizedBinding
from edgekern.runtime.element_types import byte_count, dtype_of, shape_of
from edgekern.runtime.ort_value import OrtValue, on_cpu

Array = npt.NDArray[Any]

_MOST_ADDRESS = 1 << 8 * ctypes.sizeof(ctypes.c_void_p)


class Named(Protocol):
    """An input or output."""

    @property
    def name(self) -> str: ...


class Bindable(Protocol):
    """What it needs of a session."""

    def get_inputs(self) -> Sequence[Named]: ...
    def get_outputs(self) -> Sequence[Named]: ...
    def _bound(
        self, inputs: Mapping[str, Lent | None], outputs: Mapping[str, Lent | None]
    ) -> Binding | SizedBinding: ...


class IOBinding:
    """Memory for the inputs and outputs of a session, for :meth:`InferenceSession.run_with_iobinding`.

    Arrays are kept alive. Their dtypes and shapes are checked at the first run behind a change, and not again. What a
    run wrote can be asked for when other inputs are bound, too, and outputs that are made here stay in one memory until
    an input of another shape is bound.

    Parameters
    ----------
    session : InferenceSession
        ``session.io_binding()`` is the same.
    """

    def __init__(self, session: Bindable) -> None:
        if not hasattr(session, "bind"):
            raise ArgumentTypeError(f"IOBinding: session must be an InferenceSession, got {type(session).__name__}")
        self._session = session
        self._inputs: dict[str, Lent | None] = {}
        self._outputs: dict[str, Lent | None] = {}  # in the order in which they were bound; None is ours to make
        self._made: dict[str, Array] = {}  # of the outputs that are ours to make
        self._binding: Binding | SizedBinding | None = None
        self._ran: Mapping[str, Array] | None = None

    def bind_cpu_input(self, name: str, arr_on_cpu: Lent) -> None:
        """Read an input in an array, of the dtype and shape that the session states; of one that is not C-contiguous in
        a copy of what it holds now, which is warned about."""
        if arr_on_cpu is None:
            raise ArgumentTypeError(f"bind_cpu_input: input {name!r} must be an array, got None")
        if isinstance(arr_on_cpu, np.ndarray):
            arr_on_cpu = plain("bind_cpu_input", f"input {name!r}", arr_on_cpu)
        self._set_input("bind_cpu_input", name, arr_on_cpu)

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input at an address.

        Nobody can tell what lies there: the caller keeps the memory alive, and as large as ``shape`` says, for as long
        as the binding runs.

        Parameters
        ----------
        device_type, device_id : "cpu", 0
        element_type : a NumPy dtype, or ONNX's number of one
        shape : sizes
        buffer_ptr : the address

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When there is no such input or device, the address is 0, a size is negative, or there is no memory so large.
        """
        on_cpu("bind_input", device_type, device_id)
        self._set_input("bind_input", name, _at("bind_input", element_type, shape, buffer_ptr))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read an input in an OrtValue."""
        self._set_input("bind_ortvalue_input", name, _value("bind_ortvalue_input", ortvalue))

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Write an output at an address, as of :meth:`bind_input`; without one into an array that is made once."""
        on_cpu("bind_output", device_type, device_id)
        if buffer_ptr is None:
            self._set_output("bind_output", name, None)
            return
        if element_type is None or shape is None:
            raise ArgumentValueError("bind_output: element_type and shape must be given with buffer_ptr, got None")
        self._set_output("bind_output", name, _at("bind_output", element_type, shape, buffer_ptr))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Write an output into an OrtValue."""
        self._set_output("bind_ortvalue_output", name, _value("bind_ortvalue_output", ortvalue))

    def get_outputs(self) -> list[OrtValue]:
        """What the last run wrote, in the order in which outputs were bound; the memory itself."""
        return [OrtValue(array) for array in self._written("get_outputs")]

    def copy_outputs_to_cpu(self) -> list[Array]:
        """Copies of what the last run wrote."""
        return [array.copy() for array in self._written("copy_outputs_to_cpu")]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self._inputs, self._binding = {}, None

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self._outputs, self._made, self._binding, self._ran = {}, {}, None, None

    def synchronize_inputs(self) -> None:
        """Nothing: the CPU's memory is there at once."""

    def synchronize_outputs(self) -> None:
        """Nothing: a run has ended when it returns."""

    def belongs_to(self, session: object) -> bool:
        return self._session is session

    def _set_input(self, function: str, name: str, array: Lent) -> None:
        before = self._inputs.get(_known(function, name, "input", self._session.get_inputs()))
        self._inputs[name] = array
        if before is not None and getattr(before, "shape", None) != getattr(array, "shape", None):
            self._made = {}
        self._binding = None

    def _set_output(self, function: str, name: str, array: Lent | None) -> None:
        self._outputs[_known(function, name, "output", self._session.get_outputs())] = array
        self._made.pop(name, None)
        self._binding = self._ran = None

    def run(self) -> None:
        """Run on what is bound; for :meth:`InferenceSession.run_with_iobinding`."""
        ready = self.ready()
        ready.run()
        self._ran = ready.outputs

    def ready(self) -> Binding | SizedBinding:
        """All that is bound, checked.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When an input or every output is missing, or an array has another dtype or shape.
        """
        if self._binding is None:
            if not self._outputs:
                raise ArgumentValueError("run_with_iobinding: no output is bound; call bind_output")
            inputs = self._session.get_inputs()
            missing = [value.name for value in inputs if value.name not in self._inputs]
            if missing:
                raise ArgumentValueError(f"run_with_iobinding: no memory is bound to the inputs {missing}")
            outputs = {name: self._made.get(name) if array is None else array for name, array in self._outputs.items()}
            self._binding = self._session._bound(self._inputs, outputs)
            self._made = {name: self._binding.outputs[name] for name, array in self._outputs.items() if array is None}
        return self._binding

    def _written(self, function: str) -> list[Array]:
        if self._ran is None:
            raise ArgumentValueError(f"{function}: nothing was run into what is bound now; call run_with_iobinding")
        return list(self._ran.values())


def _known(function: str, name: str, what: str, known: Sequence[Named]) -> str:
    names = [value.name for value in known]
    if string(function, "name", name) not in names:
        raise ArgumentValueError(f"{function}: there is no {what} {name!r}; the {what}s are {names}")
    return name


def _value(function: str, value: Any) -> Array:
    if not isinstance(value, OrtValue):
        raise ArgumentTypeError(f"{function}: ortvalue must be an OrtValue, got {type(value).__name__}")
    return value.numpy()


def _at(function: str, element_type: Any, shape: Any, address: Any) -> Array:
    """What lies at an address, as an array."""
    dtype, sizes = dtype_of(function, element_type), shape_of(function, shape)
    count = byte_count(function, dtype, sizes)
    try:
        begin = operator.index(address)
    except TypeError as error:
        raise ArgumentTypeError(f"{function}: buffer_ptr must be an address, got {type(address).__name__}") from error
    if not 0 < begin <= _MOST_ADDRESS - count:
        raise ArgumentValueError(
            f"{function}: buffer_ptr must be the address of {count} bytes, got {begin:#x}; array.ctypes.data is one"
        )
    if count == 0:
        return np.zeros(sizes, dtype)
    memory = memoryview((ctypes.c_ubyte * count).from_address(begin)).cast("B")
    found: Array = np.frombuffer(memory, np.uint8).view(dtype).reshape(sizes)
    return found
