"""Steps while they are being made: tensors without addresses, blobs without offsets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgekern._core import DType, StepKind
from edgekern.graph.values import Quant

NHWC = (0, 2, 3, 1)
ALIGNMENT = 64  # of tensors in the arena, in bytes
PRODUCTS = (StepKind.CONV, StepKind.DEPTHWISE, StepKind.GEMM)
# Products whose results are real numbers until they are stored: a bias last among their blobs, and an ending.
REAL_PRODUCTS = frozenset(
    {StepKind.CONV_F32, StepKind.DEPTHWISE_F32, StepKind.GEMM_F32, StepKind.GEMM_DYNAMIC}
    | {StepKind.CONV_WIDE, StepKind.DEPTHWISE_WIDE, StepKind.GEMM_WIDE, StepKind.GEMM_SCALED, StepKind.GEMM_GROUPS}
)
# Their ending, which fuse_epilogues fills in.
NO_EPILOGUE: dict[str, Any] = {"activation": 0, "addend_first": 0, "lo": -math.inf, "hi": math.inf}
_BYTES = {
    DType.U8: 1,
    DType.S8: 1,
    DType.BOOL: 1,
    DType.I32: 4,
    DType.F32: 4,
    DType.I64: 8,
    DType.F64: 8,
    DType.F16: 2,
    DType.BF16: 2,
}


@dataclass(eq=False)
class Tensor:
    """A tensor of the program.

    Attributes
    ----------
    shape : in the order of memory
    order : which ONNX axis each stored axis is; () is ONNX's own order
    flat : (channels, height, width) of an image whose flattened features lie in the order of NHWC
    view_of : the tensor whose bytes these are, itself no view
    names : float tensors of the ONNX model that it holds
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    quant: Quant | None = None
    order: tuple[int, ...] = ()
    flat: tuple[int, int, int] | None = None
    view_of: Tensor | None = None
    names: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        return _BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.size * self.item_bytes

    @property
    def root(self) -> Tensor:
        return self.view_of or self

    @property
    def q(self) -> Quant:
        assert self.quant is not None
        return self.quant


@dataclass(eq=False)
class KernelStep:
    """A kernel call.

    Attributes
    ----------
    arguments : by the names that the step's kind has in csrc/program/steps
    """

    kind: StepKind
    name: str
    op: str
    inputs: list[Tensor]
    output: Tensor
    blobs: list[bytes] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    stage: int = 0

    @property
    def has_residual(self) -> bool:
        return self.kind in PRODUCTS and len(self.inputs) == 2

    @property
    def clamp(self) -> tuple[str, str] | None:
        """The names of the limits that its 8-bit result is clamped to last, where it has some."""
        if self.has_residual:
            return "sum_lo", "sum_hi"
        return ("lo", "hi") if self.kind in (*PRODUCTS, StepKind.MATMUL, StepKind.ADD) else None


@dataclass(eq=False)
class HostNode:
    """An ONNX node without a kernel.

    Attributes
    ----------
    inputs : what it reads from the arena
    outputs : what kernels, later host steps and the caller read of it
    reads : everything that it reads at run time
    """

    node: ir.Node
    reason: str
    inputs: dict[ir.Value, Tensor] = field(default_factory=dict)
    outputs: dict[ir.Value, Tensor] = field(default_factory=dict)
    reads: tuple[ir.Value, ...] = ()
    stage: int = 1


Item = KernelStep | HostNode


def aligned(nbytes: int) -> int:
    """What a tensor takes in the arena."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def channels_last(rank: int) -> tuple[int, ...]:
    """The order of an image over ``rank - 2`` dimensions as its kernels read it; ONNX's own of what is none."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """Where each axis of ONNX's order lies in ``order``."""
    return tuple(order.index(axis) for axis in range(len(order)))


def dtype_of(quant: Quant) -> DType:
    return DType.S8 if quant.signed else DType.U8


def readers_of(items: Sequence[Item], outputs: Sequence[Tensor]) -> Counter[Tensor]:
    """How often the bytes of each tensor are read, by steps, host nodes and the caller; keyed by root."""
    read = [x.root for item in items for x in (item.inputs if isinstance(item, KernelStep) else item.inputs.values())]
    return Counter(read + [y.root for y in outputs])
