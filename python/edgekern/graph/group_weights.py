"""Weights of 4 bits, or fewer, with a scale for each group of them along the depth of a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import constant, int_attribute, ints_attribute, shape_of

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
_GROUPS = (32, 64, 128)  # that kernels have
_UNSIGNED = frozenset({"uint2", "uint4", "uint8"})
_NARROW = frozenset({"int2", "uint2", "int4", "uint4"})
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
    """Those of constant weights behind a DequantizeLinear whose groups lie along axis ``depth``; None of others.

    Its blocks are the groups. Or, where no operator has blocks yet, its rows are, and a Reshape gives each column of
    the product its groups. Behind a Reshape columns are the first axis of the weights, and all others are the depth.
    """
    maker = None if value is None else value.producer()
    if maker is not None and maker.op_type == "Transpose" and ints_attribute(maker, "perm", [1, 0]) == [1, 0]:
        maker, depth = _maker(maker), 1 - depth
    columns = None
    if maker is not None and maker.op_type == "Reshape":
        shape = shape_of(maker.outputs[0])
        if not shape or depth != 1:
            return None
        maker, columns = _maker(maker), shape[0]
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes, scale, zero = (constant(given) for given in [*maker.inputs, None][:3])
    if codes is None or scale is None or codes.ndim != 2:
        return None
    if zero is None and len(maker.inputs) > 2 and maker.inputs[2] is not None:
        return None
    block, axis = int_attribute(maker, "block_size", 0), int_attribute(maker, "axis", 1) % 2
    if block == 0:
        if not columns or axis != 0 or codes.dtype.name not in _NARROW or len(codes) % columns:
            return None
        if scale.shape != codes.shape[:1] or (zero is not None and zero.shape != scale.shape):
            return None
        block = codes.shape[1]
        codes, scale, zero = (None if part is None else part.reshape(columns, -1) for part in (codes, scale, zero))
    elif axis != depth or (columns is not None and len(codes) != columns):
        return None
    if depth == 1:
        codes, scale, zero = (None if part is None else part.T for part in (codes, scale, zero))
    assert codes is not None
    assert scale is not None
    return grouped(codes, scale, zero, block)


def _maker(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    return None if source is None else source.producer()


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
