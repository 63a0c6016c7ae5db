"""softmax(scale * q k^T + mask) v as one step that never holds the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.floats.strides import BATCH_AXES, Strided, batch_steps, dense_steps, read_strided
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import (
    int_attribute,
    is_constant,
    known_shape,
    label,
    scalar,
    sole_consumer,
)


@dataclass(frozen=True)
class _Found:
    """The parts of an attention that ends with a product."""

    q: ir.Value
    k: ir.Value  # as the second operand of its product: (..., depth, keys)
    mask: ir.Value | None
    scale: float
    names: tuple[str, ...]


def lower(lowering: Lowering, node: ir.Node, y: Tensor) -> Tensor | None:
    """The step for a MatMul of probabilities and values; None where it is none."""
    found, v = _match(node), node.inputs[1]
    if found is None or v is None:
        return None
    shape = known_shape(node.outputs[0])
    rank = len(shape)
    parts = [read_strided(lowering, found.q), read_strided(lowering, found.k).swapped(), read_strided(lowering, v)]
    if rank < 3 or rank > BATCH_AXES + 2 or any(len(part.shape) != rank for part in parts):
        return None
    mask = None if found.mask is None else _mask(lowering, found.mask, rank)
    q, k, v_part = parts
    if (v_part.steps[-1] != 1 and v_part.shape[-1] != 1) or (q.steps[-1] != 1 and q.shape[-1] != 1):
        return None
    batch = shape[:-2]
    sizes, steps = batch_steps(batch, [*parts, *([] if mask is None else [mask])])
    arguments = {
        "batch": sizes,
        "rows": shape[-2],
        "keys": k.shape[-2],
        "depth": q.shape[-1],
        "value_depth": shape[-1],
        "q_batch": steps[0],
        "k_batch": steps[1],
        "v_batch": steps[2],
        "mask_batch": [0] * BATCH_AXES if mask is None else steps[3],
        "y_batch": dense_steps(sizes, shape[-2] * shape[-1]),
        "q_row": q.steps[-2],
        "k_row": k.steps[-2],
        "k_depth": k.steps[-1],
        "v_row": v_part.steps[-2],
        "mask_row": 0 if mask is None or mask.shape[-2] == 1 else mask.steps[-2],
        "mask_column": 0 if mask is None or mask.shape[-1] == 1 else mask.steps[-1],
        "y_row": shape[-1],
        "scale": found.scale,
    }
    inputs = [part.tensor for part in parts] + ([] if mask is None else [mask.tensor])
    op = "+".join(found.names)
    return lowering.emit(KernelStep(StepKind.ATTENTION_F32, label(node), op, inputs, y, arguments=arguments))


def _mask(lowering: Lowering, value: ir.Value, rank: int) -> Strided:
    mask = read_strided(lowering, value)
    lead = rank - len(mask.shape)
    return Strided(mask.tensor, (1,) * lead + mask.shape, (0,) * lead + mask.steps)


def _match(node: ir.Node) -> _Found | None:
    """The nodes before a product, read by nobody else: MatMul, a factor, a mask, Softmax over the last axis."""
    names = [node.op_type]
    probabilities = node.inputs[0]
    softmax = _sole_producer(probabilities, node)
    if softmax is None or softmax.op_type != "Softmax" or probabilities is None:
        return None
    rank = len(known_shape(probabilities))
    if int_attribute(softmax, "axis", -1) not in (-1, rank - 1):
        return None
    names.insert(0, "Softmax")
    scores, reader = softmax.inputs[0], softmax
    mask, scale = None, 1.0
    before = _sole_producer(scores, reader)
    if before is not None and before.op_type == "Add":
        sides = [value for value in before.inputs if value is not None]
        inner = [_sole_producer(value, before) for value in sides]
        at = next((i for i in (0, 1) if inner[i] is not None and _leads_to_product(inner[i])), None)
        if at is None or known_shape(sides[at]) != known_shape(before.outputs[0]):
            return None
        mask, before = sides[1 - at], inner[at]
        names.insert(0, "Add")
    if before is not None and before.op_type in ("Mul", "Div"):
        at = next((i for i in (0, 1) if is_constant(before.inputs[i])), None)
        factor = None if at is None else scalar(before.inputs[at])
        if at is None or factor is None or (before.op_type == "Div" and at == 0) or factor == 0:
            return None
        scale = factor if before.op_type == "Mul" else float(np.float32(1) / np.float32(factor))
        names.insert(0, before.op_type)
        before = _sole_producer(before.inputs[1 - at], before)
    if before is None or before.op_type != "MatMul":
        return None
    q, k = before.inputs[:2]
    if q is None or k is None or is_constant(q) or is_constant(k):
        return None
    names.insert(0, "MatMul")
    return _Found(q, k, mask, scale, tuple(names))


def _leads_to_product(node: ir.Node | None) -> bool:
    if node is not None and node.op_type in ("Mul", "Div"):
        value = next((v for v in node.inputs if not is_constant(v)), None)
        node = _sole_producer(value, node)
    return node is not None and node.op_type == "MatMul"


def _sole_producer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """What makes a value that one node alone reads."""
    if value is None or is_constant(value) or sole_consumer(value) is not reader:
        return None
    producer = value.producer()
    return producer if producer is not None and producer.domain == "" else None
