"""What has become of every node, why, what the alternatives would cost, and what the user can do about it."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.artifact.nodes import NodePlace
from edgekern.compiler.floats.table import FLOATS, float_reason
from edgekern.compiler.floats.wide import is_wide_product
from edgekern.compiler.operators.table import OPERATORS
from edgekern.compiler.roles import Placement, Role
from edgekern.graph.dynamic import is_dynamic, row_bits
from edgekern.graph.families import INTEGER, INTEGER_PRODUCTS, QDQ
from edgekern.graph.prices import CODE, REAL, Price, eight_bit_price, elements, float_price, host_price
from edgekern.graph.values import consumers, is_code, is_constant, label, operands, qualified
from edgekern.graph.wide import wide_quant

_UNQUANTIZED = "nothing of the model is quantized"
_READ_AS_FLOAT = "its result is float: no QuantizeLinear follows"
_ROWS = "the rows that it reads are quantized as they come"
_NO_CODES = "has no kernel on 8 bits"
_REAL = (Role.FLOAT, Role.HOST)
_STAYS = "take it out of the model, or let onnxruntime run it: docs/operators.md lists what stays there"
# What to do, by what stands in a reason; the first that fits.
_REMEDIES = (
    (_UNQUANTIZED, "collect ranges with edgekern.Calibrator, then edgekern.quantize"),
    ("no QuantizeLinear", "quantize its neighbors too: keep_float and overrides of QuantConfig say what stays float"),
    ("written in integers", "export in QDQ form, or give the float model to edgekern.quantize"),
    ("optimized for onnxruntime", "compile the model as it was exported"),
    ("depends on the data", "make axes and sizes constants"),
    ("not constant", "make it an initializer"),
    ("shape is not known", "fix the free dimensions: shapes="),
    ("domain", "export with operators of ONNX's own domain"),
    ("weights are not quantized", "quantize its weights to int8, per tensor or per output channel"),
    ("zero point of its weights", "quantize its weights symmetrically"),
    ("accumulator", "split the sum; in float32 it is exact enough"),
    ("padding value", "pad with a value of its scale, such as 0"),
    ("quantized to 8 bits", "quantize it with 8 bits"),
    ("not UINT8 or INT8", "quantize with 8 bits"),
    ("16-bit codes", "let the model take and give float32"),
    ("one positive float32", "quantize activations per tensor"),
)


def explain(graph: ir.Graph, placement: Placement) -> tuple[NodePlace, ...]:
    """Of the nodes that are left once constants are folded, in their order."""
    unquantized = not any(node.op_type in QDQ | INTEGER for node in graph)
    places = []
    for node in graph:
        if all(is_constant(value) for value in node.outputs):
            continue
        runs = _runs(placement, node)
        reason = _reason(placement, node, runs, unquantized=unquantized)
        remedy = next((what for word, what in _REMEDIES if word in reason), _STAYS if runs == "host" else "")
        places.append(NodePlace(label(node), qualified(node), runs, reason, remedy, _prices(placement, node, runs)))
    return tuple(places)


def _runs(p: Placement, node: ir.Node) -> str:
    if node in p.hosts:
        return "host"
    if wide_quant(node) is not None:
        dequantized = [node] if node.op_type == "DequantizeLinear" else consumers(node.outputs[0])
        readers = [reader for one in dequantized for reader in consumers(one.outputs[0])]
        return "fused" if readers and all(map(is_wide_product, readers)) else "16 bits"
    if node.op_type in QDQ:
        dequantizes = node.inputs[0] is not None and is_code(node.inputs[0])
        if node.outputs[0] not in p.plain if dequantizes else p.fuses(node):
            return "fused"
    if is_wide_product(node) or (is_dynamic(node) and row_bits(node) == 16):
        return "16 bits"
    if is_dynamic(node) or node.op_type in INTEGER_PRODUCTS:
        return "8 bits"
    roles = {p.role_of(value) for value in node.outputs}
    if roles & {Role.TABLE, Role.PENDING} and any(value in p.plain for value in node.outputs):
        return "float32"
    return "float32" if Role.FLOAT in roles else "8 bits"


def _reason(p: Placement, node: ir.Node, runs: str, *, unquantized: bool) -> str:
    if runs == "host":
        return p.reasons[node]
    if runs != "float32":
        return _ROWS if is_dynamic(node) else ""
    if unquantized:
        return _UNQUANTIZED
    return p.float_reasons.get(node) or (_READ_AS_FLOAT if node.op_type in OPERATORS else f"{node.op_type} {_NO_CODES}")


def _prices(p: Placement, node: ir.Node, runs: str) -> dict[str, Price]:
    """By where a node may run."""
    held = [value for value in operands(node) if p.role_of(value) is Role.BYTES]
    real = [value for value in operands(node) if p.role_of(value) in _REAL]
    followed = [value for value in node.outputs if _is_quantized_next(value)]
    prices = {}
    wanted = p.float_reasons.get(node, "")
    if node.op_type in OPERATORS and (not wanted or "no QuantizeLinear" in wanted):
        given = [v for v in node.outputs if v not in followed and (v in p.plain or p.role_of(v) in _REAL)]
        if any(p.role_of(value) is Role.PRODUCT for value in given):  # products give float32 themselves
            own = eight_bit_price(node)
            prices["8 bits"] = Price(own.macs, own.nbytes + (REAL - CODE) * elements(given))
        else:
            prices["8 bits"] = eight_bit_price(node) if node.op_type in QDQ else eight_bit_price(node, real, given)
    if node.op_type in INTEGER_PRODUCTS and runs == "8 bits":
        prices["8 bits"] = eight_bit_price(node)
    elif runs in ("16 bits", "float32") or (runs == "8 bits" and node.op_type in FLOATS and float_reason(node) is None):
        prices["float32"] = float_price(node, held, followed)
    prices["host"] = host_price(node, held, followed)
    return prices


def _is_quantized_next(value: ir.Value) -> bool:
    readers = consumers(value)
    return bool(readers) and all(node.op_type in QDQ for node in readers)
