"""Conv over one to three dimensions and ConvTranspose on int8, by the kernels that convolve images.

A sound is an image of one row. Of a volume, the slices under a window lie side by side as channels first. A transposed
convolution is one that gives each input pixel's block of results, one channel after another: no zeros are multiplied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, StepKind
from edgekern.compiler.floats.picks import pick_places
from edgekern.compiler.layout import pad, transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import Product, pad_strips
from edgekern.compiler.operators.window import SPATIAL, Window
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, channels_last
from edgekern.graph.values import int_attribute, ints_attribute, known_shape, label, quantized_weights, shape_of

Codes = npt.NDArray[np.int8]
Finish = Callable[[Tensor], Tensor]


def reason(node: ir.Node) -> str | None:
    """Why no kernel on 8 bits computes a Conv or ConvTranspose; its bias is looked at elsewhere."""
    x, y, weights = shape_of(node.inputs[0]), shape_of(node.outputs[0]), quantized_weights(node.inputs[1], shifted=True)
    if isinstance(weights, str):
        return weights
    kernel = weights.values.shape[2:]
    if x is None or y is None or not 3 <= len(x) <= SPATIAL + 2 or len(kernel) != len(x) - 2:
        return "only convolutions over one to three dimensions have a kernel"
    if 0 in (*x, *y):
        return "a convolution of nothing has no kernel"
    window = Window.of(node, kernel)
    if window.is_same and window.steps_over:
        return "auto_pad where strides leave pixels out has no kernel"
    transposes, groups = node.op_type == "ConvTranspose", int_attribute(node, "group", 1)
    if weights.scale.size > 1 and weights.axis != (1 if transposes else 0):
        return "its weight scales do not run along the output channels"
    if weights.zero is not None and (transposes or len(x) == SPATIAL + 2):
        return f"the zero point of its weights has no kernel in a {node.op_type} over {len(kernel)} dimensions"
    if transposes:
        return _transposed_reason(node, window, groups)
    if len(x) == SPATIAL + 2 and groups > 1:
        return "a grouped convolution over three dimensions has no kernel"
    return None


def _transposed_reason(node: ir.Node, window: Window, groups: int) -> str | None:
    if groups > 1:
        return "a grouped ConvTranspose has no kernel"
    if window.sizes["in"][0] != 1 or window.sizes["kernel"][0] != 1:
        return "ConvTranspose over three dimensions has no kernel"
    if min(window.sizes["pad"]) < 0 or min(ints_attribute(node, "pads", [0])) < 0:
        return "negative padding has no kernel"
    return None if window.turned.fits else "a window that begins outside the image has no kernel"


def convolve(
    lowering: Lowering, node: ir.Node, product: Product, x: Tensor, value: ir.Value
) -> tuple[KernelStep, Product, Finish]:
    """The step of a node without its ending, the product that it computes, and what makes its result that of the node.

    ``x`` has its channels last.
    """
    if node.op_type == "ConvTranspose":
        return _transposed(lowering, node, product, x, value)
    window = Window.of(node, product.weights.shape[2:])
    groups = int_attribute(node, "group", 1)
    weights = product.weights
    if len(x.shape) == SPATIAL + 2:
        x, weights = _slices_as_channels(lowering, label(node), x, weights, window)
    step = _image(lowering, label(node), x, weights, product.bias, groups, _flat(window, x))
    batch, _, *sides = known_shape(value)
    shape, order = (batch, len(product.weights), *sides), channels_last(2 + len(sides))
    step.output.shape, step.output.order = tuple(shape[axis] for axis in order), order
    return step, product, lambda y: y


def _flat(window: Window, x: Tensor) -> Window:
    """Of a volume, the window over each of the images that its slices have become."""
    depth = {"in": 1, "out": 1, "kernel": 1, "stride": 1, "dilation": 1, "pad": 0}
    sizes = {name: [depth[name], *sides[-2:]] for name, sides in window.sizes.items()}
    return Window(window.batch * window.sizes["out"][0], sizes, window.is_same)


def _slices_as_channels(
    lowering: Lowering, name: str, x: Tensor, weights: Codes, window: Window
) -> tuple[Tensor, Codes]:
    """A volume as images, one for each place of the window along the first side, with channels of all its slices."""
    batch, side, height, width, channels = x.shape
    count, stride, dilation, pad_front = (window.sizes[key][0] for key in ("out", "stride", "dilation", "pad"))
    taps = window.sizes["kernel"][0]
    slices = []
    for tap in range(taps):
        at = np.arange(count) * stride + tap * dilation - pad_front
        tables = [np.arange(size) for size in (batch, channels, count, height, width)]
        tables[2] = np.where((at < 0) | (at >= side), -1, at)
        slices.append(pick_places(lowering, x, tables, name, "Conv", x.q.zero_point & 0xFF))
    images = (batch * count, height, width)
    if taps > 1:
        y = Tensor(x.name, x.dtype, (*images, taps * channels), x.quant, NHWC)
        arguments = {"rows": math.prod(images), "bytes": [channels] * taps}
        x = lowering.emit(KernelStep(StepKind.CONCAT, name, "Conv", slices, y, arguments=arguments))
    else:
        x = view(slices[0], shape=(*images, channels), order=NHWC)
    out_c, in_c, _, *kernel = weights.shape
    return x, weights.swapaxes(1, 2).reshape(out_c, taps * in_c, *kernel)


def _image(
    lowering: Lowering, name: str, x: Tensor, weights: Codes, bias: npt.NDArray[np.int64], groups: int, window: Window
) -> KernelStep:
    """A convolution over height and width; a sound is an image of one row."""
    out_c, in_per_group = weights.shape[:2]
    taps = weights.reshape(groups, out_c // groups, in_per_group, -1).transpose(0, 1, 3, 2)
    if not window.fits:
        if len(x.shape) != len(NHWC):
            x = view(x, shape=(window.batch, *window.sizes["in"][-2:], x.shape[-1]), order=NHWC)
        before = [0, *window.sizes["pad"][-2:], 0]
        after = [0, *(max(over, 0) for over in window.overhang[-2:]), 0]
        x, window = pad(lowering, x, before, after, x.q.zero_point, name), window.padded()
    in_c = x.shape[-1]
    depthwise = groups > 1 and groups == in_c == out_c
    packed = _core.pack_depthwise_blob(weights.reshape(out_c, -1)) if depthwise else _core.pack_weights_blob(taps)
    blobs = [packed, pad_strips(bias.astype(np.int32), 1 if depthwise else groups)]
    y = Tensor("", DType.F32, (window.batch, *window.sizes["out"][-2:], out_c), order=NHWC)
    if depthwise:
        return KernelStep(StepKind.DEPTHWISE, "", "", [x], y, blobs, {**window.flat_arguments, "channels": out_c})
    sizes = {"in_channels": in_c, "out_channels": out_c, "groups": groups}
    return KernelStep(StepKind.CONV, "", "", [x], y, blobs, window.flat_arguments | sizes)


def _transposed(
    lowering: Lowering, node: ir.Node, product: Product, x: Tensor, value: ir.Value
) -> tuple[KernelStep, Product, Finish]:
    """A ConvTranspose: with stride s, results of one block of s lie under the same pixels of ``x``.

    Result ``y`` of an axis, counted with the padding in front of it, is number ``y % s`` of block ``y // s``. Tap t
    leads to it from the pixel that lies ``(t * dilation - y % s) / s`` before its block.
    """
    window = Window.of(node, product.weights.shape[2:])
    axes = [_Blocks.of(window, at) for at in (-2, -1)]
    out_c, in_c = product.weights.shape[:2]
    taps = product.weights.reshape(out_c, in_c, *window.sizes["kernel"][-2:])
    rows, columns = axes
    blocks = np.zeros((rows.stride, columns.stride, out_c, in_c, rows.taps, columns.taps), np.int8)
    for (row, top, ky), (column, left, kx) in itertools.product(rows.places(), columns.places()):
        blocks[row, column, :, :, top, left] = taps[:, :, ky, kx]
    count = rows.stride * columns.stride
    whole = Product(
        blocks.reshape(count * out_c, in_c, rows.taps, columns.taps),
        np.tile(product.bias, count),
        np.tile(product.scale, count),
    )
    step = _image(lowering, label(node), x, whole.weights, whole.bias, 1, _over_blocks(window, axes))

    def finish(y: Tensor) -> Tensor:
        batch, high, wide, _ = y.shape
        y = view(y, shape=(batch, high, wide, rows.stride, columns.stride, out_c), order=())
        y = transposed(lowering, y, (0, 1, 3, 2, 4, 5), (), label(node))
        y = view(y, shape=(batch, high * rows.stride, wide * columns.stride, out_c), order=NHWC)
        tables = [np.arange(batch), np.arange(out_c), *(axis.first + np.arange(axis.size) for axis in axes)]
        y = pick_places(lowering, y, tables, label(node), node.op_type)
        shape = known_shape(value)
        order = channels_last(len(shape))
        return y if order == NHWC else view(y, shape=tuple(shape[axis] for axis in order), order=order)

    return step, whole, finish


@dataclass(frozen=True)
class _Blocks:
    """An axis of a ConvTranspose, whose result comes in blocks of ``stride``.

    Attributes
    ----------
    taps, pad, out : of the convolution that gives the blocks
    first, size : what of them is the result
    """

    kernel: int
    stride: int
    dilation: int
    taps: int
    pad: int
    out: int
    first: int
    size: int

    @staticmethod
    def of(window: Window, at: int) -> _Blocks:
        kernel, stride, dilation, pad_front, size = (
            window.sizes[name][at] for name in ("kernel", "stride", "dilation", "pad", "out")
        )
        before, begin = (kernel - 1) * dilation // stride, pad_front // stride
        out = (size - 1 + pad_front) // stride - begin + 1
        first = pad_front - begin * stride
        return _Blocks(kernel, stride, dilation, before + 1, before - begin, out, first, size)

    def places(self) -> list[tuple[int, int, int]]:
        """Of every tap: its result's number in a block, and its place among the taps of the convolution."""
        numbers = [tap * self.dilation % self.stride for tap in range(self.kernel)]
        return [
            (number, self.taps - 1 - (tap * self.dilation - number) // self.stride, tap)
            for tap, number in enumerate(numbers)
        ]


def _over_blocks(window: Window, axes: Sequence[_Blocks]) -> Window:
    sizes = {
        "in": window.sizes["in"],
        "out": [1, *(axis.out for axis in axes)],
        "kernel": [1, *(axis.taps for axis in axes)],
        "stride": [1, 1, 1],
        "dilation": [1, 1, 1],
        "pad": [0, *(axis.pad for axis in axes)],
    }
    return Window(window.batch, sizes)
