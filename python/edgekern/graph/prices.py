"""What a node costs wherever it may run: multiply-adds, and bytes that are read and written. Shapes alone say it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from edgekern.graph.families import INTEGER_PRODUCTS, PRODUCTS
from edgekern.graph.values import is_constant, shape_of

CODE, REAL = 1, 4  # bytes of an element that is quantized, and of one that is not
CONVERSION = CODE + REAL  # of QuantizeLinear or DequantizeLinear: it reads the one and writes the other


@dataclass(frozen=True)
class Price:
    """Of one run of a node, with the conversions that it would need."""

    macs: int
    nbytes: int


def elements(values: Iterable[ir.Value | None]) -> int:
    """Of all of them together, a free dimension being one; what has no shape counts as nothing."""
    shapes = [value.shape for value in values if value is not None and value.shape is not None]
    return sum(math.prod(side for side in shape if isinstance(side, int)) for shape in shapes)


def eight_bit_price(node: ir.Node, quantized: Iterable[ir.Value] = (), dequantized: Iterable[ir.Value] = ()) -> Price:
    """On 8 bits, with those operands quantized and those results dequantized that are given."""
    moved = elements(node.inputs) + elements(node.outputs)
    return Price(macs(node), moved * CODE + (elements(quantized) + elements(dequantized)) * CONVERSION)


def float_price(node: ir.Node, dequantized: Iterable[ir.Value] = (), quantized: Iterable[ir.Value] = ()) -> Price:
    """On floats, with those operands dequantized and those results quantized that are given."""
    moved = elements(node.inputs) + elements(node.outputs)
    return Price(macs(node), moved * REAL + (elements(dequantized) + elements(quantized)) * CONVERSION)


def host_price(node: ir.Node, dequantized: Iterable[ir.Value] = (), quantized: Iterable[ir.Value] = ()) -> Price:
    """In onnxruntime: what the float kernel moves, and a copy of all that crosses the border to it and back."""
    inside = float_price(node, dequantized, quantized)
    crossing = elements(x for x in node.inputs if x is not None and not is_constant(x)) + elements(node.outputs)
    return Price(inside.macs, inside.nbytes + 2 * REAL * crossing)


def macs(node: ir.Node) -> int:
    """Multiply-adds of a product, of any type; 0 for other operators."""
    if node.op_type not in PRODUCTS | INTEGER_PRODUCTS:
        return 0
    shapes = [shape_of(value) for value in (*node.inputs[:2], node.outputs[0])]
    if any(shape is None for shape in shapes) or len(shapes) < 3:
        return 0
    x, weights, result = (shape or () for shape in shapes)
    if node.op_type in ("Conv", "ConvInteger"):
        return math.prod(result) * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(weights[1:])
    if node.op_type != "ConvTranspose" and x:
        return math.prod(result) * (x[0] if node.op_type == "Gemm" and len(x) == 2 and x[1] == result[0] else x[-1])
    return 0
