"""Activations of 16 bits in a QDQ file, and the products that multiply them by 8-bit weights.

QuantizeLinear and DequantizeLinear have 16 bits since opset 21; in older models they are onnxruntime's own operators.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekern.graph.families import PRODUCTS, QDQ
from edgekern.graph.values import Quant, quantization

CONTRIB = "com.microsoft"
FIRST_WIDE_OPSET = 21


def wide_quant(node: ir.Node | None) -> Quant | None:
    """Parameters of a QuantizeLinear or DequantizeLinear on a whole 16-bit tensor; None of all others."""
    if node is None or node.op_type not in QDQ or node.domain not in ("", CONTRIB):
        return None
    found = quantization(node, 16)
    return None if isinstance(found, str) else found


def wide_source(value: ir.Value | None) -> tuple[ir.Value, Quant, Quant] | None:
    """What a value was made of that goes through 16 bits, how it was quantized, and how it is dequantized."""
    dequantize = None if value is None else value.producer()
    restored = wide_quant(dequantize)
    if dequantize is None or restored is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = None if dequantize.inputs[0] is None else dequantize.inputs[0].producer()
    made = wide_quant(quantize)
    if quantize is None or made is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is None:
        return None
    same = (made.signed, made.bits) == (restored.signed, restored.bits)
    return (quantize.inputs[0], made, restored) if same else None


def wide_operand(node: ir.Node) -> tuple[ir.Value, Quant] | None:
    """What a Conv, Gemm or MatMul reads through 16 bits, and how."""
    if node.domain != "" or node.op_type not in PRODUCTS:
        return None
    found = wide_source(node.inputs[0])
    return None if found is None or found[1] != found[2] else found[:2]
