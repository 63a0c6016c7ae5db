"""Clamp a tensor before it is quantized where a tool has clamped the codes: fewer bits than a byte has.

``Clip(Q(x), lo, hi)`` is ``Q(Clip(x, (lo - zero) * scale, (hi - zero) * scale))``: rounding keeps order, and gives the
two codes back for the two limits. Kernels clamp what they are about to store, and have nothing that clamps bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekern.graph.families import CLIP, QDQ, limits
from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import is_code, quantization, sole_consumer


def clamp_reals(graph: ir.Graph) -> None:
    """Move such Clips, in place."""
    for node in list(graph):
        ends = limits(node)
        if ends is not None and not node.outputs[0].is_graph_output():
            _move(graph, node, ends)


def _move(graph: ir.Graph, clip: ir.Node, ends: tuple[float, float]) -> None:
    codes = clip.inputs[0]
    quantize = None if codes is None else codes.producer()
    if codes is None or quantize is None or sole_consumer(codes) is not clip:
        return
    if quantize.op_type not in QDQ or not is_code(codes):
        return
    quant, x = quantization(quantize), quantize.inputs[0]
    if isinstance(quant, str) or x is None or x.dtype != ir.DataType.FLOAT:
        return
    name = str(clip.outputs[0].name)
    real = quant.dequantize(np.clip(ends, quant.lo, quant.hi))
    given = [new_initializer(graph, f"{name}_limit", limit) for limit in real]
    moved = ir.Node("", CLIP, [x, *given], name=clip.name)
    made = moved.outputs[0]
    made.name, made.type, made.shape = free_name(graph, f"{name}_real"), x.type, x.shape
    graph.insert_before(quantize, moved)
    quantize.replace_input_with(0, made)
    clip.outputs[0].replace_all_uses_with(codes)
    graph.remove(clip, safe=True)
