"""What public functions ask of their plain arguments: messages name function, argument, rule and fact."""

from __future__ import annotations

import numbers
import operator
from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentTypeError, ArgumentValueError


def numpy_array(function: str, argument: str, value: object) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    raise ArgumentTypeError(f"{function}: {argument} must be a NumPy array, got {type(value).__name__}")


def thread_count(function: str, num_threads: int | None) -> int:
    """0 for None, which is the package's setting."""
    if num_threads is None:
        return 0
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads < 2**31:
        raise ArgumentValueError(f"{function}: num_threads must be an integer of at least 1, got {num_threads!r}")
    return num_threads


def number(function: str, argument: str, value: object) -> float:
    scalar = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "fiu"
    if not scalar and not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{function}: {argument} must be a number, got {_kind(value)}")
    try:
        return float(cast(numbers.Real, value))
    except OverflowError as error:
        raise ArgumentValueError(f"{function}: {argument} is larger than any float") from error


def integer(function: str, argument: str, value: object) -> int:
    """One that 32 bits hold; what fewer hold is for others to say."""
    try:
        given = operator.index(cast(SupportsIndex, value))
    except TypeError as error:
        raise ArgumentTypeError(f"{function}: {argument} must be an integer, got {_kind(value)}") from error
    if not -(2**31) <= given < 2**31:
        raise ArgumentValueError(f"{function}: {argument} must fit into 32 bits, got {given}")
    return given


def string(function: str, argument: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise ArgumentTypeError(f"{function}: {argument} must be a string, got {_kind(value)}")


def flag(function: str, argument: str, value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ArgumentTypeError(f"{function}: {argument} must be True or False, got {_kind(value)}")


def numpy_dtype(function: str, argument: str, value: npt.DTypeLike) -> np.dtype[np.generic]:
    try:
        return np.dtype(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"{function}: {argument} {value!r} is no NumPy dtype; bfloat16 is ml_dtypes.bfloat16"
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r}"
