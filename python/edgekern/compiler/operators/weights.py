"""Conv, Gemm and MatMul in integers: weights, int32 bias and multipliers, the same for every kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import (
    Quant,
    constant,
    float_attribute,
    float_constant,
    int_attribute,
    quantized_weights,
)
from edgekern.quantization.weights import blocks

STRIP = 16  # columns that kernels store at once; bias and multipliers are padded to it
# The accumulator stays in int32 below this.
ACCUMULATOR_LIMIT = 2**31


@dataclass(frozen=True)
class Product:
    """One Conv, Gemm or MatMul.

    Attributes
    ----------
    weights : (channels, ...) int8. Conv: as ONNX has them, ConvTranspose: as a Conv has them; matrices: (columns, rows)
    bias : (channels,) int64 at the accumulator's scale
    scale : (channels,) float64, real value of one accumulator step
    zero : (channels,) int64, what is still to be subtracted from the weights, if anything
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]
    zero: npt.NDArray[np.int64] | None = None

    @staticmethod
    def of(node: ir.Node, x: Quant, bias: ir.Value | None) -> Product:
        found = quantized_weights(node.inputs[1], shifted=True)
        assert not isinstance(found, str)
        weights = found.values
        if node.op_type == "ConvTranspose":
            weights = weights.swapaxes(0, 1)
        elif node.op_type != "Conv" and not (node.op_type == "Gemm" and int_attribute(node, "transB", 0)):
            weights = weights.reshape(weights.shape[0], -1).T  # a vector is a matrix of one column
        gemm = node.op_type == "Gemm"
        alpha, beta = (float_attribute(node, name, 1.0) if gemm else 1.0 for name in ("alpha", "beta"))
        channels = weights.shape[0]
        scale = np.broadcast_to(np.float64(x.scale) * found.scale.astype(np.float64) * alpha, (channels,))
        zero = None if found.zero is None else np.broadcast_to(found.zero, (channels,))
        return Product(weights, _integer_bias(bias, scale, beta), scale, zero)

    def multiplier(self, y: Quant | None) -> npt.NDArray[np.float32]:
        """Accumulator to output code, or to float32; computed in double, rounded once."""
        return (self.scale / (1.0 if y is None else np.float64(y.scale))).astype(np.float32)


def accumulator_reason(node: ir.Node, x: Quant, bias: ir.Value | None) -> str | None:
    """Why a product cannot be computed in int32: |bias| + max |sum| passes 2**31."""
    product = Product.of(node, x, bias)
    reach = max(x.hi - x.zero_point, x.zero_point - x.lo)
    rows = product.weights.reshape(product.weights.shape[0], -1)
    zero = np.zeros(rows.shape[:1], np.int32) if product.zero is None else product.zero.astype(np.int32)
    wide = (rows[cut].astype(np.int32) - zero[cut, np.newaxis] for cut in blocks(rows.shape))
    sums = np.concatenate([np.abs(block).sum(axis=1, dtype=np.int64) for block in wide] or [np.zeros(0, np.int64)])
    worst = (sums * reach).astype(np.float64) + np.abs(product.bias.astype(np.float64))
    return None if float(worst.max(initial=0)) < ACCUMULATOR_LIMIT else "its int32 accumulator can pass 2**31"


def pad_strips(array: npt.NDArray[np.generic], groups: int = 1) -> bytes:
    """(channels,) as [groups][channels of a group, rounded up to a strip]."""
    per_group = array.reshape(groups, -1)
    padded = np.zeros((groups, -(-per_group.shape[1] // STRIP) * STRIP), array.dtype)
    padded[:, : per_group.shape[1]] = per_group
    return padded.tobytes()


def _integer_bias(value: ir.Value | None, scale: npt.NDArray[np.float64], beta: float) -> npt.NDArray[np.int64]:
    """A quantized bias as it is where its scale is the accumulator's; any other rounded to the nearest step."""
    if value is None:
        return np.zeros(scale.shape, np.int64)
    real = float_constant(value)
    assert real is not None
    producer = value.producer()
    if producer is not None and beta == 1.0:
        codes, own = constant(producer.inputs[0]), constant(producer.inputs[1])
        if codes is not None and own is not None and codes.dtype == np.int32 and len(producer.inputs) < 4:
            zero = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
            steps = codes.reshape(-1).astype(np.int64)
            if not np.any(np.zeros(1) if zero is None else zero) and np.allclose(own, scale, rtol=1e-5, atol=0):
                return np.broadcast_to(steps, scale.shape)
    steps = np.rint(real.reshape(-1).astype(np.float64) * beta / scale)
    # An overflow stays visible: the limit of the accumulator refuses it.
    return np.broadcast_to(np.clip(np.nan_to_num(steps, nan=2.0**40), -(2.0**40), 2.0**40), scale.shape).astype(
        np.int64
    )
