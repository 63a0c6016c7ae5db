"""What public functions ask of their plain arguments: messages name function, argument, rule and fact."""

from __future__ import annotations

import operator
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import SupportsFloat, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from edgekern._arrays import lent
from edgekern.errors import ArgumentTypeError, ArgumentValueError

_LARGEST_INT32 = 2**31 - 1


def thread_count(function: str, num_threads: object) -> int:
    """0 for None, which is the package's setting; the core takes as many as it has at most."""
    if num_threads is None:
        return 0
    try:
        count = 0 if isinstance(num_threads, (bool, np.bool_)) else operator.index(cast(SupportsIndex, num_threads))
    except TypeError:
        count = 0
    if count < 1:
        raise ArgumentValueError(f"{function}: num_threads must be an integer of at least 1, got {num_threads!r}")
    return min(count, _LARGEST_INT32)


def number(function: str, argument: str, value: object) -> float:
    """Whatever becomes a float and is one number, NumPy's and others' scalars too."""
    try:
        plain = not isinstance(value, (str, bytes, bytearray, complex, np.complexfloating))
        if plain and np.ndim(cast(npt.ArrayLike, value)) == 0:
            return float(cast(SupportsFloat, value))
    except OverflowError as error:
        raise ArgumentValueError(f"{function}: {argument} is larger than any float") from error
    except Exception:  # whatever a class of another library raises
        pass
    raise ArgumentTypeError(f"{function}: {argument} must be a number, got {_kind(value)}")


def amount(function: str, argument: str, value: object) -> float:
    """A number that limits something; True is none, though Python counts it as 1."""
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{function}: {argument} must be a number, got {_kind(value)}")
    return number(function, argument, value)


def integer(function: str, argument: str, value: object) -> int:
    """One that 32 bits hold; what fewer hold is for others to say."""
    try:
        given = operator.index(cast(SupportsIndex, value))
    except TypeError as error:
        raise ArgumentTypeError(f"{function}: {argument} must be an integer, got {_kind(value)}") from error
    if not -_LARGEST_INT32 - 1 <= given <= _LARGEST_INT32:
        raise ArgumentValueError(f"{function}: {argument} must fit into 32 bits, got {given}")
    return given


def integers(function: str, argument: str, value: object) -> npt.NDArray[np.integer]:
    """An array of them, or one."""
    value = lent(function, argument, value)
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths, or of other libraries' values
        raise ArgumentTypeError(f"{function}: {argument} must be an array of integers") from error
    if given.dtype.kind not in "iu":
        raise ArgumentTypeError(f"{function}: {argument} must be integer, got {given.dtype}")
    return given


def string(function: str, argument: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise ArgumentTypeError(f"{function}: {argument} must be a string, got {_kind(value)}")


def flag(function: str, argument: str, value: object) -> bool:
    """True or False, or 1 or 0 as ONNX has them."""
    if isinstance(value, (int, np.integer, np.bool_)) and value in (0, 1):
        return bool(value)
    raise ArgumentTypeError(f"{function}: {argument} must be True or False, got {_kind(value)}")


def numpy_dtype(function: str, argument: str, value: npt.DTypeLike, remedy: str = "") -> np.dtype[np.generic]:
    try:
        return np.dtype(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{function}: {argument} {value!r} is no NumPy dtype{remedy}") from error


def isa_name(function: str, isa: object) -> str:
    """The empty name for None: the best that this CPU has, or EDGEKERN_ISA."""
    return "" if isa is None else string(function, "isa", isa).encode("ascii", "backslashreplace").decode()


def file_path(function: str, argument: str, value: object) -> Path:
    """Of whatever names a file: a string, bytes as the system has them, or an object with ``__fspath__``."""
    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ArgumentTypeError(f"{function}: {argument} must be a path, got {type(value).__name__}") from error
    if "\0" in path:
        raise ArgumentValueError(f"{function}: {argument} must be a path, got one with a null byte: {path!r}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ArgumentValueError(
            f"{function}: {argument} must be a path that the system can hold, got {path!r}"
        ) from error
    return Path(path)


_UNITS = {"": 1} | {
    f"{letter}{mark}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for mark, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def byte_count(function: str, argument: str, value: object) -> int:
    """Bytes of a number of them or of a size as people write it.

    Units are those of the GNU tools: ``512M`` and ``512MiB`` are powers of 1024, ``512MB`` of 1000; K, M, G and T, in
    either case, with fractions and a space where one likes.
    """
    if not isinstance(value, str):
        try:
            count = -1 if isinstance(value, (bool, np.bool_)) else operator.index(cast(SupportsIndex, value))
        except TypeError as error:
            raise ArgumentTypeError(
                f"{function}: {argument} must be a number of bytes or a size such as '1G', got {_kind(value)}"
            ) from error
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?b?|b?)\s*", value.lower(), re.ASCII)
        unit = None if found is None else _UNITS.get("" if found[2] == "b" else found[2])
        count = -1 if found is None or unit is None else int(Fraction(found[1].rstrip(".")) * unit)
    if count < 1:
        raise ArgumentValueError(
            f"{function}: {argument} must be at least one byte, as a number or a size such as '1G' or '512MiB' (powers "
            f"of 1024) or '300MB' (of 1000), got {value!r}"
        )
    return count


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r}"
