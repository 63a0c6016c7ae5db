"""MatMulNBits: a product by weights of 2, 4 or 8 bits with a scale for each block, by the float32 that they mean.

Its ``accuracy_level`` says how much less than float32 a runtime may do; float32 does for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
_BITS = (2, 4, 8)


def write_blocks(
    op: Callable[..., str], constant: Callable[[Array], str], node: onnx.NodeProto, arrays: Sequence[Array | None]
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
    weights = dequantized(codes, scales, zeros, order, bits=bits, k=k, n=n, block=block)
    product = op("MatMul", [given[0], constant(weights)], "" if given[5] else node.output[0], name=node.name)
    if given[5]:
        op("Add", [product, given[5]], node.output[0])
    return True


def _strays(order: Array, k: int, blocks: int) -> bool:
    """Whether the blocks of some rows are not there."""
    return order.size < k or int(order.min()) < 0 or int(order.max()) >= blocks


def dequantized(
    codes: Array,
    scales: Array,
    zeros: Array | None,
    order: Array | None,
    *,
    bits: int,
    k: int,
    n: int,
    block: int,
) -> npt.NDArray[np.float32]:
    """Weights (k, n): codes less the zero point of their block, times its scale.

    ``zeros``: of the scales' type one a block, or packed as the codes are; ``order``: the block of each row, where it
    does not follow from its place.
    """
    blocks = -(-k // block)
    values = _unpacked(codes.reshape(n, blocks, -1), bits).reshape(n, -1)[:, :k].astype(np.float32)
    scale = scales.astype(np.float32).reshape(n, blocks)
    if zeros is None:
        zero = np.full((n, blocks), 2 ** (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        zero = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].astype(np.float32)
    else:
        zero = zeros.astype(np.float32).reshape(n, blocks)
    of_row = np.arange(k) // block if order is None else order.reshape(-1)[:k].astype(np.int64)
    weights: npt.NDArray[np.float32] = (values - zero[:, of_row]) * scale[:, of_row]
    return np.ascontiguousarray(weights.T)


def _unpacked(packed: Array, bits: int) -> Array:
    """Numbers of a few bits, the lowest of a byte first, along the last axis."""
    parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)
