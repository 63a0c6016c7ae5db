"""Decide which tensors of a float graph become 8-bit, and which of them share one scale and zero point.

Operators fall into four kinds. *Weighted* ones (Conv, Gemm, MatMul) read int8 and may give int8 or float32.
*Arithmetic* ones read and give int8. *Moving* ones copy bytes, so their output has the parameters of their input.
A function of one tensor that several nodes write out (SiLU, GELU) is one operator, which reads and gives int8, and like
Softmax only between int8 operators. All others stay in float32 and read dequantized values.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgekern.graph.families import (
    ACTIVATIONS,
    ARITHMETIC,
    CLAMPS,
    CONVOLUTIONS,
    MAXIMA,
    MOVES,
    PICKS,
    PRODUCTS,
    RESHAPES,
    RESIZES,
    SOFTMAX,
    convolves_bytes,
    is_scalar,
    takes_bytes,
)
from edgekern.graph.formulas import Formula, formulas
from edgekern.graph.prices import CONVERSION, eight_bit_price, elements, float_price
from edgekern.graph.values import HALVES, is_float_constant, scalar, shape_of, sole_consumer, text_attribute
from edgekern.quantization.rules import is_kept

_RESHAPING = RESHAPES - {"Identity"} | {"Transpose"}
_MOVING = MOVES - {"Identity"} | MAXIMA | PICKS


@dataclass(frozen=True)
class Placement:
    """Where quantization goes.

    ``source`` maps each tensor that becomes 8-bit to the tensor whose range it takes (itself, for most);
    ``weighted`` holds the Conv, Gemm and MatMul that compute on int8, ``left_float`` those that cannot, ``integer`` all
    operators that do.
    """

    source: dict[ir.Value, ir.Value]
    weighted: tuple[ir.Node, ...]
    left_float: tuple[ir.Node, ...]
    integer: frozenset[ir.Node]


def place(graph: ir.Graph) -> Placement:
    """Place quantization in a prepared graph (``prepare``)."""
    written_out = _written_out(graph)
    inner = {node for formula in written_out.values() for node in formula.nodes}
    nodes = [node for node in graph if node in written_out or (node not in inner and _kind(node))]
    integer = _integer_nodes(nodes, written_out)
    integer -= _round_trips(nodes, integer, written_out)
    candidates = [node for node in graph if node.domain == "" and node.op_type in PRODUCTS and not is_kept(node)]
    quantized = _quantized_tensors(nodes, integer, written_out)
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return Placement(
        _share(nodes, [value for value in values if value in quantized]),
        tuple(node for node in candidates if node in integer),
        tuple(node for node in candidates if node not in integer),
        frozenset(integer - written_out.keys()),
    )


def _written_out(graph: ir.Graph) -> dict[ir.Node, Formula]:
    """Functions of one tensor that the compiler makes a table of, by their last nodes; nothing within becomes 8-bit.

    Operators of ``ARITHMETIC`` alone are placed one by one. These are SiLU as ``x * Sigmoid(x)``, Erf-GELU,
    ``x * 0.5``, Gelu itself.
    """
    fused = [node.outputs[0] for node in graph if _is_fused(node) and not _adds_number(node.inputs[0])]
    return {
        node: formula
        for node, formula in formulas(graph, fused).items()
        if any(inner.op_type not in ARITHMETIC for inner in formula.nodes)
        and not any(map(is_kept, formula.nodes))
        and all(value.dtype == ir.DataType.FLOAT for value in (formula.root, *(n.outputs[0] for n in formula.nodes)))
    }


def float_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """The float32 activations and float32 constants that ``node`` computes on (not its shapes, axes and limits)."""
    data = len(node.inputs) if node.op_type in ("Add", "Concat", "MatMul") else 1
    yield from (value for value in node.inputs[:data] if value is not None)


def _kind(node: ir.Node) -> str:
    """One of "weighted", "arithmetic" and "moving"; "" for an operator that stays in float32."""
    if node.domain != "" or is_kept(node) or not node.outputs or node.outputs[0].dtype != ir.DataType.FLOAT:
        return ""
    if any(extra.dtype != ir.DataType.FLOAT for extra in _results(node)):  # indices of a pooling
        return ""
    op = node.op_type
    if op in PRODUCTS and any(0 in (shape_of(value) or ()) for value in node.inputs[:2]):
        return ""  # onnxruntime's QLinearMatMul leaves a sum over nothing unwritten
    if op in CONVOLUTIONS or op == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if (bias is not None and not _is_vector(bias)) or not convolves_bytes(node):
            return ""
        return "weighted" if is_float_constant(node.inputs[1]) and not is_float_constant(node.inputs[0]) else ""
    if op == "MatMul":
        return "" if is_float_constant(node.inputs[0]) else "weighted"
    if not takes_bytes(node):
        return ""
    return "moving" if _moves(node) else "arithmetic" if op in ARITHMETIC | SOFTMAX | RESIZES else ""


def _moves(node: ir.Node) -> bool:
    """Whether every element of a node's result is one of its input."""
    return node.op_type in _MOVING or (node.op_type in RESIZES and text_attribute(node, "mode", "nearest") == "nearest")


def _results(node: ir.Node) -> list[ir.Value]:
    """What somebody reads of a node's outputs, and the first one in any case."""
    return [*node.outputs[:1], *(extra for extra in node.outputs[1:] if extra.uses() or extra.is_graph_output())]


def _is_vector(value: ir.Value) -> bool:
    tensor = value.const_value
    return is_float_constant(value) and tensor is not None and len(tensor.shape) == 1


def fused_source(node: ir.Node) -> ir.Value | None:
    """What a node reads of the operator before it where that one's epilogue computes the node, else None.

    A Relu or Clip behind Conv, Gemm, MatMul or Add; an Add of a constant row behind a MatMul.
    """
    if node.op_type == "Add" and node.domain == "":
        return next((value for value in node.inputs if value is not None and _bias_add_behind(value) is node), None)
    source = node.inputs[0] if node.op_type in CLAMPS else None
    before = None if source is None else source.producer()
    if source is None or before is None or sole_consumer(source) is not node or not _kind(before):
        return None
    return source if before.op_type in PRODUCTS or before.op_type == "Add" else None


def _is_fused(node: ir.Node) -> bool:
    return fused_source(node) is not None


def fused_bias(node: ir.Node) -> ir.Value | None:
    """The constant row that is added to a MatMul in its epilogue, as its bias."""
    result = node.outputs[0]
    add = _bias_add_behind(result)
    return None if add is None else next(value for value in add.inputs if value is not result)


def _bias_add_behind(product: ir.Value) -> ir.Node | None:
    """The Add of a constant row that alone reads the result of a MatMul."""
    before, add = product.producer(), sole_consumer(product)
    if before is None or before.op_type != "MatMul" or _kind(before) != "weighted" or add is None:
        return None
    columns, rank = _constant_shape(before.inputs[1])[-1:], 0 if product.shape is None else len(product.shape)
    if add.op_type != "Add" or add.domain != "" or columns in ((), (1,)) or add.graph is not before.graph:
        return None
    row = _constant_shape(next((value for value in add.inputs if value is not product), None))
    return add if len(row) <= rank and row[-1:] == columns and math.prod(row) == columns[0] else None


def _constant_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Of a float constant; () of all others."""
    tensor = value.const_value if value is not None and is_float_constant(value) else None
    return () if tensor is None else tuple(tensor.shape.numpy())


def _adds_number(value: ir.Value | None) -> bool:
    """Whether a value is a sum with a constant of one element, as hard-swish begins."""
    node = None if value is None else value.producer()
    rank = 0 if value is None or value.shape is None else len(value.shape)
    return node is not None and node.op_type == "Add" and any(is_scalar(operand, rank) for operand in node.inputs)


def _integer_nodes(nodes: list[ir.Node], written_out: Mapping[ir.Node, Formula]) -> set[ir.Node]:
    """The nodes that compute on int8: all weighted ones, and the others where int8 comes in or is wanted.

    An operator between two float operators stays in float: there it would only lose accuracy. A formula that is written
    out, and Softmax, have to have both, int8 that comes in and int8 that is wanted: what a mask sends to -infinity has
    no code, and 255 steps of probability make ties where a model ends.
    """
    between = {node: formula.root for node, formula in written_out.items()}
    between |= {node: node.inputs[0] for node in nodes if node.op_type in SOFTMAX and node.inputs[0] is not None}
    integer = {node for node in nodes if _kind(node) == "weighted" and node not in written_out}
    last: dict[ir.Node, list[ir.Node]] = {}
    for end, formula in written_out.items():
        for node in formula.nodes:
            last.setdefault(node, []).append(end)
    for _ in nodes:
        before = len(integer)
        for node in nodes:
            if node in between:
                continue
            operands = list(float_inputs(node))
            computed = any(not value.is_initializer() for value in operands)
            if computed and all(_supplies(value, integer) for value in operands) and not _masks(node):
                integer.add(node)
        for node in reversed(nodes):
            if (node in between and not _supplies(between[node], integer)) or _ends_float_product(node):
                continue
            uses = (use for result in _results(node) for use in result.uses())
            readers = (end for use in uses for end in last.get(use.node, [use.node]))
            if any(reader in integer for reader in readers):
                integer.add(node)
        if len(integer) == before:
            break
    return integer


def _ends_float_product(node: ir.Node) -> bool:
    """Whether an activation stands behind a product that stays float32, which does it before its result is rounded."""
    source = node.inputs[0] if node.op_type in ACTIVATIONS else None
    before = None if source is None else source.producer()
    return before is not None and before.op_type in PRODUCTS and is_kept(before)


def _round_trips(nodes: list[ir.Node], integer: set[ir.Node], written_out: Mapping[ir.Node, Formula]) -> set[ir.Node]:
    """Operators without a product among them that would be quantized between floats, where floats move fewer bytes.

    What has none at all is quantized as it was asked for.
    """
    if not any(node.op_type in PRODUCTS for node in integer):
        return set()
    left, found = {node for node in nodes if node in integer}, set[ir.Node]()
    while left:
        group, waiting = set[ir.Node](), [left.pop()]
        while waiting:
            group.add(node := waiting.pop())
            read = written_out[node].root.producer() if node in written_out else None
            makers = [value.producer() for value in float_inputs(node)] if read is None else [read]
            readers = [use.node for result in _results(node) for use in result.uses()]
            near = left.intersection(maker for maker in makers if maker is not None) | left.intersection(readers)
            left -= near
            waiting += near
        if any(node.op_type in PRODUCTS or node in written_out for node in group):
            continue
        ends = [value for node in group for value in _results(node) if not _read_within(value, group)]
        begins = {
            value
            for node in group
            for value in float_inputs(node)
            if value.producer() not in group and not any(use.node in integer - group for use in value.uses())
        }
        in_codes = sum(eight_bit_price(node).nbytes for node in group)
        in_codes += CONVERSION * (elements(begins) + elements(ends))
        if in_codes >= sum(float_price(node).nbytes for node in group):
            found |= group
    return found


def _read_within(value: ir.Value, group: set[ir.Node]) -> bool:
    return bool(value.uses()) and not value.is_graph_output() and all(use.node in group for use in value.uses())


def _masks(node: ir.Node) -> bool:
    """Whether an Add gives a mask to what Softmax reads: -1e9 in its range would leave one code to all the rest."""
    given = [value for value in node.inputs if value is not None and _is_given(value)]
    if node.op_type != "Add" or all(scalar(value) is not None for value in given):
        return False
    seen, waiting = {node}, [node]
    while waiting:
        for use in waiting.pop().outputs[0].uses():
            if use.node.op_type in SOFTMAX:
                return True
            if use.node.op_type in RESHAPES and use.node not in seen:
                seen.add(use.node)
                waiting.append(use.node)
    return False


def _supplies(value: ir.Value, integer: set[ir.Node]) -> bool:
    return _is_given(value) or value.producer() in integer


def _is_given(value: ir.Value) -> bool:
    """Whether it is a constant or an input, also one that comes in halves."""
    producer = value.producer()
    if producer is None:
        return value.is_initializer() or value.is_graph_input()
    source = producer.inputs[0] if producer.op_type == "Cast" else None
    return source is not None and source.is_graph_input() and source.dtype in HALVES


def _quantized_tensors(
    nodes: list[ir.Node], integer: set[ir.Node], written_out: Mapping[ir.Node, Formula]
) -> set[ir.Value]:
    """Inputs of integer nodes and outputs of arithmetic ones, but none that an epilogue takes.

    Reshaping operators only pass on what they get, so the float result of the last Conv or Gemm stays float behind one.
    """
    quantized: set[ir.Value] = set()
    for node in nodes:
        if node not in integer or node.op_type in _RESHAPING:
            continue
        if node in written_out:
            quantized.update((written_out[node].root, node.outputs[0]))
            continue
        fused = _is_fused(node)
        if not fused:
            operands = float_inputs(node)
            quantized.update(v for v in operands if not is_float_constant(v) or node.op_type not in PRODUCTS)
        if node.op_type not in PRODUCTS and not (fused and _gives_float(node)):
            quantized.update(_results(node))
    reshaping = [node for node in nodes if node.op_type in _RESHAPING and node in integer]
    for _ in range(len(reshaping) + 1):
        before = len(quantized)
        for node in (*reshaping, *reversed(reshaping)):
            source = node.inputs[0]
            if source is not None and (source in quantized or node.outputs[0] in quantized):
                quantized.update((source, node.outputs[0]))
        if len(quantized) == before:
            break
    computing = [node for node in nodes if node in integer and node not in written_out]
    fused_away = {fused_source(node) for node in computing}
    return {value for value in quantized if value not in fused_away}


def _gives_float(node: ir.Node) -> bool:
    """Whether what is fused ends a weighted operator whose result may stay in float32."""
    source = fused_source(node)
    before = None if source is None else source.producer()
    return before is not None and (before.op_type in PRODUCTS or (before.op_type == "Add" and _is_fused(before)))


def _share(nodes: list[ir.Node], quantized: list[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Let moving operators, and the inputs that only a Concat reads, share parameters."""
    source = {value: value for value in quantized}
    members: dict[ir.Value, list[ir.Value]] = {}
    for node in nodes:
        first = node.inputs[0]
        for result in _results(node):
            if _moves(node) and result in source and first is not None and first in source:
                source[result] = source[first]
    for value, owner in source.items():
        members.setdefault(owner, []).append(value)
    for node in reversed(nodes):
        if node.op_type != "Concat" or node.outputs[0] not in source:
            continue
        for value in float_inputs(node):
            owner, root = source[node.outputs[0]], source[value]
            # Rounding to a finer scale first and to the Concat's afterwards only adds an error.
            if root is not owner and all(_moves_or_is(use.node, node) for v in members[root] for use in v.uses()):
                moved = members.pop(root)
                source.update(dict.fromkeys(moved, owner))
                members[owner] += moved
    return source


def _moves_or_is(reader: ir.Node, node: ir.Node) -> bool:
    return reader is node or (_moves(reader) and reader.graph is node.graph)
