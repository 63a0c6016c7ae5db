"""softmax(scale * q k^T + mask) v as one step that never holds the scores: written out, and as ONNX's Attention."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.attention_match import Found, hiding, match, split_axes
from edgekern.compiler.floats.maps import emit_map, new_map
from edgekern.compiler.floats.operator import BOOL, FLOAT, FloatOperator, new_tensor
from edgekern.compiler.floats.reductions import MAX, reduce_axes
from edgekern.compiler.floats.strides import BATCH_AXES, Strided, batch_steps, dense_steps, read_strided
from edgekern.compiler.formula_step import Array, Instruction, MapStep, Operand, Ref, Result
from edgekern.compiler.layout import transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import (
    FloatArray,
    float_attribute,
    int_attribute,
    ints_attribute,
    is_constant,
    known_shape,
    label,
    sole_consumer,
)


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor | None:
    """The step for a MatMul of probabilities and values; None where it is none."""
    found, v_value = match(node), node.inputs[1]
    if found is None or v_value is None:
        return None
    shape, lead = known_shape(value), found.frame[:-2]
    if not 2 <= len(shape) <= BATCH_AXES + 2 or len(lead) > BATCH_AXES or 0 in (*shape, *found.scores):
        return None
    plain = tuple(range(len(shape)))
    perm = plain if found.guarded else _reader_order(value)
    made = new_tensor(value, tuple(shape[axis] for axis in perm), () if perm == plain else perm)
    memory = dense_steps(made.shape, 1)
    steps = tuple(memory[perm.index(axis)] for axis in plain)
    parts = (
        _in_frame(_queries(lowering, node, found), found.scores, lead),
        _in_frame(read_strided(lowering, found.k).swapped(), found.scores, lead),
        _in_frame(_dense_rows(lowering, v_value), shape, lead),
        _in_frame(Strided(made, shape, steps), shape, lead),
    )
    if any(part is None for part in parts):
        return None
    q, k, v, into = (part for part in parts if part is not None)
    if into.shape[:-2] != lead:
        return None
    mask = _mask(lowering, node, found)
    if mask is None and found.masks:
        return None
    y = _emit(lowering, label(node), found.operators, (q, k, v), mask, into, found.scale)
    if not found.guarded or mask is None:
        return y
    largest = reduce_axes(lowering, mask.tensor, [len(mask.shape) - 1], (MAX, MAX), label(node), found.operators)
    return _zero_unseen(lowering, node, value, view(y, shape=into.shape), largest)


def _queries(lowering: Lowering, node: ir.Node, found: Found) -> Strided:
    """The queries, times what scales the scores of each head."""
    if not found.factors:
        return _dense_rows(lowering, found.q)
    shape = known_shape(found.q)
    step = MapStep(StepKind.MAP, label(node), found.operators, [], Tensor(label(node), DType.F32, shape))
    step.operands = [lowering.plain(found.q), *(lowering.constant(factor) for factor in found.factors)]
    code: list[Instruction] = [(MapOp.MUL, (Operand(0), Operand(1)))]
    code += [(MapOp.MUL, (Result(at), Operand(at + 2))) for at in range(len(found.factors) - 1)]
    return Strided(emit_map(lowering, step, code), shape, tuple(dense_steps(shape, 1)))


def _reader_order(value: ir.Value) -> tuple[int, ...]:
    """How a Transpose that alone reads a value wants it to lie, if its rows stay rows; else ONNX's order."""
    reader, plain = sole_consumer(value), tuple(range(len(known_shape(value))))
    if reader is None or reader.op_type != "Transpose" or reader.domain != "":
        return plain
    perm = tuple(ints_attribute(reader, "perm", list(plain)[::-1]))
    return perm if perm[-1] == plain[-1] else plain


def _dense_rows(lowering: Lowering, value: ir.Value) -> Strided:
    """A value where it lies, if its rows have no gaps, else as ONNX has it."""
    x = read_strided(lowering, value)
    if x.steps[-1] == 1 or x.shape[-1] == 1:
        return x
    return Strided(lowering.plain(value), x.shape, tuple(dense_steps(x.shape, 1)))


def _in_frame(x: Strided, scores: tuple[int, ...], lead: tuple[int, ...]) -> Strided | None:
    """An operand with the axes before its matrices split as the frame of all has them; None where they do not fit."""
    groups = split_axes(scores[:-2], lead)
    if groups is None or len(x.shape) > len(scores):
        return None
    missing = len(scores) - len(x.shape)
    shape, steps = [], []
    own = zip((1,) * missing + x.shape[:-2], (0,) * missing + x.steps[:-2], strict=True)
    for group, (side, step) in zip(groups, own, strict=True):
        shape += [1] * len(group) if side == 1 else group
        steps += [0] * len(group) if side == 1 else dense_steps(group, step)
    return Strided(x.tensor, (*shape, *x.shape[-2:]), (*steps, *x.steps[-2:]))


def _mask(lowering: Lowering, node: ir.Node, found: Found) -> Strided | None:
    """The sum of the masks, in the frame; None where one does not fit, or there is none."""
    lead = found.frame[:-2]
    constants: list[FloatArray] = []
    operands: list[Tensor | Array] = []
    terms: list[Ref] = []
    code: list[Instruction] = []
    for mask in found.masks:
        if not is_constant(mask.value) and mask.kept is None and len(found.masks) == 1 and not found.guarded:
            return _in_frame(read_strided(lowering, mask.value), mask.scores, lead)
        array = lowering.constant(mask.value) if is_constant(mask.value) else None
        shape = known_shape(mask.value) if array is None else array.shape
        sides = _in_frame(_shaped((1,) * (2 - len(shape)) + shape), mask.scores, lead)
        if sides is None:
            return None
        shown, hidden = 0.0, hiding(mask.fill)
        if array is not None:
            array = array if mask.kept is None else np.where(array == mask.kept, shown, hidden)
            _add_constant(constants, array.reshape(sides.shape).astype(np.float32))
            continue
        operands.append(view(lowering.plain(mask.value), shape=sides.shape))
        terms.append(Operand(len(operands) - 1))
        if mask.kept is not None:
            code.append((MapOp.WHERE, (terms[-1], *((shown, hidden) if mask.kept else (hidden, shown)))))
            terms[-1] = Result(len(code) - 1)
    for number, array in enumerate(constants):
        if number == 0 and not operands:
            first = _constant_mask(lowering, node, array)
            if len(constants) == 1:
                return first
            operands.append(first.tensor)
        else:
            operands.append(array)
        terms.append(Operand(len(operands) - 1))
    if not terms:
        return None
    total, *others = terms
    for term in others:
        code.append((MapOp.ADD, (total, term)))
        total = Result(len(code) - 1)
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    made = Tensor(label(node), DType.F32, shape)
    step = MapStep(StepKind.MAP, label(node), found.operators, [], made, operands=operands)
    mapped = emit_map(lowering, step, code or [(MapOp.COPY, (total,))])
    return Strided(mapped, shape, tuple(dense_steps(shape, 1)))


def _add_constant(constants: list[FloatArray], array: FloatArray) -> None:
    """Add a mask to one that is there, unless the sum were larger than both: such a one is made when it is needed."""
    for number, other in enumerate(constants):
        if np.broadcast(other, array).size == max(other.size, array.size):
            constants[number] = other + array
            return
    constants.append(array)


def _shaped(shape: tuple[int, ...]) -> Strided:
    """Something of a shape, for what asks of no more."""
    return Strided(Tensor("", DType.F32, shape), shape, tuple(dense_steps(shape, 1)))


def _constant_mask(lowering: Lowering, node: ir.Node, array: FloatArray) -> Strided:
    content = np.ascontiguousarray(array, np.float32)
    made = Tensor(label(node), DType.F32, content.shape)
    lowering.emit(KernelStep(StepKind.CONSTANT, label(node), "Constant", [], made, [content.tobytes()]))
    return Strided(made, content.shape, tuple(dense_steps(content.shape, 1)))


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
    y = view(y, shape=shape if rank == 4 else (batch, rows, heads, width))
    largest = reduce_axes(lowering, mask.tensor, [3], (MAX, MAX), label(node), "Attention")
    if rank == 3:
        largest = transposed(lowering, largest, (0, 2, 1, 3), (), label(node))
    return _zero_unseen(lowering, node, value, y, largest)


def _zero_unseen(lowering: Lowering, node: ir.Node, value: ir.Value, y: Tensor, largest: Tensor) -> Tensor:
    """A result, 0 in those rows of which the largest mask hides everything."""
    step = new_map(node, value, tuple(range(len(known_shape(value)))))
    step.operands += [y, largest]
    step.output = Tensor(step.output.name, step.output.dtype, y.shape)
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
        return _constant_mask(lowering, node, array), bool((array.max(-1) == -np.inf).any())
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
