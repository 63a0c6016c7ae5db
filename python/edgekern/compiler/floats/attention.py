"""softmax(scale * q k^T + mask) v as one step that never holds the scores: written out, and as ONNX's Attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import emit_map, new_map
from edgekern.compiler.floats.operator import BOOL, FLOAT, FloatOperator, new_tensor
from edgekern.compiler.floats.reductions import MAX, reduce_axes
from edgekern.compiler.floats.strides import BATCH_AXES, Strided, batch_steps, dense_steps, read_strided
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import (
    float_attribute,
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
    into = Strided(y, shape, tuple(dense_steps(shape, 1)))
    return _emit(lowering, label(node), "+".join(found.names), (q, k, v_part), mask, into, found.scale)


def _emit(
    lowering: Lowering,
    name: str,
    op: str,
    parts: tuple[Strided, Strided, Strided],
    mask: Strided | None,
    y: Strided,
    scale: float,
) -> Tensor:
    """A step on queries, keys and values (..., tokens, depth)."""
    q, k, v = parts
    sizes, steps = batch_steps(y.shape[:-2], [*parts, y, *([] if mask is None else [mask])])
    arguments = {
        "batch": sizes,
        "rows": y.shape[-2],
        "keys": k.shape[-2],
        "depth": q.shape[-1],
        "value_depth": y.shape[-1],
        "q_batch": steps[0],
        "k_batch": steps[1],
        "v_batch": steps[2],
        "mask_batch": [0] * BATCH_AXES if mask is None else steps[4],
        "y_batch": steps[3],
        "q_row": q.steps[-2],
        "k_row": k.steps[-2],
        "k_depth": k.steps[-1],
        "v_row": v.steps[-2],
        "mask_row": 0 if mask is None or mask.shape[-2] == 1 else mask.steps[-2],
        "mask_column": 0 if mask is None or mask.shape[-1] == 1 else mask.steps[-1],
        "y_row": y.steps[-2],
        "scale": scale,
    }
    inputs = [part.tensor for part in parts] + ([] if mask is None else [mask.tensor])
    return lowering.emit(KernelStep(StepKind.ATTENTION_F32, name, op, inputs, y.tensor, arguments=arguments))


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


def is_plain(node: onnx.NodeProto) -> bool:
    """Whether an Attention asks for nothing but its result: no cache, lengths, window, cap or scores."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    windows = (given.get("left_window_size", -1), given.get("right_window_size", -1))
    precision = given.get("softmax_precision", onnx.TensorProto.FLOAT)
    asked = any(node.output[1:]) or any(node.input[4:]) or given.get("softcap", 0.0) or max(windows) >= 0
    return not asked and precision == onnx.TensorProto.FLOAT


def reason(node: ir.Node) -> str | None:
    q, k, v, mask, *_ = [*node.inputs, None]
    for value in (q, k, v):
        if value is None or value.dtype not in FLOAT:
            name = "nothing" if value is None or value.dtype is None else value.dtype.name
            return f"it reads {name}, for which Attention has no kernel"
    if not is_plain(ir.to_proto(node)):
        return "an Attention with a cache, lengths, a window, a cap or its scores as a result has no kernel"
    heads, kv_heads = _counts(node)
    widths = [known_shape(value)[-1] for value in (q, k, v)] if len(known_shape(q)) == 3 else [0, 0, 0]
    if heads % kv_heads or any(width % count for width, count in zip(widths, (heads, kv_heads, kv_heads), strict=True)):
        return f"its {heads} heads do not share {kv_heads} heads of keys"
    if mask is not None and mask.dtype not in FLOAT | BOOL:
        return "a mask that is neither float32 nor bool has no kernel"
    if mask is not None and known_shape(mask)[-1] not in (1, known_shape(k)[-2]):
        return "a mask for fewer keys than there are has no kernel"
    if 0 in (*known_shape(q), *known_shape(k), *known_shape(v)):
        return "an Attention to nothing has no kernel"
    return None


def _counts(node: ir.Node) -> tuple[int, int]:
    """Heads of queries, and of keys."""
    q, k = (known_shape(value) for value in node.inputs[:2])
    if len(q) == 4:
        return q[1], k[1]
    return int_attribute(node, "q_num_heads", 1), int_attribute(node, "kv_num_heads", 1)


def lower_node(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """ONNX's Attention, on heads where they lie; a group of them reads one head of keys."""
    q_value, k_value, v_value, mask_value, *_ = [*node.inputs, None]
    assert q_value is not None
    assert k_value is not None
    assert v_value is not None
    rank = len(known_shape(q_value))
    heads, kv_heads = _counts(node)
    q, k, v = (
        _heads(lowering, part, count) for part, count in ((q_value, heads), (k_value, kv_heads), (v_value, kv_heads))
    )
    batch, _, rows, depth = q.shape
    keys, width = v.shape[-2:]
    shape = (batch, heads, rows, width)
    made = new_tensor(value, known_shape(value))
    steps = tuple(dense_steps(shape, 1)) if rank == 4 else (rows * heads * width, width, heads * width, 1)
    mask, may_be_empty = _whole_mask(lowering, node, mask_value, (rows, keys))
    parts = (_grouped(q, kv_heads), _grouped(k, kv_heads), _grouped(v, kv_heads))
    given = None if mask is None else _grouped(mask, kv_heads if mask.shape[1] > 1 else 1)
    into = _grouped(Strided(made, shape, steps), kv_heads)
    scale = float_attribute(node, "scale", 1 / math.sqrt(depth))
    y = _emit(lowering, label(node), "Attention", parts, given, into, scale)
    if mask is None or not may_be_empty:
        return y
    largest = reduce_axes(lowering, mask.tensor, [3], (MAX, MAX), label(node), "Attention")
    if rank == 3:
        largest = transposed(lowering, largest, (0, 2, 1, 3), (), label(node))
    flat = view(y, shape=shape if rank == 4 else (batch, rows, heads, width))
    step = new_map(node, value, tuple(range(rank)))
    step.operands += [flat, largest]
    step.output = Tensor(step.output.name, step.output.dtype, flat.shape)
    code: list[Instruction] = [
        (MapOp.EQUAL, (Operand(1), -math.inf)),
        (MapOp.WHERE, (Result(0), 0.0, Operand(0))),
    ]
    return view(emit_map(lowering, step, code), shape=known_shape(value))


def _heads(lowering: Lowering, value: ir.Value, heads: int) -> Strided:
    """(batch, heads, tokens, depth), whose depth lies without gaps."""
    if len(known_shape(value)) == 3:
        batch, tokens, width = known_shape(value)
        depth = width // heads
        return Strided(lowering.plain(value), (batch, heads, tokens, depth), (tokens * width, depth, width, 1))
    x = read_strided(lowering, value)
    if x.steps[-1] == 1 or x.shape[-1] == 1:
        return x
    return Strided(lowering.plain(value), x.shape, tuple(dense_steps(x.shape, 1)))


def _grouped(x: Strided, groups: int) -> Strided:
    """(batch, heads, ...) as (batch, groups, heads of a group, ...)."""
    batch, heads, *rest = x.shape
    each = heads // groups
    return Strided(x.tensor, (batch, groups, each, *rest), (x.steps[0], x.steps[1] * each, *x.steps[1:]))


def _whole_mask(
    lowering: Lowering, node: ir.Node, value: ir.Value | None, sides: tuple[int, int]
) -> tuple[Strided | None, bool]:
    """What is added to the scores, of four axes, and whether it may leave a row nothing to see."""
    order = np.where(np.tri(*sides, dtype=np.bool_), np.float32(0), np.float32(-np.inf))
    causal = bool(int_attribute(node, "is_causal", 0))
    if value is None and not causal:
        return None, False
    if value is None or is_constant(value):
        array = np.zeros((1, 1), np.float32)
        if value is not None:
            array = lowering.constant(value)
            array = np.where(array, np.float32(0), np.float32(-np.inf)) if array.dtype == np.bool_ else array
        array = (array + order if causal else array).astype(np.float32)
        array = np.ascontiguousarray(array.reshape((1,) * (4 - array.ndim) + array.shape))
        made = Tensor(label(node), DType.F32, array.shape)
        lowering.emit(KernelStep(StepKind.CONSTANT, label(node), "Constant", [], made, [array.tobytes()]))
        return Strided(made, array.shape, tuple(dense_steps(array.shape, 1))), bool((array.max(-1) == -np.inf).any())
    x = lowering.plain(value)
    x = view(x, shape=(1,) * (4 - len(x.shape)) + x.shape)
    code: list[Instruction] = []
    if x.dtype == DType.BOOL:
        code.append((MapOp.WHERE, (Operand(0), 0.0, -math.inf)))
    if causal:
        code.append((MapOp.ADD, (Result(0) if code else Operand(0), Operand(1))))
    if code:
        shape = (*x.shape[:2], *(sides if causal else x.shape[2:]))
        step = MapStep(StepKind.MAP, label(node), "Attention", [], Tensor(label(node), DType.F32, shape))
        step.operands += [x, order.reshape(1, 1, *sides)]
        x = emit_map(lowering, step, code)
    return Strided(x, x.shape, tuple(dense_steps(x.shape, 1))), True


OPERATOR = FloatOperator(frozenset({"Attention"}), reason, lower_node)
