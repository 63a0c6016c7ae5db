"""A compiled program, step by step in NumPy: the arena is an array of bytes, every kernel a few obvious lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from reference import int4, maps, moves, products_f32, products_integer, recurrent, rows, sampling
from reference.gemm import matmul_integer, requantize
from reference.linear import dynamic_quantize, quantize_spans
from reference.quantize import bounds, dequantize_linear, quantize_linear

Array = npt.NDArray[Any]

# In the order of DType.
DTYPES = [np.uint8, np.int8, np.int32, np.float32, np.int64, np.bool_, np.float64, np.float16, ml_dtypes.bfloat16]
STRIP, PANEL, QUAD = 16, 64, 4
# Kinds with a file of their own, by name: functions of the machine, the step, its inputs and its output's description.
FAMILIES: dict[str, Callable[..., Array]] = {
    **products_f32.STEPS,
    **products_integer.STEPS,
    **maps.STEPS,
    **rows.STEPS,
    **recurrent.STEPS,
    **moves.STEPS,
    **sampling.STEPS,
}


def run_program(index: Any, data: Array, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of a program without host steps. ``data``: the data section of its file."""
    machine = Machine(index, data)
    for number, array in zip(index.inputs, inputs, strict=True):
        machine.tensor(number)[...] = array
    for step in index.steps:
        machine.run(step)
    return [machine.tensor(number).copy() for number in index.outputs]


class Machine:
    """An index, its blobs and an arena; ``run`` does one step."""

    def __init__(self, index: Any, data: Array) -> None:
        self.tensors, self.blobs, self.data = list(index.tensors), list(index.blobs), data
        self.arena = np.zeros(index.arena_bytes, np.uint8)

    def tensor(self, number: int) -> Array:
        """A view of the arena."""
        t = self.tensors[number]
        dtype = np.dtype(DTYPES[int(t.dtype)])
        size = math.prod(t.shape) * dtype.itemsize
        return self.arena[t.offset : t.offset + size].view(dtype).reshape(t.shape)

    def run(self, step: Any) -> None:
        y = self.tensors[step.outputs[0]]
        x = [self.tensor(number) for number in step.inputs]
        if step.kind.name in FAMILIES:
            result = FAMILIES[step.kind.name](self, step, x, y)
        else:
            result = getattr(self, f"_{step.kind.name.lower()}")(step, x, y)
        self.tensor(step.outputs[0])[...] = result.reshape(y.shape)

    def blob(self, step: Any, at: int, dtype: npt.DTypeLike = np.uint8) -> Array:
        blob = self.blobs[step.blobs[at]]
        content = self.data[blob.offset : blob.offset + blob.bytes]
        if blob.stored.name == "F16":
            content = content.view(np.float16).astype(np.float32)
        if blob.stored.name == "BF16":
            content = content.view(np.uint16).astype(np.uint32) << 16
        return content.view(dtype)

    def _real(self, step: Any, at: int) -> Array:
        t = self.tensors[step.inputs[at]]
        return dequantize_linear(self.tensor(step.inputs[at]), t.scale, t.zero_point)

    def _quantize(self, step: Any, x: list[Array], y: Any) -> Array:
        return quantize_linear(x[0], y.scale, y.zero_point, DTYPES[int(y.dtype)])

    def _quantize_nchw(self, step: Any, x: list[Array], y: Any) -> Array:
        return self._quantize(step, [x[0].reshape(image_shape(step)).transpose(0, 2, 1)], y)

    def _dequantize(self, step: Any, x: list[Array], y: Any) -> Array:
        return self._real(step, 0)

    def _dequantize_nchw(self, step: Any, x: list[Array], y: Any) -> Array:
        batch, channels, pixels = image_shape(step)
        return self._real(step, 0).reshape(batch, pixels, channels).transpose(0, 2, 1)

    def _gemm(self, step: Any, x: list[Array], y: Any) -> Array:
        rows, k, n = (step.arguments[name] for name in ("rows", "k", "columns"))
        zero_point = self.tensors[step.inputs[0]].zero_point
        acc = matmul_integer(x[0].reshape(rows, k), self.matrix(step, 0, k, n), zero_point)
        return self._finish(step, acc, n, 1, y)

    def _gemm_dynamic(self, step: Any, x: list[Array], y: Any) -> Array:
        rows, k, n = (step.arguments[name] for name in ("rows", "k", "columns"))
        weights = self.matrix(step, 0, k, n)
        scale, bias = (self.blob(step, at, "<f4")[:n] for at in (1, 2))
        q, row_scale = dynamic_quantize(x[0].reshape(rows, k))
        acc = matmul_integer(q, weights)
        if step.arguments["zero_points"]:
            q, row_scale, zero_point = quantize_spans(x[0].reshape(rows, k))
            acc = matmul_integer(q, weights) - zero_point[:, None] * weights.astype(np.int32).sum(axis=0)
        with np.errstate(all="ignore"):
            product = acc.astype(np.float32) * (row_scale[:, None] * scale)
        return products_f32.finish(self, step, product, bias, y)

    def _gemm_groups(self, step: Any, x: list[Array], y: Any) -> Array:
        rows, k, n, group = (step.arguments[name] for name in ("rows", "k", "columns", "group"))
        values, scale, zero = int4.unpack(
            self.blob(step, 0, "u1"), n, k, group, asymmetric=bool(step.arguments["zero_points"])
        )
        unit = np.float32(step.arguments["unit"])
        wide = step.arguments["activation_bits"] == 16
        product = int4.product(x[0].reshape(rows, k), values, scale, unit, zero, group, wide=wide)
        return products_f32.finish(self, step, product, self.blob(step, 1, "<f4")[:n], y)

    def matrix(self, step: Any, at: int, k: int, n: int) -> Array:
        """Packed weights as (k, n)."""
        return unpack_weights(self.blob(step, at), n, 1, k)[:, 0].T

    def _matmul(self, step: Any, x: list[Array], y: Any) -> Array:
        a = step.arguments
        zero_point = self.tensors[step.inputs[0]].zero_point
        left = x[0].reshape(a["batch"], a["rows"], a["k"]).astype(np.int64) - zero_point
        acc = (left @ x[1].reshape(a["batch"], a["k"], a["columns"]).astype(np.int64)).astype(np.int32)
        multiplier, lo, hi = (np.float32(a[name]) for name in ("multiplier", "lo", "hi"))
        if DTYPES[int(y.dtype)] == np.float32:
            return (acc.astype(np.float32) * multiplier).clip(lo, hi)
        return requantize(acc, multiplier, y.zero_point, lo, hi)

    def _conv(self, step: Any, x: list[Array], y: Any) -> Array:
        sums = self.convolved(step, x[0], self.tensors[step.inputs[0]].zero_point)
        return self._finish(step, sums, sums.shape[1], step.arguments["groups"], y)

    def convolved(self, step: Any, x: Array, zero_point: int) -> Array:
        """Sums (pixels, channels) of a convolution, depthwise where each channel is a group."""
        in_c, out_c, groups = (step.arguments[name] for name in ("in_channels", "out_channels", "groups"))
        windows = self._windows(step, x, zero_point)  # (pixels, taps, in_c), zero point already subtracted
        if groups > 1 and groups == in_c == out_c and step.kind.name != "CONV":
            return self._depthwise_sums(step, windows)
        size = self.blob(step, 0).size // groups
        columns = []
        for group in range(groups):
            blob = self.blob(step, 0)[group * size : (group + 1) * size]
            weights = unpack_weights(blob, out_c // groups, windows.shape[1], in_c // groups)
            taken = windows[:, :, group * in_c // groups : (group + 1) * in_c // groups]
            flat = taken.reshape(taken.shape[0], -1)
            columns.append(matmul_integer(flat, weights.reshape(weights.shape[0], -1).T))
        return np.concatenate(columns, axis=1)

    def _depthwise(self, step: Any, x: list[Array], y: Any) -> Array:
        windows = self._windows(step, x[0], self.tensors[step.inputs[0]].zero_point)
        return self._finish(step, self._depthwise_sums(step, windows), windows.shape[2], 1, y)

    def _depthwise_sums(self, step: Any, windows: Array) -> Array:
        weights = unpack_depthwise(self.blob(step, 0), windows.shape[2], windows.shape[1])
        return (windows.astype(np.int64) * weights.T).sum(axis=1).astype(np.int32)

    def _gemm_wide(self, step: Any, x: list[Array], y: Any) -> Array:
        rows, k, n = (step.arguments[name] for name in ("rows", "k", "columns"))
        weights = unpack_weights(self.blob(step, 0), n, 1, k)[:, 0].T
        return self._finish_wide(step, self._steps(step, x[0]).reshape(rows, k) @ weights.astype(np.int64), 1, y)

    def _conv_wide(self, step: Any, x: list[Array], y: Any) -> Array:
        in_c, out_c, groups = (step.arguments[name] for name in ("in_channels", "out_channels", "groups"))
        windows, inside = self._gathered(step, self._steps(step, x[0]))
        windows, columns = np.where(inside, windows, 0), []
        for group, blob in enumerate(np.split(self.blob(step, 0), groups)):
            weights = unpack_weights(blob, out_c // groups, windows.shape[1], in_c // groups)
            taken = windows[:, :, group * in_c // groups : (group + 1) * in_c // groups]
            columns.append(np.einsum("ptk,ntk->pn", taken, weights.astype(np.int64)))
        return self._finish_wide(step, np.concatenate(columns, axis=1), groups, y)

    def _depthwise_wide(self, step: Any, x: list[Array], y: Any) -> Array:
        windows, inside = self._gathered(step, self._steps(step, x[0]))
        weights = unpack_depthwise(self.blob(step, 0), step.arguments["channels"], windows.shape[1])
        return self._finish_wide(step, (np.where(inside, windows, 0) * weights.T).sum(axis=1), 1, y)

    @staticmethod
    def _steps(step: Any, x: Array) -> Array:
        """What stands for floats in 16 bits, counted from the zero point."""
        a, dtype = step.arguments, np.int16 if step.arguments["signed"] else np.uint16
        codes = quantize_linear(x, np.float32(a["scale"]), a["zero_point"], dtype)
        return codes.astype(np.int64) - a["zero_point"]

    def _finish_wide(self, step: Any, exact: Array, groups: int, y: Any) -> Array:
        multiplier, bias = (strips(self.blob(step, at, "<f4"), exact.shape[1], groups) for at in (1, 2))
        with np.errstate(all="ignore"):
            return products_f32.finish(self, step, exact.astype(np.float32) * multiplier, bias, y)

    def _finish(self, step: Any, acc: Array, channels: int, groups: int, y: Any) -> Array:
        """Bias, multiplier, clamp, and the residual: what follows a product."""
        bias, multiplier = (
            strips(self.blob(step, at, dtype), channels, groups) for at, dtype in ((1, "<i4"), (2, "<f4"))
        )
        with np.errstate(over="ignore"):
            acc = acc + bias
        arguments = step.arguments
        lo, hi = np.float32(arguments["lo"]), np.float32(arguments["hi"])
        if y.dtype.name == "F32":
            return np.clip(acc.astype(np.float32) * multiplier, lo, hi)
        if y.dtype.name == "I32":
            return acc
        if len(step.inputs) == 1:
            return requantize(acc, multiplier, y.zero_point, lo, hi)
        zero_point = arguments["mid_zero_point"]
        inner = dequantize_linear(
            requantize(acc, multiplier, zero_point, lo, hi), np.float32(arguments["mid_scale"]), zero_point
        )
        limits = arguments["sum_lo"], arguments["sum_hi"]
        return self._sum(inner, self._real(step, 1).reshape(inner.shape), limits, y)

    def _add(self, step: Any, x: list[Array], y: Any) -> Array:
        limits = step.arguments["lo"], step.arguments["hi"]
        return self._sum(self._real(step, 0).reshape(-1), self._real(step, 1).reshape(-1), limits, y)

    @staticmethod
    def _sum(a: Array, b: Array, clamp: Sequence[float], y: Any) -> Array:
        v = np.clip((a + b) / np.float32(y.scale), np.float32(clamp[0]), np.float32(clamp[1]))
        return np.rint(v).astype(np.int32) + y.zero_point

    def _lookup(self, step: Any, x: list[Array], y: Any) -> Array:
        return self.blob(step, 0)[x[0].view(np.uint8)].view(DTYPES[int(y.dtype)])

    def _constant(self, step: Any, x: list[Array], y: Any) -> Array:
        dtype = np.dtype(DTYPES[int(y.dtype)])
        return self.blob(step, 0)[: math.prod(y.shape) * dtype.itemsize].view(dtype)

    def _softmax(self, step: Any, x: list[Array], y: Any) -> Array:
        codes = x[0].reshape(step.arguments["rows"], step.arguments["columns"]).astype(np.int32)
        exponentials = self.blob(step, 0, "<i4")[codes.max(axis=1, keepdims=True) - codes]
        sums = exponentials.sum(axis=1, keepdims=True, dtype=np.int64)
        factor = (1 / (sums * np.float64(y.scale))).astype(np.float32)
        lo, hi = bounds(DTYPES[int(y.dtype)])
        return requantize(exponentials, factor, y.zero_point, lo - y.zero_point, hi - y.zero_point)

    def _max_pool(self, step: Any, x: list[Array], y: Any) -> Array:
        lowest = bounds(x[0].dtype)[0]
        values, inside = self._gathered(step, x[0].astype(np.int32))
        return np.where(inside, values, lowest).max(axis=1)

    def _average_pool(self, step: Any, x: list[Array], y: Any) -> Array:
        source = self.tensors[step.inputs[0]]
        values, inside = self._gathered(step, x[0].astype(np.int32) - source.zero_point)
        taps = values.shape[1]
        count = np.full((values.shape[0], 1), taps) if step.arguments["count_include_pad"] else inside.sum(axis=1)
        multiplier = np.float64(source.scale) / (np.float64(y.scale) * count)
        lo, hi = bounds(DTYPES[int(y.dtype)])
        total = np.where(inside, values, 0).sum(axis=1).astype(np.int32)
        return requantize(total, multiplier.astype(np.float32), y.zero_point, lo - y.zero_point, hi - y.zero_point)

    def _concat(self, step: Any, x: list[Array], y: Any) -> Array:
        rows = step.arguments["rows"]
        return np.concatenate([piece.reshape(rows, -1).view(np.uint8) for piece in x], axis=1).view(
            DTYPES[int(y.dtype)]
        )

    def _slice(self, step: Any, x: list[Array], y: Any) -> Array:
        shape, result, start, stride = (step.arguments[name] for name in ("x_shape", "y_shape", "start", "stride"))
        taken = x[0].reshape(shape)
        for axis in range(4):
            taken = taken.take([start[axis] + i * stride[axis] for i in range(result[axis])], axis=axis)
        return taken

    def _pad(self, step: Any, x: list[Array], y: Any) -> Array:
        shape, result, before = (step.arguments[name] for name in ("x_shape", "y_shape", "before"))
        padded = np.full(result, step.arguments["value"], np.uint8)
        inside = tuple(slice(lead, lead + side) for lead, side in zip(before, shape, strict=True))
        padded[inside] = x[0].reshape(shape).view(np.uint8)
        return padded.view(DTYPES[int(y.dtype)])

    def _transpose(self, step: Any, x: list[Array], y: Any) -> Array:
        return np.ascontiguousarray(x[0].reshape(step.arguments["x_shape"]).transpose(step.arguments["perm"]))

    def _windows(self, step: Any, x: Array, zero_point: int) -> Array:
        """Input pixels under every output pixel, as (pixels, taps, channels); the padding is real zero."""
        values, inside = self._gathered(step, x.astype(np.int32) - zero_point)
        return np.where(inside, values, 0)

    @staticmethod
    def _gathered(step: Any, x: Array) -> tuple[Array, Array]:
        a = step.arguments
        batch, in_h, in_w, taps = a["batch"], a["in_h"], a["in_w"], a["kernel_h"] * a["kernel_w"]
        shape = (batch, a["out_h"], a["out_w"], a["kernel_h"], a["kernel_w"])
        n, oy, ox, ky, kx = np.indices(shape).reshape(5, batch * a["out_h"] * a["out_w"], taps)
        row = oy * a["stride_h"] + ky * a["dilation_h"] - a["pad_top"]
        column = ox * a["stride_w"] + kx * a["dilation_w"] - a["pad_left"]
        inside = (row >= 0) & (row < in_h) & (column >= 0) & (column < in_w)
        pixels = x.reshape(batch, in_h, in_w, -1)
        return pixels[n, row.clip(0, in_h - 1), column.clip(0, in_w - 1)], inside[:, :, None]


def image_shape(step: Any) -> tuple[int, int, int]:
    """Of a step between the orders of an image's axes."""
    return step.arguments["batch"], step.arguments["channels"], step.arguments["pixels"]


def strips(values: Array, channels: int, groups: int) -> Array:
    """Per-channel numbers out of [groups][channels of a group, rounded up to a strip]."""
    width = -(-(channels // groups) // STRIP) * STRIP
    return values[: groups * width].reshape(groups, width)[:, : channels // groups].reshape(-1)


def unpack_weights(packed: Array, n: int, taps: int, k: int) -> npt.NDArray[np.int8]:
    """(n, taps, k) weights out of panels of [taps * quads][width][4]."""
    quads, padded = -(-k // QUAD), -(-n // STRIP) * STRIP
    panels, at = [], 0
    for first in range(0, padded, PANEL):
        width = min(PANEL, padded - first)
        size = taps * quads * width * QUAD
        panel = packed[at : at + size].view(np.int8).reshape(taps, quads, width, QUAD)
        panels.append(panel.transpose(2, 0, 1, 3).reshape(width, taps, quads * QUAD))
        at += size
    return np.concatenate(panels)[:n, :, :k]


def unpack_depthwise(packed: Array, channels: int, taps: int) -> npt.NDArray[np.int8]:
    """(channels, taps) weights out of [channels / 16][taps / 4][16][4]."""
    blocks, quads = -(-channels // STRIP), -(-taps // QUAD)
    stored = packed[: blocks * quads * STRIP * QUAD].view(np.int8).reshape(blocks, quads, STRIP, QUAD)
    return stored.transpose(0, 2, 1, 3).reshape(blocks * STRIP, quads * QUAD)[:channels, :taps]
