"""Weights of 4 bits, or fewer, with a scale for each group of them along the depth of a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import constant, int_attribute

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
_GROUPS = (32, 64, 128)  # that kernels have
_UNSIGNED = frozenset({"uint2", "uint4", "uint8"})
_TYPES = _UNSIGNED | {"int2", "int4", "int8"}


@dataclass(frozen=True)
class GroupWeights:
    """What ``(values - zero) * scale`` means, for ``group`` rows of ``values`` (k, columns) with one row of the others.

    Attributes
    ----------
    values : within [-8, 7]
    zero : None where all are zero
    """

    values: npt.NDArray[np.int8]
    scale: FloatArray
    zero: FloatArray | None
    group: int


def group_weights_behind(value: ir.Value | None, depth: int) -> GroupWeights | None:
    """Those of a constant matrix behind a DequantizeLinear whose blocks lie along axis ``depth``; None of others."""
    maker = None if value is None else value.producer()
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes, scale, zero = (constant(given) for given in [*maker.inputs, None][:3])
    block = int_attribute(maker, "block_size", 0)
    if codes is None or scale is None or codes.ndim != 2 or int_attribute(maker, "axis", 1) % 2 != depth:
        return None
    if zero is None and len(maker.inputs) > 2 and maker.inputs[2] is not None:
        return None
    if depth == 1:
        codes, scale, zero = codes.T, scale.T, None if zero is None else zero.T
    return grouped(codes, scale, zero, block)


def _fit_one_unit(scale: Array) -> bool:
    """Whether some power of two makes normal float16 of all scales but zeros."""
    sizes = np.abs(scale[scale != 0])
    if not sizes.size:
        return True
    least, most = float(sizes.min()), float(sizes.max())
    return np.isfinite(most) and least >= max(most * 2.0**-28, 2.0**-112)


def grouped(codes: Array, scale: Array, zero: Array | None, block: int) -> GroupWeights | None:
    """Codes (k, columns) with scales, and maybe zero points, (blocks, columns), as kernels take them.

    None where the blocks are no groups that they have, codes take more than 4 bits, or a number is not one that
    float16 holds in any unit.
    """
    group = min(block, max(_GROUPS))
    if group not in _GROUPS or block % group or codes.dtype.name not in _TYPES or scale.dtype != np.float32:
        return None
    if zero is not None and zero.dtype != codes.dtype:
        return None
    middle = 8 if codes.dtype.name in _UNSIGNED else 0
    values = codes.astype(np.int16) - middle
    centered = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
    centered = centered - np.float32(middle)
    if scale.shape != (-(-len(codes) // block), codes.shape[1]) or centered.shape != scale.shape:
        return None
    if values.min(initial=0) < -8 or values.max(initial=0) > 7 or not _fit_one_unit(scale):
        return None
    if not np.array_equal(centered.astype(np.float16).astype(np.float32), centered):
        return None
    rows = -(-len(codes) // group)
    parts = [np.ascontiguousarray(np.repeat(part, block // group, axis=0)[:rows]) for part in (scale, centered)]
    return GroupWeights(values.astype(np.int8), parts[0], parts[1] if parts[1].any() else None, group)
