"""Names and numbers of element types, as onnxruntime and ONNX have them."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentTypeError, ArgumentValueError

DType = np.dtype[np.generic]

_TENSOR_NAMES = {"float32": "float", "float64": "double"}
# ONNX's TensorProto.DataType, of those that have an array.
_NUMBERS = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def tensor_type(dtype: DType) -> str:
    """Such as "tensor(float)"."""
    return f"tensor({_TENSOR_NAMES.get(dtype.name, dtype.name)})"


def element_number(function: str, dtype: DType) -> int:
    """ONNX's number of it."""
    if dtype.name not in _NUMBERS:
        raise ArgumentTypeError(f"{function}: ONNX has no elements of {dtype}; convert them with astype")
    return _NUMBERS[dtype.name]


def dtype_of(function: str, element_type: Any) -> DType:
    """Of NumPy's name or type of it, or of ONNX's number."""
    try:
        number = operator.index(cast(SupportsIndex, element_type))
    except TypeError:
        try:
            found = np.dtype(element_type)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"{function}: element_type {element_type!r} is no NumPy dtype") from error
        element_number(function, found)
        return cast(DType, found)
    if number not in _NAMES:
        raise ArgumentValueError(
            f"{function}: element_type must be one of ONNX's numbers {sorted(_NAMES)} or a NumPy dtype, got {number}"
        )
    if _NAMES[number] == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ArgumentTypeError(
                f"{function}: element_type is bfloat16, which NumPy has from ml_dtypes alone; pip install ml_dtypes"
            ) from error
        return cast(DType, np.dtype(ml_dtypes.bfloat16))
    return np.dtype(_NAMES[number])


def shape_of(function: str, shape: Any) -> tuple[int, ...]:
    """Sizes that are not negative.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When there is another thing among them.
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError as error:
        raise ArgumentTypeError(f"{function}: shape must be a list of integers, got {shape!r}") from error
    if any(size < 0 for size in sizes):
        raise ArgumentValueError(f"{function}: shape must have no negative size, got {list(sizes)}")
    return sizes


def byte_count(function: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """Bytes of an array, which memory can address."""
    count = np.dtype(dtype).itemsize
    for size in shape:
        count *= size
    if count > np.iinfo(np.intp).max:
        raise ArgumentValueError(f"{function}: shape {list(shape)} of {np.dtype(dtype)} is larger than any memory")
    return count
