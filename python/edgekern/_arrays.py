"""Arrays of others at the border: views of what lends its memory, one reported copy of what does not.

NumPy arrays pass as they are. Everything else comes by DLPack (torch and most others), the array interface, or the
buffer protocol, and no other library is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekern._warn import warn_caller
from edgekern.errors import ArgumentTypeError, CopyWarning

Array = npt.NDArray[Any]


class SupportsDLPack(Protocol):
    def __dlpack__(self, *given: Any, **options: Any) -> Any: ...


class SupportsArray(Protocol):
    def __array__(self, *given: Any, **options: Any) -> Any: ...


Lent = SupportsDLPack | SupportsArray | memoryview | bytearray  # NumPy's arrays are the first two

_CPU, _PINNED = 1, 3  # DLPack's devices whose memory the CPU reads
_DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "CUDA managed", 14: "oneAPI"}
_NO_ARRAYS = (int, float, complex, str, bytes, list, tuple, dict, set, type, np.generic)  # bytes are files' and texts'
_LENDING = np.lib.NumpyVersion(np.__version__) >= "2.1.0"  # from_dlpack knows copy=


def as_array(function: str, argument: str, value: object) -> Array:
    """The array itself, or a view of what lends its memory; else a copy, which is reported.

    Raises
    ------
    ArgumentTypeError
        ``value`` is no array, or one that cannot be read as it is; the message says what to call on it.
    """
    if isinstance(value, np.ndarray):
        return value
    return _view(function, argument, value, may_copy=True)


def written_array(function: str, argument: str, value: object) -> Array:
    """The array itself, or a view of ``value`` through which it is written; never a copy, which would be lost."""
    if isinstance(value, np.ndarray):
        return value
    view = _view(function, argument, value, may_copy=False)
    if not view.flags.writeable and hasattr(value, "__array__"):  # NumPy before 2.1 makes all of DLPack read-only
        other = value.__array__()
        if isinstance(other, np.ndarray) and other.flags.writeable and np.shares_memory(other, view):
            return other
    return view


def lent(function: str, argument: str, value: object) -> Any:
    """An array where ``value`` is one of any library; what is none (numbers, lists, None) as it is."""
    if value is None or isinstance(value, np.ndarray) or not is_array(value):
        return value
    return as_array(function, argument, value)


def plain(function: str, argument: str, array: Array) -> Array:
    """The array where its elements lie side by side and aligned; else a copy of which they do, which is reported."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    report_copy(function, argument, array)
    return np.require(array.copy("C"), requirements=("C", "A"))


def report_copy(function: str, argument: str, array: Array, reason: str = "") -> None:
    """Warn of a copy, at the line that called edgekern. The reason is what the array is when none is given."""
    if not reason:
        reason = "it is not aligned" if array.flags.c_contiguous else "it is not C-contiguous"
    warn_caller(f"{function}: {argument} is copied, {array.nbytes} bytes: {reason}", CopyWarning)


def is_array(value: object) -> bool:
    """Whether it is an array at all, of whichever library."""
    if isinstance(value, _NO_ARRAYS):
        return False
    if any(hasattr(value, name) for name in ("__dlpack__", "__array__", "__array_interface__")):
        return True
    try:
        memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a released memoryview raises the latter
        return False
    return True


def _view(function: str, argument: str, value: Any, *, may_copy: bool) -> Array:
    what = f"{function}: {argument} is a {_name(value)}"
    if not is_array(value):
        raise ArgumentTypeError(f"{function}: {argument} must be a NumPy array, got {_name(value)}")
    _check_readable(what, value)
    failed: Exception | None = None
    refused = f"{what}{_dtype(value)} that NumPy cannot read"
    try:
        for take in (_by_dlpack, _by_array, _by_interface, _by_buffer):
            try:
                array, copied = take(value)
            except Exception as error:  # a provider's own, of any class; perhaps it lends in another way
                failed = failed or error
                continue
            if not copied:
                return array
            if may_copy:
                report_copy(function, argument, array, f"a {_name(value)} lends no memory; pass a NumPy array")
                return array
            refused = f"{what}, which gives copies and lends no memory of its own"
        raise ArgumentTypeError(f"{refused}; pass a NumPy array") from failed
    finally:
        failed = None  # its frames hold the memory that is lent, in a circle with this one


def _by_dlpack(value: Any) -> tuple[Array, bool]:
    if not _LENDING:
        return np.from_dlpack(value), False
    try:
        return np.from_dlpack(value, copy=False), False
    except TypeError:  # a provider of before 2023, which never copies
        return np.from_dlpack(value), False
    except BufferError:
        return np.from_dlpack(value, copy=True), True


def _by_array(value: Any) -> tuple[Array, bool]:
    try:
        return _checked(value.__array__(copy=False)), False
    except (TypeError, ValueError):  # it knows no copy=, or has to copy
        array, references = _made(value)
        return array, references <= _ALONE


def _made(value: Any) -> tuple[Array, int]:
    """What ``__array__`` gives, and how many know it: the fewest there can be when it was made for this call."""
    array = _checked(value.__array__())
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return array, sys.getrefcount(root) if root.base is None else sys.maxsize


def _checked(array: object) -> Array:
    if isinstance(array, np.ndarray):
        return array
    raise TypeError("__array__ gave no array")


class _Fresh:
    def __array__(self) -> Array:
        return np.empty(0)


_ALONE = _made(_Fresh())[1]


def _by_interface(value: Any) -> tuple[Array, bool]:
    if not hasattr(value, "__array_interface__"):
        raise TypeError("no array interface")
    return _checked(np.asarray(value)), False


def _by_buffer(value: Any) -> tuple[Array, bool]:
    return np.asarray(memoryview(value)), False


def _check_readable(what: str, value: Any) -> None:
    """Refuse what only its own library can turn into plain values, with the name of the method that does so."""
    if getattr(value, "is_sparse", False) is True or "sparse" in str(getattr(value, "layout", "")):
        raise ArgumentTypeError(f"{what} that is sparse; call .to_dense() on it")
    if getattr(value, "is_quantized", False) is True:
        raise ArgumentTypeError(f"{what} that is quantized; take .int_repr() of it, with its scale and zero point")
    if getattr(value, "requires_grad", False) is True:
        raise ArgumentTypeError(f"{what} that requires grad; call .detach() on it")
    for name, method in (("is_conj", "resolve_conj"), ("is_neg", "resolve_neg")):
        asked = getattr(value, name, None)
        if callable(asked) and asked() is True:
            raise ArgumentTypeError(f"{what} whose values are still to be changed; call .{method}() on it")
    if str(getattr(getattr(value, "device", None), "type", "")) == "meta":
        raise ArgumentTypeError(f"{what} on the device meta, which holds no values; pass one that was computed")
    device = _device(value)
    if device not in (None, _CPU, _PINNED):
        raise ArgumentTypeError(f"{what} on the device {_DEVICES.get(device, device)}; call .cpu() on it")
    if str(getattr(value, "dtype", "")).rpartition(".")[2] == "bfloat16":
        raise ArgumentTypeError(f"{what} of bfloat16, which NumPy lacks; call .float() on it")


def _device(value: Any) -> Any:
    try:
        return int(value.__dlpack_device__()[0])
    except Exception:  # of no library that says; reading it will tell
        return None


def _name(value: object) -> str:
    return type(value).__name__


def _dtype(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    return "" if dtype is None else f" of {dtype}"


def unnamed(function: str, argument: str, given: object, names: Sequence[str]) -> ArgumentTypeError:
    """The error for arrays that come without the names of their inputs."""
    shown = ", ".join(f"{name!r}: array" for name in names)
    return ArgumentTypeError(
        f"{function}: {argument} must be a dict of arrays by input name, got {_name(given)}; pass {{{shown}}}"
    )
