"""From placed ONNX nodes to kernel steps and host nodes."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import StepKind
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.passes.lower_arithmetic import add_step, concat_step, lookup, pool_step, table_of
from edgekern.compiler.passes.lower_moves import move
from edgekern.compiler.passes.lower_products import product_step
from edgekern.compiler.placement import Placement, Role
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, dtype_of
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import Quant, is_code, known_shape, label, operands


def lower_graph(graph: ir.Graph, placement: Placement, model: Skeleton) -> tuple[Lowering, list[Tensor]]:
    """Walk the nodes in order; what has been made, and the tensors of the graph's outputs, as ONNX has them."""
    lowering = Lowering(graph, placement, model)
    for node in graph:
        _lower(lowering, node)
    return lowering, [lowering.plain(value) for value in graph.outputs]


def _lower(lowering: Lowering, node: ir.Node) -> None:
    p = lowering.placement
    if node in p.hosts:
        lowering.add_host(node)
    for value in node.outputs:
        role = p.role_of(value)
        if value in p.native and role is Role.BYTES:
            tensor = _bytes(lowering, node, value)
            lowering.keep_stored(value, tensor)
            if str(value.name) not in tensor.names and not is_code(value):
                tensor.names.append(str(value.name))
        elif value in p.plain and role is Role.PRODUCT:
            lowering.keep_plain(value, _product(lowering, value, None))
        elif value in p.plain and role is Role.FLOAT:
            lowering.keep_plain(value, move(lowering, node, value, lowering.plain(next(operands(node)))))


def _bytes(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """An 8-bit result."""
    op, quant = node.op_type, lowering.placement.quant[value]
    if op == "QuantizeLinear":
        return _quantized(lowering, node, quant)
    if op == "Concat":
        pieces = [lowering.native(v) for v in node.inputs if v is not None]
        return concat_step(lowering, node, [node], pieces, pieces[0].quant or quant)
    source = next(operands(node))
    if op in ("MaxPool", "GlobalMaxPool"):
        return pool_step(lowering, node, [node], lowering.native(source), quant, average=False)
    x = lowering.stored(source)
    if op == "DequantizeLinear":
        return x if x.quant == quant else view(x, quant=quant, dtype=dtype_of(quant))
    if op == "Relu":
        x = view(x, quant=quant) if x.quant is None else x
        return lookup(lowering, x, quant, quant.quantize(quant.dequantize(quant.codes()).clip(0)), node, [node])
    return move(lowering, node, value, x)


def _quantized(lowering: Lowering, node: ir.Node, quant: Quant) -> Tensor:
    """The result of a QuantizeLinear, computed where its input is computed if that can be."""
    p, x = lowering.placement, node.inputs[0]
    assert x is not None
    role = p.role_of(x)
    if role is Role.BYTES:
        tensor = lookup(lowering, lowering.stored(x), quant, None, node, [node])
    elif role is Role.TABLE:
        root = lowering.stored(p.root[x])
        table, nodes = table_of(lowering.model, x, p.root[x], root.q, quant)
        tensor = lookup(lowering, root, quant, table, nodes[0], nodes)
    elif role is Role.PRODUCT and p.fuses(node):
        tensor = _product(lowering, x, quant)
    elif role is Role.PENDING:
        tensor = _pending(lowering, x, quant)
    else:
        tensor = _quantized_float(lowering, lowering.plain(x), node, quant)
    if str(x.name) not in tensor.names:
        tensor.names.append(str(x.name))
    return tensor


def _product(lowering: Lowering, value: ir.Value, quant: Quant | None) -> Tensor:
    chain = lowering.placement.chain[value]
    data = chain.nodes[0].inputs[0]
    assert data is not None
    return product_step(lowering, chain, value, lowering.native(data), quant)


def _pending(lowering: Lowering, value: ir.Value, quant: Quant) -> Tensor:
    chain = lowering.placement.chain[value]
    first = chain.nodes[0]
    if first.op_type == "Add":
        return add_step(lowering, chain, quant)
    if first.op_type == "Concat":
        pieces = [lowering.native(v) for v in first.inputs if v is not None]
        return _clamped(lowering, concat_step(lowering, first, chain.nodes, pieces, quant), chain.clamps, quant, first)
    data = first.inputs[0]
    assert data is not None
    mean = pool_step(lowering, first, chain.nodes, lowering.native(data), quant, average=True)
    mean = _clamped(lowering, mean, chain.clamps, quant, first)
    shape = known_shape(value)
    return mean if len(shape) == 4 else view(mean, shape=shape, order=())


def _clamped(lowering: Lowering, x: Tensor, clamps: list[tuple[float, float]], quant: Quant, node: ir.Node) -> Tensor:
    """Clamp codes; the steps before have no clamp of their own. Quantizing keeps order, so it may come first."""
    codes = quant.codes()
    for lo, hi in clamps:
        codes = codes.clip(quant.quantize(lo), quant.quantize(hi))
    return lookup(lowering, x, quant, codes, node, []) if clamps else x


def _quantized_float(lowering: Lowering, x: Tensor, node: ir.Node, quant: Quant) -> Tensor:
    image = len(x.shape) == 4
    shape = tuple(x.shape[axis] for axis in NHWC) if image else x.shape
    y = Tensor(x.name, dtype_of(quant), shape, quant, NHWC if image else ())
    if not image:
        return lowering.emit(KernelStep(StepKind.QUANTIZE, label(node), node.op_type, [x], y))
    batch, channels, height, width = x.shape
    sizes = {"batch": batch, "channels": channels, "pixels": height * width}
    return lowering.emit(KernelStep(StepKind.QUANTIZE_NCHW, label(node), node.op_type, [x], y, arguments=sizes))
