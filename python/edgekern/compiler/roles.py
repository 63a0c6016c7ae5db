"""How each value is held, and who computes it: what placement finds out and lowering follows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import Quant, is_code, operands, sole_consumer


class Role(Enum):
    """How a value is held."""

    BYTES = "8-bit, exactly"
    TABLE = "a function of one 8-bit tensor; a QuantizeLinear makes it a table of 256 bytes"
    PRODUCT = "the result of Conv, Gemm or MatMul on int8, not yet stored"
    PENDING = "the result of a kernel on 8-bit operands whose QuantizeLinear, still to come, says how it is stored"
    FLOAT = "of ONNX's type, computed or moved by kernels"
    HOST = "computed by onnxruntime"


@dataclass
class Chain:
    """Operators that one kernel does: ``nodes[0]`` computes, the others add a bias or clamp.

    Attributes
    ----------
    clamps : intervals in the order in which they are applied; quantizing keeps order, so codes may be clamped instead
    """

    nodes: list[ir.Node]
    bias: ir.Value | None = None
    clamps: list[tuple[float, float]] = field(default_factory=list)

    def then(self, node: ir.Node, *, bias: ir.Value | None = None, clamp: tuple[float, float] | None = None) -> Chain:
        clamps = [*self.clamps, clamp] if clamp is not None else self.clamps
        return Chain([*self.nodes, node], self.bias if bias is None else bias, clamps)

    @property
    def op(self) -> str:
        return "+".join(node.op_type for node in self.nodes)

    def clamped(self, codes: npt.NDArray[np.int64], quant: Quant) -> npt.NDArray[np.int64]:
        """Codes of ``quant`` with the clamps applied."""
        for lo, hi in self.clamps:
            codes = codes.clip(quant.quantize(lo), quant.quantize(hi))
        return codes

    def limits(self, quant: Quant | None) -> dict[str, float]:
        """The clamps as a step's limits: around the zero point of an 8-bit result, or of a float one."""
        if quant is not None:
            first, last = self.clamped(np.array([quant.lo, quant.hi]), quant)
            return {"lo": float(first - quant.zero_point), "hi": float(last - quant.zero_point)}
        lo, hi = -math.inf, math.inf
        for low, high in self.clamps:
            lo, hi = min(max(lo, low), high), min(max(hi, low), high)
        return {"lo": lo, "hi": hi}


@dataclass
class Placement:
    """The answer of ``place_nodes``.

    Attributes
    ----------
    role : of every value
    quant : of 8-bit values, and of the exact float values they stand for
    chain : of PRODUCT and PENDING values
    root : of TABLE values: the BYTES value that they are a function of
    reasons : why a node has no kernel
    float_reasons : why a node has none on 8 bits
    native : values that kernels read as 8-bit
    plain : values that are read as ONNX has them: by host nodes, kernels on floats, the caller
    hosts : nodes that the host computes
    """

    role: dict[ir.Value, Role] = field(default_factory=dict)
    quant: dict[ir.Value, Quant] = field(default_factory=dict)
    chain: dict[ir.Value, Chain] = field(default_factory=dict)
    root: dict[ir.Value, ir.Value] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    float_reasons: dict[ir.Node, str] = field(default_factory=dict)
    native: set[ir.Value] = field(default_factory=set)
    plain: set[ir.Value] = field(default_factory=set)
    hosts: set[ir.Node] = field(default_factory=set)

    def role_of(self, value: ir.Value) -> Role:
        return self.role.get(value, Role.HOST)

    def keep(self, node: ir.Node, quant: Quant) -> None:
        """Its results are 8-bit, exactly."""
        for value in node.outputs:
            self.role[value], self.quant[value] = Role.BYTES, quant

    def begin(self, node: ir.Node, role: Role) -> None:
        """Its result begins a chain: PRODUCT or PENDING."""
        self.role[node.outputs[0]], self.chain[node.outputs[0]] = role, Chain([node])

    def extend(self, source: ir.Value, chain: Chain) -> None:
        """The last node of ``chain`` belongs to the kernel that computes ``source``."""
        result = chain.nodes[-1].outputs[0]
        self.role[result], self.chain[result] = self.role[source], chain

    def needs_bytes(
        self, node: ir.Node, values: Sequence[ir.Value] | None = None, *, codes: bool = False
    ) -> str | None:
        """Why its operands, or those given, are not 8-bit. ``codes``: whether they may be the integers themselves."""
        inputs = list(operands(node) if values is None else values)
        if any(self.role_of(value) is not Role.BYTES for value in inputs):
            return "its input is float: no QuantizeLinear and DequantizeLinear stand before it"
        return "it computes on integers" if not codes and any(is_code(value) for value in inputs) else None

    def fuses(self, quantize: ir.Node) -> bool:
        """Whether the result of a QuantizeLinear's input is quantized where it is computed."""
        x = quantize.inputs[0]
        assert x is not None
        role = self.role_of(x)
        return role in (Role.TABLE, Role.PENDING) or (role is Role.PRODUCT and sole_consumer(x) is quantize)

    def operands(self, value: ir.Value) -> Iterator[ir.Value]:
        """The 8-bit operands of a chain or table."""
        yield from [self.root[value]] if value in self.root else operands(self.chain[value].nodes[0])
