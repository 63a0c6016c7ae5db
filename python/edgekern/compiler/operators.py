"""What each operator needs to run on a kernel. Every check answers with a reason, or None when the kernel takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgekern.compiler.layout import MAX_RANK, merge_axes
from edgekern.compiler.window import Window
from edgekern.graph.families import MOVES, RESHAPES, UNARY, WITH_CONSTANT
from edgekern.graph.values import (
    constant,
    float_attribute,
    float_constant,
    int_attribute,
    ints_attribute,
    quantized_weights,
    scalar,
    shape_of,
    text_attribute,
)


def conv_reason(node: ir.Node) -> str | None:
    x, weights = shape_of(node.inputs[0]), quantized_weights(node.inputs[1])
    if isinstance(weights, str):
        return weights
    if x is None or len(x) != 4 or weights.values.ndim != 4 or 0 in x:
        return "only convolutions over two dimensions have a kernel"
    if weights.scale.size > 1 and weights.axis != 0:
        return "its weight scales do not run along the output channels"
    return bias_reason(node, weights.values.shape[0])


def gemm_reason(node: ir.Node) -> str | None:
    weights = quantized_weights(node.inputs[1])
    if isinstance(weights, str):
        return weights
    if node.op_type == "Gemm" and int_attribute(node, "transA", 0):
        return "transA = 1 has no kernel"
    columns = 0 if int_attribute(node, "transB", 0) and node.op_type == "Gemm" else 1
    if weights.values.ndim != 2:
        return "only weights that are a matrix have a kernel"
    if weights.scale.size > 1 and weights.axis != columns:
        return "its weight scales do not run along the columns"
    x = shape_of(node.inputs[0])
    if x is None or len(x) < 1:
        return "its input has no known shape"
    if float_attribute(node, "alpha", 1.0) <= 0:
        return "alpha <= 0 has no kernel"
    return bias_reason(node, weights.values.shape[columns])


def bias_reason(node: ir.Node, channels: int) -> str | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = float_constant(node.inputs[2])
    if bias is None:
        return "its bias is not constant"
    if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return f"its bias has shape {bias.shape}, not ({channels},)"
    return None


def window_reason(node: ir.Node) -> str | None:
    x = shape_of(node.inputs[0])
    if x is None or len(x) != 4 or 0 in x or shape_of(node.outputs[0]) is None:
        return "only pooling over two dimensions has a kernel"
    if len(node.outputs) > 1 and node.outputs[1] is not None and node.outputs[1].uses():
        return "the indices of a pooling have no kernel"
    if (
        node.op_type == "AveragePool"
        and int_attribute(node, "ceil_mode", 0)
        and int_attribute(node, "count_include_pad", 0)
    ):
        return "count_include_pad with ceil_mode has no kernel"
    return None if Window.of(node).fits else "a window that begins outside the image has no kernel"


def mean_reason(node: ir.Node) -> str | None:
    """ReduceMean over the two image axes is a global average."""
    x = shape_of(node.inputs[0])
    axes = ints_attribute(node, "axes", [])
    if len(node.inputs) > 1 and (given := constant(node.inputs[1])) is not None:
        axes = [int(axis) for axis in given.reshape(-1)]
    if x is None or len(x) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        return "only a mean over height and width has a kernel"
    return None


def move_reason(node: ir.Node) -> str | None:
    x, y = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if x is None or y is None:
        return "its shape is not known"
    filler = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if filler is not None and scalar(filler) is None:
        return "its padding value is not constant"
    if any(constant(value) is None for value in node.inputs[1:] if value is not None and value is not filler):
        return "its shape depends on the data"
    if node.op_type in RESHAPES:
        return None
    if node.op_type == "Transpose":
        _, merged = merge_axes(x, ints_attribute(node, "perm", list(range(len(x)))[::-1]))
        return None if len(merged) <= MAX_RANK else f"it moves more than {MAX_RANK} axes"
    if len(x) > MAX_RANK:
        return f"it has more than {MAX_RANK} dimensions"
    if node.op_type == "Pad":
        return _pad_reason(node, len(x))
    return None


def _pad_reason(node: ir.Node, rank: int) -> str | None:
    if text_attribute(node, "mode", "constant") != "constant":
        return "only constant padding has a kernel"
    before, after = pad_widths(node, rank)
    return "negative padding has no kernel" if min(*before, *after, 0) < 0 else None


def pad_widths(node: ir.Node, rank: int) -> tuple[list[int], list[int]]:
    given = constant(node.inputs[1])
    assert given is not None
    pads = [int(pad) for pad in given]
    axes = list(range(rank))
    if len(node.inputs) > 3 and (chosen := constant(node.inputs[3])) is not None:
        axes = [int(axis) % rank for axis in chosen]
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(axes):
        before[axis], after[axis] = pads[at], pads[at + len(axes)]
    return before, after


def slice_ranges(node: ir.Node, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Start and step of every axis of a Slice; the lengths are those of its output."""
    given = [constant(value) for value in node.inputs[1:]]
    starts, ends = ([int(item) for item in array] if array is not None else [] for array in given[:2])
    axes = (
        [int(axis) % len(shape) for axis in given[2]] if len(given) > 2 and given[2] is not None else range(len(starts))
    )
    steps = [int(step) for step in given[3]] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    begin, stride = [0] * len(shape), [1] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        begin[axis], _, stride[axis] = slice(start, end, step).indices(shape[axis])
    return begin, stride


REASONS: dict[str, Callable[[ir.Node], str | None]] = {
    "Conv": conv_reason,
    "Gemm": gemm_reason,
    "MatMul": gemm_reason,
    "MaxPool": window_reason,
    "GlobalMaxPool": window_reason,
    "AveragePool": window_reason,
    "GlobalAveragePool": window_reason,
    "ReduceMean": mean_reason,
    **dict.fromkeys(MOVES, move_reason),
}
# Operators that some kernel does, with the right operands.
KERNELS = UNARY | WITH_CONSTANT | {"Concat", *REASONS}
