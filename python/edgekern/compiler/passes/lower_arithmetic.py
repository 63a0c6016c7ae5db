"""Add, pooling, Concat and tables of 256 bytes as kernel steps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler.evaluate import evaluate, to_proto
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.passes.lower_products import NO_RESIDUAL, clamp
from edgekern.compiler.placement import Chain
from edgekern.compiler.products import pad_strips
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, dtype_of
from edgekern.compiler.window import Window
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import (
    Quant,
    constant,
    float_constant,
    int_attribute,
    is_constant,
    known_shape,
    label,
    quantization,
)

Codes = npt.NDArray[np.int64]


def lookup(
    lowering: Lowering, x: Tensor, quant: Quant, codes: Codes | None, node: ir.Node, nodes: list[ir.Node]
) -> Tensor:
    """Map every byte of ``x``: to ``codes``, in the order of bytes, or (None) to the scale of ``quant``."""
    if codes is None:
        codes = quant.quantize(x.q.dequantize(x.q.codes()))
    table = (codes & 0xFF).astype(np.uint8)
    if np.array_equal(table, np.arange(256)):
        return view(x, quant=quant, dtype=dtype_of(quant)) if x.quant != quant else x
    y = Tensor(x.name, dtype_of(quant), x.shape, quant, x.order, x.flat)
    op = "+".join(item.op_type for item in nodes) or "Clip"
    return lowering.emit(KernelStep(StepKind.LOOKUP, label(node), op, [x], y, [table.tobytes()]))


def table_of(
    model: Skeleton, value: ir.Value, root: ir.Value, source: Quant, quant: Quant
) -> tuple[Codes, list[ir.Node]]:
    """Codes of the function that leads from ``root`` to ``value``: onnxruntime computes it on the 256 values."""
    nodes = _between(root, value)
    x = source.dequantize(source.codes())
    constants = {}
    for node in nodes:
        for operand in node.inputs:
            if operand is not None and is_constant(operand):
                real = float_constant(operand)
                array = constant(operand) if real is None else real
                assert array is not None
                constants[str(operand.name)] = to_proto(array.reshape(()), str(operand.name))
    protos = [ir.to_proto(node) for node in nodes]
    [result] = evaluate(model, protos, constants, [str(value.name)], {str(root.name): x})
    return quant.quantize(np.broadcast_to(result, (256,))), nodes


def _between(root: ir.Value, value: ir.Value) -> list[ir.Node]:
    """The nodes that compute ``value`` from ``root``, each after those it reads."""
    found: dict[ir.Node, None] = {}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        found.pop(node, None)  # what is read by several comes before all of them
        found[node] = None
        waiting += [v for v in node.inputs if v is not None and v is not root and not is_constant(v)]
    return list(found)[::-1]


def add_step(lowering: Lowering, chain: Chain, quant: Quant) -> Tensor:
    """Add of two 8-bit tensors of one shape; a constant operand is laid out once."""
    node = chain.nodes[0]
    values = [value for value in node.inputs if value is not None]
    variable = next(value for value in values if not is_constant(value))
    shape = known_shape(node.outputs[0])
    first = lowering.native(variable)
    inputs = [_constant(lowering, v, shape) if is_constant(v) else lowering.native(v) for v in values]
    y = Tensor(str(chain.nodes[-1].outputs[0].name), dtype_of(quant), first.shape, quant, first.order)
    limits = clamp(chain.clamps, quant)
    return lowering.emit(KernelStep(StepKind.ADD, label(node), chain.op, inputs, y, arguments={**limits}))


def _constant(lowering: Lowering, value: ir.Value, shape: tuple[int, ...]) -> Tensor:
    """A quantized constant as a tensor: a product over no columns, whose result is its bias."""
    producer = value.producer()
    assert producer is not None
    codes, quant = constant(producer.inputs[0]), quantization(producer)
    assert codes is not None
    assert isinstance(quant, Quant)
    steps = codes.astype(np.int32) - quant.zero_point
    image = len(shape) == 4
    full = np.broadcast_to(steps, shape)
    stored = full.transpose(NHWC) if image else full
    columns = stored.shape[-1]
    if (stored == stored.reshape(-1, columns)[0]).all():
        rows, bias = math.prod(stored.shape[:-1]), stored.reshape(-1, columns)[0]
    else:
        rows, bias = 1, stored.reshape(-1)
    columns = bias.size
    nothing = Tensor(f"{value.name} of nothing", dtype_of(quant), (rows, 0), quant)
    packed = _core.pack_weights_blob(np.zeros((1, columns, 1, 0), np.int8))
    blobs = [packed, pad_strips(bias.astype(np.int32)), pad_strips(np.ones(columns, np.float32))]
    y = Tensor(str(value.name), dtype_of(quant), stored.shape, quant, NHWC if image else ())
    arguments = {"rows": rows, "k": 0, "columns": columns} | clamp([], quant) | NO_RESIDUAL
    return lowering.emit(KernelStep(StepKind.GEMM, label(producer), "Constant", [nothing], y, blobs, arguments))


def pool_step(
    lowering: Lowering, node: ir.Node, nodes: list[ir.Node], x: Tensor, quant: Quant, *, average: bool
) -> Tensor:
    """MaxPool keeps the scale of its input; an average goes to ``quant``."""
    window = Window.of(node)
    arguments = {**window.arguments, "channels": x.shape[3]}
    shape = (window.batch, *window.output, x.shape[3])
    op = "+".join(item.op_type for item in nodes)
    name = str(nodes[-1].outputs[0].name)
    if not average:
        y = Tensor(name, x.dtype, shape, x.quant, NHWC)
        return lowering.emit(KernelStep(StepKind.MAX_POOL, label(node), op, [x], y, arguments=arguments))
    arguments["count_include_pad"] = int_attribute(node, "count_include_pad", 0)
    # The kernel's result has the sign of its input; the other sign is the same value 128 codes away.
    offset = 0 if quant.signed == x.q.signed else 128 if quant.signed else -128
    own = Quant(quant.scale, quant.zero_point + offset, x.q.signed)
    y = Tensor(name, x.dtype, shape, own, NHWC)
    lowering.emit(KernelStep(StepKind.AVERAGE_POOL, label(node), op, [x], y, arguments=arguments))
    return lookup(lowering, y, quant, None, node, nodes[:1]) if offset else y


def concat_step(lowering: Lowering, node: ir.Node, nodes: list[ir.Node], pieces: list[Tensor], quant: Quant) -> Tensor:
    """Pieces one behind the other, each brought to the scale of the result first."""
    value = nodes[-1].outputs[0]
    pieces = [piece if piece.quant is None else lookup(lowering, piece, quant, None, node, [node]) for piece in pieces]
    order = pieces[0].order or tuple(range(len(pieces[0].shape)))
    axis = order.index(int_attribute(node, "axis", 0) % len(order))
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    rows = math.prod(shape[:axis])
    arguments = {"rows": rows, "bytes": [math.prod(piece.shape[axis:]) * piece.item_bytes for piece in pieces]}
    y = Tensor(str(value.name), pieces[0].dtype, tuple(shape), quant, pieces[0].order)
    op = "+".join(item.op_type for item in nodes)
    return lowering.emit(KernelStep(StepKind.CONCAT, label(node), op, pieces, y, arguments=arguments))
