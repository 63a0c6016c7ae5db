"""MatMulNBits: a product by weights of 2, 4 or 8 bits with a scale for each block, by what they mean.

Its ``accuracy_level`` says how much less than float32 a runtime may do. Where rows may be quantized to int8, and
kernels have such groups, weights stay codes; float32 does for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekern.graph.group_weights import grouped
from edgekern.graph.wide import CONTRIB

Array = npt.NDArray[Any]
_BITS = (2, 4, 8)
_INT8 = 4  # of accuracy levels
_FIRST_BLOCKS = 21  # opset of DequantizeLinear


def write_blocks(
    op: Callable[..., str],
    constant: Callable[[Array], str],
    node: onnx.NodeProto,
    arrays: Sequence[Array | None],
    opset: int,
) -> bool:
    """Write one MatMulNBits by MatMul and Add; whether it can be. ``arrays``: those of its inputs that are constant."""
    sizes = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    k, n, block, bits = (sizes.get(name, 0) for name in ("K", "N", "block_size", "bits"))
    bits = bits or 4
    codes, scales, zeros, order = arrays[1:5]
    given = [*node.input, *[""] * 6][:6]
    unknown = any(name and array is None for name, array in zip(given[1:5], arrays[1:5], strict=True))
    if unknown or codes is None or scales is None or bits not in _BITS or min(k, n, block) < 1:
        return False
    blocks = -(-k // block)
    packed = -(-blocks * bits // 8) * n if zeros is not None and zeros.dtype == np.uint8 else blocks * n
    whole = codes.size * 8 == blocks * block * bits * n and scales.size == blocks * n
    if not whole or (zeros is not None and zeros.size != packed) or (order is not None and _strays(order, k, blocks)):
        return False
    codes, zeros = unpacked(codes, zeros, bits=bits, k=k, n=n, blocks=blocks)
    scales = scales.astype(np.float32).reshape(n, blocks)
    if rows_may_be_codes(node) and order is None and grouped(codes.T, scales.T, zeros.T, block) is not None:
        parts = [constant(np.ascontiguousarray(part.T)) for part in (codes, scales, zeros)]
        domain = "" if opset >= _FIRST_BLOCKS else CONTRIB  # onnxruntime's own has had blocks all along
        weights = op("DequantizeLinear", parts, axis=0, block_size=block, domain=domain)
    else:
        weights = constant(dequantized(codes, scales, zeros, order, block))
    product = op("MatMul", [given[0], weights], "" if given[5] else node.output[0], name=node.name)
    if given[5]:
        op("Add", [product, given[5]], node.output[0])
    return True


def _strays(order: Array, k: int, blocks: int) -> bool:
    """Whether the blocks of some rows are not there."""
    return order.size < k or int(order.min()) < 0 or int(order.max()) >= blocks


def rows_may_be_codes(node: onnx.NodeProto) -> bool:
    """Whether a MatMulNBits lets rows be quantized to int8."""
    return any(a.name == "accuracy_level" and a.i >= _INT8 for a in node.attribute)


def unpacked(codes: Array, zeros: Array | None, *, bits: int, k: int, n: int, blocks: int) -> tuple[Array, Array]:
    """Codes (n, k) and the zero points of their blocks (n, blocks), which are packed as codes are, or numbers."""
    values = _unpacked(codes.reshape(n, blocks, -1), bits).reshape(n, -1)[:, :k]
    if zeros is None:
        return values, np.full((n, blocks), 2 ** (bits - 1), np.uint8)
    if zeros.dtype == np.uint8:
        return values, _unpacked(zeros.reshape(n, -1), bits)[:, :blocks]
    return values, zeros.astype(np.float32).reshape(n, blocks)


def dequantized(codes: Array, scale: Array, zero: Array, order: Array | None, block: int) -> npt.NDArray[np.float32]:
    """Weights (k, n): codes less the zero point of their block, times its scale.

    ``order``: the block of each row, where it does not follow from its place.
    """
    k = codes.shape[1]
    of_row = np.arange(k) // block if order is None else order.reshape(-1)[:k].astype(np.int64)
    steps = codes.astype(np.float32) - zero.astype(np.float32)[:, of_row]
    weights: npt.NDArray[np.float32] = steps * scale.astype(np.float32)[:, of_row]
    return np.ascontiguousarray(weights.T)


def _unpacked(packed: Array, bits: int) -> Array:
    """Numbers of a few bits, the lowest of a byte first, along the last axis."""
    parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)
