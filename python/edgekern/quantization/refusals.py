"""Models that quantization does not take, and what to give instead."""

from __future__ import annotations

import onnx_ir as ir

from edgekern.calibration import Ranges
from edgekern.errors import QuantizationError
from edgekern.graph.families import OPTIMIZED, QDQ, hides_products, is_integer
from edgekern.graph.skeleton import Skeleton
from edgekern.quantization.describe import listed

_QUANTIZED = (
    "model is quantized already, by QuantizeLinear and DequantizeLinear; edgekern.compile takes it as it is, or give "
    "the float model"
)


def require_same_model(opened: Skeleton, found: str, ranges: Ranges | None, function: str) -> None:
    """Raise where ranges are of another model."""
    if ranges is not None and ranges.model_hash != found:
        if any(node.op_type == "QuantizeLinear" for node in opened.proto.graph.node):
            raise QuantizationError(f"{function}: {_QUANTIZED}")
        raise QuantizationError(
            f"{function}: ranges are of another model (hash {ranges.model_hash[:12]}..., "
            f"this model has {found[:12]}...); calibrate this model"
        )


def require_as_exported(graph: ir.Graph, function: str) -> None:
    """Raise where a graph has not the operators that it was made of."""
    optimized = [node for node in graph if hides_products(node)]
    if optimized:
        raise QuantizationError(
            f"{function}: {OPTIMIZED}, and {listed(optimized)} hide what there is to quantize; give the model as it "
            "was exported, or let onnxruntime write it with ORT_ENABLE_BASIC"
        )


def require_something_to_do(graph: ir.Graph, found: bool, function: str) -> None:
    """Raise where there is nothing to quantize, or it is done; ``found``: whether there is something."""
    if any(node.op_type in QDQ for node in graph):
        raise QuantizationError(f"{function}: {_QUANTIZED}")
    if found:
        return
    integer = sorted({node.op_type for node in graph if is_integer(node)})
    if integer:
        raise QuantizationError(
            f"{function}: model is quantized already, as {', '.join(integer)}; give the float model"
        )
    raise QuantizationError(
        f"{function}: model has no operator to quantize; it needs a float32 Conv, Gemm, MatMul, Add or pooling, "
        "with constant weights"
    )
