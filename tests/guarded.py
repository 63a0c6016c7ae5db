"""Arrays that touch a guard page: a read or write one byte past the operand ends the process, in assembly too."""

import ctypes
import mmap
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PROT_NONE = 0


def guarded(array: npt.ArrayLike, side: Literal["end", "begin"] = "end") -> npt.NDArray[Any]:
    """Copy an array to where its last byte is followed (or its first byte preceded) by a page nobody may touch.

    Parameters
    ----------
    array : array of any shape and dtype; the copy is C-contiguous
    side : which end of the copy lies against the guard page. With "end", the copy is aligned to its item size only.
    """
    source = np.ascontiguousarray(array)
    page = mmap.PAGESIZE
    room = -(-source.nbytes // page) * page
    pages = np.frombuffer(mmap.mmap(-1, page + room), dtype=np.uint8)
    guard = room if side == "end" else 0
    if _libc.mprotect(pages.ctypes.data + guard, page, _PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
    start = room - source.nbytes if side == "end" else page
    copy = pages[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    copy[...] = source
    return copy


def guarded_empty(
    shape: tuple[int, ...], dtype: npt.DTypeLike, side: Literal["end", "begin"] = "end"
) -> npt.NDArray[Any]:
    """Like :func:`guarded`, for outputs: filled with bytes 0xA5 so that elements nobody wrote can be seen."""
    out = guarded(np.empty(shape, dtype), side)
    out.view(np.uint8)[...] = 0xA5
    return out
