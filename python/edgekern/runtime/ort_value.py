"""OrtValue: an array with onnxruntime's methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arguments import integer, string
from edgekern._arrays import Lent, as_array
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.element_types import byte_count, dtype_of, element_number, shape_of, tensor_type

Array = npt.NDArray[Any]


def on_cpu(function: str, device_type: Any, device_id: Any = 0) -> None:
    """Refuse what is no memory of the CPU."""
    if string(function, "device_type", device_type).lower() != "cpu":
        raise ArgumentValueError(f"{function}: device_type must be 'cpu', got {device_type!r}; edgekern has no other")
    if integer(function, "device_id", device_id) != 0:
        raise ArgumentValueError(f"{function}: device_id must be 0, got {device_id}")


class OrtValue:
    """A tensor on the CPU: a NumPy array, or a view of whatever lends its memory, which is kept alive.

    Made by :meth:`ortvalue_from_numpy`, :meth:`ortvalue_from_shape_and_type` and :meth:`from_dlpack`. Sessions take it
    among their inputs, too.
    """

    def __init__(self, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise ArgumentTypeError(
                f"OrtValue: array must be a NumPy array, got {type(array).__name__}; call OrtValue.from_dlpack"
            )
        element_number("OrtValue", array.dtype)
        # An address and a shape say nothing of strides.
        self._array = array if array.flags.c_contiguous else np.ascontiguousarray(array)

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: Array, /, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """Of an array, whose memory it shares where that is C-contiguous; else of a copy."""
        on_cpu("OrtValue.ortvalue_from_numpy", device_type, device_id)
        return cls(numpy_obj)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Any, element_type: Any, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """Of zeros.

        Parameters
        ----------
        shape : sizes
        element_type : a NumPy dtype, or ONNX's number of one
        """
        function = "OrtValue.ortvalue_from_shape_and_type"
        on_cpu(function, device_type, device_id)
        dtype, sizes = dtype_of(function, element_type), shape_of(function, shape)
        byte_count(function, dtype, sizes)
        return cls(np.zeros(sizes, dtype))

    @classmethod
    def from_dlpack(cls, data: Lent, /) -> OrtValue:
        """Of an array of another library, whose memory it shares where that is lent and C-contiguous."""
        return cls(as_array("OrtValue.from_dlpack", "data", data))

    def numpy(self) -> Array:
        """The array itself."""
        return self._array

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        """Such as "tensor(float)"."""
        return tensor_type(self._array.dtype)

    def element_type(self) -> int:
        """ONNX's number of the element type."""
        return element_number("OrtValue.element_type", self._array.dtype)

    def tensor_size_in_bytes(self) -> int:
        return self._array.nbytes

    def device_name(self) -> str:
        return "cpu"

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self._array.ctypes.data)

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False

    def update_inplace(self, data: Array | OrtValue) -> None:
        """Write other elements, of the same dtype and shape, into its memory.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When they have another dtype or shape, or the memory is read-only.
        """
        function = "OrtValue.update_inplace"
        given = data.numpy() if isinstance(data, OrtValue) else as_array(function, "data", data)
        if given.dtype != self._array.dtype:
            raise ArgumentTypeError(f"{function}: data must be {self._array.dtype}, got {given.dtype}")
        if given.shape != self._array.shape:
            raise ArgumentValueError(f"{function}: data must have shape {self._array.shape}, got {given.shape}")
        if not self._array.flags.writeable:
            raise ArgumentValueError(f"{function}: its array is read-only; make the value of a writeable one")
        np.copyto(self._array, given)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy:
            return np.array(self._array, dtype)
        made = np.asarray(self._array, dtype)
        if copy is False and made is not self._array:
            raise ValueError(f"OrtValue: {self._array.dtype} cannot become {made.dtype} without a copy")
        return made

    def __dlpack__(self, *given: Any, **options: Any) -> Any:
        return self._array.__dlpack__(*given, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __repr__(self) -> str:
        return f"OrtValue({self.data_type()}, shape={self.shape()})"
