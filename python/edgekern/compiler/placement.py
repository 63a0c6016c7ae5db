"""Decide for every value how it is held, and for every node who computes it.

First a walk forward: what could each value be? Then a walk back from the outputs: what is needed of it? A node whose
float result is needed, and that no kernel computes, goes to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import onnx_ir as ir

from edgekern.compiler.operators import KERNELS, REASONS
from edgekern.compiler.products import accumulator_reason
from edgekern.graph.families import MOVES, PRODUCTS, RESHAPES, elementwise_operands, limits
from edgekern.graph.values import (
    Quant,
    float_constant,
    is_code,
    is_constant,
    operands,
    quantization,
    scalar,
    shape_of,
    sole_consumer,
)


class Role(Enum):
    """How a value is held."""

    BYTES = "8-bit, exactly"
    TABLE = "a function of one 8-bit tensor; a QuantizeLinear makes it a table of 256 bytes"
    PRODUCT = "the result of Conv, Gemm or MatMul on int8, not yet stored"
    PENDING = "the result of Add, average or Concat on 8-bit operands; needs a QuantizeLinear to be stored"
    FLOAT = "float32 or integer, moved by kernels"
    HOST = "computed by onnxruntime"


@dataclass
class Chain:
    """Operators that one kernel does: ``nodes[0]`` computes, the others add a bias or clamp."""

    nodes: list[ir.Node]
    bias: ir.Value | None = None
    clamps: list[tuple[float, float]] = field(default_factory=list)

    def then(self, node: ir.Node, *, bias: ir.Value | None = None, clamp: tuple[float, float] | None = None) -> Chain:
        clamps = [*self.clamps, clamp] if clamp is not None else self.clamps
        return Chain([*self.nodes, node], self.bias if bias is None else bias, clamps)

    @property
    def op(self) -> str:
        return "+".join(node.op_type for node in self.nodes)


@dataclass
class Placement:
    """The answer.

    Attributes
    ----------
    role : of every value
    quant : of 8-bit values, and of the exact float values they stand for
    chain : of PRODUCT and PENDING values
    root : of TABLE values: the BYTES value that they are a function of
    reasons : why a node has no kernel
    native : values that kernels read as 8-bit
    plain : values that are read as ONNX has them: by host nodes, moves of floats, the caller
    hosts : nodes that the host computes
    """

    role: dict[ir.Value, Role] = field(default_factory=dict)
    quant: dict[ir.Value, Quant] = field(default_factory=dict)
    chain: dict[ir.Value, Chain] = field(default_factory=dict)
    root: dict[ir.Value, ir.Value] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    native: set[ir.Value] = field(default_factory=set)
    plain: set[ir.Value] = field(default_factory=set)
    hosts: set[ir.Node] = field(default_factory=set)

    def role_of(self, value: ir.Value) -> Role:
        return self.role.get(value, Role.HOST)

    def fuses(self, quantize: ir.Node) -> bool:
        """Whether the result of a QuantizeLinear's input is quantized where it is computed."""
        x = quantize.inputs[0]
        assert x is not None
        role = self.role_of(x)
        return role is Role.PENDING or (role is Role.PRODUCT and sole_consumer(x) is quantize)

    def operands(self, value: ir.Value) -> Iterator[ir.Value]:
        """The 8-bit operands of a chain."""
        yield from operands(self.chain[value].nodes[0])


def place_nodes(graph: ir.Graph) -> Placement:
    """Place a simplified graph with known shapes."""
    placement = Placement()
    for value in graph.inputs:
        placement.role[value] = Role.FLOAT
    for node in graph:
        _classify(placement, node)
    for value in graph.outputs:
        placement.plain.add(value)
    for node in reversed(list(graph)):
        _demand(placement, node)
    return placement


def _classify(p: Placement, node: ir.Node) -> None:
    """The walk forward."""
    reason = _native_role(p, node)
    if reason is not None:
        p.reasons[node] = reason
        for value in node.outputs:
            p.role[value] = Role.HOST


def _native_role(p: Placement, node: ir.Node) -> str | None:
    """Give the node's outputs a role, or say why a kernel cannot compute them."""
    op, result = node.op_type, node.outputs[0]
    if node.domain != "":
        return f"operators of domain {node.domain} have no kernel"
    if any(value is not None and is_constant(value) for value in node.outputs):
        return "it is constant"
    if op == "QuantizeLinear":
        return _quantize_role(p, node)
    if op == "DequantizeLinear":
        return _dequantize_role(p, node)
    if op not in KERNELS:
        return f"{op} has no kernel"
    source = next(operands(node), None)
    if source is None:
        return "it reads nothing"
    role = p.role_of(source)
    if role is Role.PRODUCT and sole_consumer(source) is node and _extend_product(p, node, source):
        return None
    if op in MOVES and role in (Role.PRODUCT, Role.FLOAT) and op in RESHAPES | {"Transpose"}:
        reason = REASONS[op](node)
        if reason is None:
            p.role[result] = Role.FLOAT
        return reason
    if role is Role.PENDING and (interval := limits(node)) is not None:
        p.role[result], p.chain[result] = Role.PENDING, p.chain[source].then(node, clamp=interval)
        return None
    if _is_table(p, node):
        return None
    inputs = list(operands(node))
    if any(p.role_of(value) is not Role.BYTES for value in inputs):
        return "its input is float: no QuantizeLinear and DequantizeLinear stand before it"
    return _bytes_role(p, node, inputs)


def _bytes_role(p: Placement, node: ir.Node, inputs: list[ir.Value]) -> str | None:
    """Operators whose inputs are all 8-bit."""
    op, result, quant = node.op_type, node.outputs[0], p.quant[inputs[0]]
    codes = any(is_code(value) for value in inputs)
    if codes and (op not in MOVES | {"MaxPool", "Concat"} or op == "Pad"):
        return "it computes on integers"
    if op in PRODUCTS and inputs != [node.inputs[0]]:
        return "a product of two activations has no kernel"
    if op in REASONS and (reason := REASONS[op](node)) is not None:
        return reason
    if op in PRODUCTS:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if (reason := accumulator_reason(node, quant, bias)) is not None:
            return reason
        p.role[result], p.chain[result] = Role.PRODUCT, Chain([node])
    elif op in ("MaxPool", "GlobalMaxPool") or (op in MOVES and _pads_exactly(node, quant)):
        for value in node.outputs:
            p.role[value], p.quant[value] = Role.BYTES, quant
    elif op in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
        p.role[result], p.chain[result] = Role.PENDING, Chain([node])
    elif op == "Add":
        return _add_role(p, node, inputs)
    elif op == "Concat":
        if len(inputs) != len(node.inputs):
            return "Concat with a constant has no kernel"
        if any(shape_of(value) is None or len(shape_of(value) or ()) > 4 for value in inputs):
            return "Concat of more than 4 dimensions has no kernel"
        if codes or all(p.quant[value] == quant for value in inputs):
            p.role[result], p.quant[result] = Role.BYTES, quant
        else:
            p.role[result], p.chain[result] = Role.PENDING, Chain([node])
    elif op in MOVES:
        return "its padding value is not a value of its 8-bit input"
    else:
        return f"{op} of these operands has no kernel"
    return None


def _add_role(p: Placement, node: ir.Node, inputs: list[ir.Value]) -> str | None:
    result = node.outputs[0]
    if any(shape_of(value) != shape_of(result) for value in inputs):
        return "Add of different shapes has no kernel"
    for value in node.inputs:
        assert value is not None
        if value in inputs:
            continue
        producer = value.producer()
        if producer is None or producer.op_type != "DequantizeLinear" or isinstance(quantization(producer), str):
            return "its constant operand is not quantized to 8 bits"
    p.role[result], p.chain[result] = Role.PENDING, Chain([node])
    return None


def _quantize_role(p: Placement, node: ir.Node) -> str | None:
    found = quantization(node)
    if isinstance(found, str):
        return found
    x = node.inputs[0]
    if x is None or shape_of(x) is None:
        return "its shape is not known"
    if x.dtype not in (None, ir.DataType.FLOAT):
        return "its input is not float32"
    p.role[node.outputs[0]], p.quant[node.outputs[0]] = Role.BYTES, found
    return None


def _dequantize_role(p: Placement, node: ir.Node) -> str | None:
    found, source = quantization(node), node.inputs[0]
    if isinstance(found, str):
        return found
    if source is None or shape_of(source) is None:
        return "its shape is not known"
    if node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return "its result is not float32"
    p.role[node.outputs[0]], p.quant[node.outputs[0]] = Role.BYTES, found
    return None


def _extend_product(p: Placement, node: ir.Node, source: ir.Value) -> bool:
    """A bias after MatMul, or a clamp, becomes part of the product."""
    chain, result = p.chain[source], node.outputs[0]
    if (interval := limits(node)) is not None:
        p.role[result], p.chain[result] = Role.PRODUCT, chain.then(node, clamp=interval)
        return True
    if node.op_type != "Add" or chain.nodes[0].op_type != "MatMul" or len(chain.nodes) > 1:
        return False
    addend = next((value for value in node.inputs if value is not source), None)
    bias, shape = float_constant(addend), shape_of(source)
    if bias is None or shape is None or bias.size not in (1, shape[-1]) or shape_of(result) != shape:
        return False
    data = chain.nodes[0].inputs[0]
    assert data is not None
    if (bias.ndim and bias.shape[-1] != bias.size) or accumulator_reason(chain.nodes[0], p.quant[data], addend):
        return False
    p.role[result], p.chain[result] = Role.PRODUCT, chain.then(node, bias=addend)
    return True


def _is_table(p: Placement, node: ir.Node) -> bool:
    """Element-wise functions whose operands all come from one 8-bit tensor."""
    found, result = elementwise_operands(node), node.outputs[0]
    if not found:
        return False
    roots = {p.root.get(value, value) for value in found}
    root = roots.pop()
    if (
        roots
        or p.role_of(root) is not Role.BYTES
        or is_code(root)
        or any(p.role_of(v) not in (Role.BYTES, Role.TABLE) for v in found)
    ):
        return False
    if node.op_type == "Relu" and found == [root]:
        p.role[result], p.quant[result] = Role.BYTES, p.quant[root]  # max(0, x) is a value that x could have
    else:
        p.role[result], p.root[result] = Role.TABLE, root
    return True


def _pads_exactly(node: ir.Node, quant: Quant) -> bool:
    if node.op_type != "Pad":
        return True
    filler = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    return filler is not None and float(quant.dequantize(quant.quantize(filler))) == filler


def _demand(p: Placement, node: ir.Node) -> None:
    """The walk back: what this node must read, given what is read of it."""
    for result in node.outputs:
        role = p.role_of(result)
        if result in p.plain and role is Role.BYTES:
            p.native.add(result)
        if result in p.native and role is Role.BYTES:
            _demand_bytes(p, node)
        elif result in p.native:
            p.plain.add(result)
        if result not in p.plain or role is Role.BYTES:
            continue
        if role is Role.PRODUCT:
            p.native.update(p.operands(result))
        elif role is Role.FLOAT:
            p.plain.update(operands(node))
        else:
            p.hosts.add(node)
            p.reasons.setdefault(node, "its result is float: no QuantizeLinear follows")
            p.plain.update(host_operands(node))


def _demand_bytes(p: Placement, node: ir.Node) -> None:
    if node.op_type != "QuantizeLinear":
        p.native.update(operands(node))
        return
    x = node.inputs[0]
    assert x is not None
    if p.role_of(x) is Role.BYTES:
        p.native.add(x)
    elif p.role_of(x) is Role.TABLE:
        p.native.add(p.root[x])
    elif p.fuses(node):
        p.native.update(p.operands(x))
    else:
        p.plain.add(x)


def host_operands(node: ir.Node) -> list[ir.Value]:
    """What a host node reads at run time, and what the bodies of If, Loop and Scan read from outside."""
    found = dict.fromkeys(operands(node))
    for inner in _bodies(node):
        for value in inner.inputs:
            if value is not None and value.graph is node.graph and not is_constant(value):
                found[value] = None
    return list(found)


def _bodies(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from ir.traversal.RecursiveGraphIterator(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from ir.traversal.RecursiveGraphIterator(graph)
