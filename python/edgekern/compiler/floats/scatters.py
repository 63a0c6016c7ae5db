"""ScatterElements and ScatterND: updates put where indices say, or joined with what is there."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.operator import ANY, FLOAT, WHOLE, FloatOperator, new_tensor
from edgekern.compiler.floats.strides import dense_steps
from edgekern.compiler.layout import MOST_AXES, eight, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import constant, int_attribute, known_shape, label, text_attribute

_HOW = ("none", "add", "mul", "min", "max")  # by a step's `how`


def reason(node: ir.Node) -> str | None:
    data, indices, updates = node.inputs[:3]
    how = text_attribute(node, "reduction", "none")
    typed = data is not None and data.dtype in ANY and updates is not None and updates.dtype == data.dtype
    if not typed or indices is None or indices.dtype not in WHOLE:
        return f"it reads types for which {node.op_type} has no kernel"
    if how not in _HOW:
        return f"the reduction '{how}' has no kernel"
    if how != "none" and data is not None and data.dtype not in FLOAT | WHOLE:
        return f"{node.op_type} that joins bools or 8-bit integers has no kernel"
    shape, fixed = known_shape(data), constant(indices)
    if not shape:
        return "its data is a scalar"
    if 0 in shape:
        return f"a {node.op_type} into nothing has no kernel"
    if fixed is not None and fixed.size:
        sides = shape if node.op_type == "ScatterND" else (shape[int_attribute(node, "axis", 0)],)
        rows = fixed if node.op_type == "ScatterND" else fixed[..., None]
        sides = sides[: rows.shape[-1]]
        if ((rows >= sides) | (rows < [-side for side in sides])).any():
            return "its index is outside of its data"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    data, indices, updates = node.inputs[:3]
    assert data is not None
    assert indices is not None
    assert updates is not None
    if 0 in known_shape(indices):
        return view(lowering.plain(data))
    shape, rows = known_shape(data), known_shape(indices)
    how = _HOW.index(text_attribute(node, "reduction", "none"))
    if node.op_type == "ScatterND":
        kind, depth = StepKind.SCATTER_ND, rows[-1]
        arguments = {
            "count": math.prod(rows[:-1]),
            "depth": depth,
            "sides": [*shape[:depth], *[1] * (MOST_AXES - depth)],
            "slice": math.prod(shape[depth:]),
            "how": how,
        }
    else:
        kind, axis = StepKind.SCATTER_ELEMENTS, int_attribute(node, "axis", 0) % len(shape)
        steps = dense_steps(shape, 1)
        arguments = {
            "shape": eight(rows),
            "y_step": eight([0 if at == axis else step for at, step in enumerate(steps)], 0),
            "n": shape[axis],
            "axis_step": steps[axis],
            "how": how,
        }
    inputs = [lowering.plain(operand) for operand in (data, indices, updates)]
    return lowering.emit(KernelStep(kind, label(node), node.op_type, inputs, new_tensor(value), arguments=arguments))


OPERATOR = FloatOperator(frozenset({"ScatterElements", "ScatterND"}), reason, lower)
