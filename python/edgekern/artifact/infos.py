"""What a program tells of its borders, steps and memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentValueError

DTYPES: dict[_core.DType, npt.DTypeLike] = {
    _core.DType.U8: np.uint8,
    _core.DType.S8: np.int8,
    _core.DType.I32: np.int32,
    _core.DType.F32: np.float32,
    _core.DType.I64: np.int64,
    _core.DType.BOOL: np.bool_,
    _core.DType.F64: np.float64,
    _core.DType.F16: np.float16,
}


def numpy_dtype(dtype: _core.DType) -> np.dtype[np.generic]:
    """The dtype of arrays of a tensor. That of bfloat16 is ml_dtypes', which comes with onnx."""
    if dtype != _core.DType.BF16:
        return np.dtype(DTYPES[dtype])
    try:
        import ml_dtypes
    except ImportError as error:
        raise ArgumentValueError(
            "Program: a tensor is bfloat16, which NumPy has from ml_dtypes alone; pip install ml_dtypes"
        ) from error
    bfloat16: np.dtype[np.generic] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name, shape and dtype as the user sees them.

    Attributes
    ----------
    scale, zero_point : what 8-bit codes stand for, ``(code - zero_point) * scale``: 1 and 0 where they are the numbers
        themselves, None of other types
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class StepInfo:
    """One kernel step.

    Attributes
    ----------
    name : name of the first ONNX node in it
    op : the ONNX operators it does, such as "Conv+Relu+Add"
    kind : the kernel, such as "CONV"
    shape : of its result, in the order of memory (images: NHWC)
    dtype : of its result
    macs : multiply-adds
    nbytes : of its tensors and constants, that it reads or writes
    offset : of its result in the arena, in bytes
    """

    name: str
    op: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    macs: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class ArenaPlan:
    """Where tensors lie.

    Attributes
    ----------
    arena_bytes : size of the arena
    lower_bound : most bytes alive at one time: no plan is smaller
    method : the order that gave the plan
    offsets : bytes from the arena's start, by tensor id
    """

    arena_bytes: int
    lower_bound: int
    method: str
    offsets: tuple[int, ...]

    @property
    def gap_bytes(self) -> int:
        """By how much a plan of the same steps in the same order might be smaller at most."""
        return self.arena_bytes - self.lower_bound

    @property
    def proved(self) -> bool:
        """Whether no plan of the same steps in the same order is smaller, as the arena is at its lower bound."""
        return self.arena_bytes == self.lower_bound
