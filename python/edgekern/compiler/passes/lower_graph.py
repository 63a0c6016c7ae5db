"""From placed ONNX nodes to kernel steps and host nodes."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import DType
from edgekern.compiler.floats.table import FLOATS
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.table import OPERATORS
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import Tensor
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import is_code


def lower_graph(graph: ir.Graph, placement: Placement, model: Skeleton) -> tuple[Lowering, list[Tensor]]:
    """Walk the nodes in order; what has been made, and the tensors of the graph's outputs, as ONNX has them."""
    lowering = Lowering(graph, placement, model, {name: operator.lower for name, operator in OPERATORS.items()})
    for node in graph:
        if node in placement.hosts:
            lowering.add_host(node)
        for value in node.outputs:
            _lower(lowering, node, value)
    return lowering, [lowering.plain(value) for value in graph.outputs]


def _lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> None:
    p, role = lowering.placement, lowering.placement.role_of(value)
    if value in p.native and role is Role.BYTES:
        tensor = lowering.compute(value, p.quant[value])
        lowering.keep_stored(value, tensor)
        if str(value.name) not in tensor.names and not is_code(value):
            tensor.names.append(str(value.name))
    elif value in p.plain and role is Role.PRODUCT:
        lowering.keep_real(value, lowering.compute(value, None))
    elif value in p.plain and role is not Role.HOST and node not in p.hosts:
        tensor = FLOATS[node.op_type].lower(lowering, node, value)
        lowering.keep_real(value, tensor)
        if tensor.order == () and tensor.dtype == DType.F32 and tensor.view_of is None:
            tensor.names.append(str(value.name))
