"""Clamp a tensor before it is quantized where a tool has clamped the codes: fewer bits than a byte has.

``Clip(Q(x), lo, hi)`` is ``Q(Clip(x, (lo - zero) * scale, (hi - zero) * scale))``: rounding keeps order, and gives the
two codes back for the two limits. Kernels clamp what they are about to store, and have nothing that clamps bytes.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import constant, quantization, sole_consumer


def clamp_reals(graph: ir.Graph) -> None:
    """Move such Clips, in place."""
    for node in list(graph):
        if node.op_type == "Clip" and node.domain == "" and not node.outputs[0].is_graph_output():
            _move(graph, node)


def _move(graph: ir.Graph, clip: ir.Node) -> None:
    codes = clip.inputs[0]
    quantize = None if codes is None else codes.producer()
    if codes is None or quantize is None or quantize.op_type != "QuantizeLinear" or sole_consumer(codes) is not clip:
        return
    quant, x = quantization(quantize), quantize.inputs[0]
    if isinstance(quant, str) or x is None or x.dtype != ir.DataType.FLOAT:
        return
    limits = [quant.lo, quant.hi]
    for at, value in enumerate(clip.inputs[1:3]):
        limit = constant(value)
        if value is not None and (limit is None or limit.size != 1):
            return
        limits[at] = limits[at] if limit is None else int(limit.reshape(()))
    name = str(clip.outputs[0].name)
    given = [new_initializer(graph, f"{name}_limit", limit) for limit in quant.dequantize(limits)]
    moved = ir.Node("", "Clip", [x, *given], name=clip.name)
    made = moved.outputs[0]
    made.name, made.type, made.shape = free_name(graph, f"{name}_real"), x.type, x.shape
    graph.insert_before(quantize, moved)
    quantize.replace_input_with(0, made)
    clip.outputs[0].replace_all_uses_with(codes)
    graph.remove(clip, safe=True)
