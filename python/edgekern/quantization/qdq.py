"""Float ONNX and ranges in, QDQ ONNX out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.calibration import Ranges, model_hash
from edgekern.errors import ArgumentTypeError, EdgekernWarning, QuantizationError
from edgekern.graph.families import QDQ
from edgekern.graph.model import open_model
from edgekern.graph.values import attribute
from edgekern.quantization.config import QuantConfig
from edgekern.quantization.emit import Emitter
from edgekern.quantization.placement import Placement, place
from edgekern.quantization.prepare import prepare

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike
    from edgekern.graph.skeleton import Skeleton

METADATA_KEY = "edgekern.quantization"


def quantize(model: ModelLike, ranges: Ranges, config: QuantConfig | None = None) -> onnx.ModelProto:
    """Write a float model as a standard QDQ model: int8 weights and activations, int32 biases.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32, opset 7..23 (below 13 it is upgraded first). It is not changed.
    ranges : Ranges
        Of this very model, from :meth:`edgekern.Calibrator.compute_ranges`.
    config : QuantConfig, optional

    Returns
    -------
    onnx.ModelProto
        With the names of the float model for its inputs, outputs and activations. BatchNormalization is folded. What
        was done stands as JSON in its metadata, under ``edgekern.quantization``.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type, the model is not ONNX, or its opset is outside 7..23.
    QuantizationError
        When the ranges are of another model or lack a tensor, or a weight is NaN or infinite.

    Warns
    -----
    EdgekernWarning
        When channels got a wider weight scale, so that no int32 accumulator can pass ``2**31``, and for each Conv, Gemm
        or MatMul that stays float32, because its weights are computed.

    Notes
    -----
    The scheme, the choice of defaults and their accuracy: docs/quantization.md.
    """
    if not isinstance(ranges, Ranges):
        raise ArgumentTypeError(
            f"quantize: ranges must be Ranges, got {type(ranges).__name__}; Calibrator.compute_ranges gives them"
        )
    if config is not None and not isinstance(config, QuantConfig):
        raise ArgumentTypeError(f"quantize: config must be a QuantConfig, got {type(config).__name__}")
    config = config or QuantConfig()
    opened = open_model(model, function="quantize")
    _require_same_model(opened, ranges)

    graph_model = opened.to_ir()
    prepare(graph_model)
    placement = place(graph_model.graph)
    _require_something_to_do(opened.proto, placement)
    means = _channel_means(placement, ranges) if config.bias_correction else {}
    emitter = Emitter(graph_model.graph, placement, _range_of(ranges), config, means)
    emitter.run()
    passes.RemoveUnusedNodesPass()(graph_model)  # the float weights
    passes.NameFixPass()(graph_model)  # a tensor of the model may have had a name such as x_quantized
    graph_model.metadata_props[METADATA_KEY] = json.dumps(
        {
            "config": asdict(config),
            "ranges": {"method": ranges.method, **ranges.options},
            "widened": emitter.widened,
        },
        sort_keys=True,
    )
    for node in placement.left_float:
        _warn(f"{node.op_type} {node.outputs[0].name!r} stays float32: its weights or bias are not float32 constants")
    if emitter.widened:
        _warn(_describe_widened(emitter.widened))
    return ir.serde.serialize_model(graph_model)


def _require_same_model(model: Skeleton, ranges: Ranges) -> None:
    found = model_hash(model)
    if ranges.model_hash != found:
        raise QuantizationError(
            f"quantize: ranges are of another model (hash {ranges.model_hash[:12]}..., "
            f"this model has {found[:12]}...); calibrate this model"
        )


def _require_something_to_do(proto: onnx.ModelProto, placement: Placement) -> None:
    if any(node.op_type in QDQ for node in proto.graph.node):
        raise QuantizationError(
            "quantize: model holds QuantizeLinear or DequantizeLinear already; give the float model"
        )
    if not placement.source:
        raise QuantizationError(
            "quantize: model has no operator to quantize; it needs a float32 Conv, Gemm, MatMul, Add or pooling, "
            "with constant weights"
        )


def _range_of(ranges: Ranges) -> Callable[[str], tuple[float, float]]:
    def look_up(name: str) -> tuple[float, float]:
        if name not in ranges:
            raise QuantizationError(
                f"quantize: ranges lack tensor {name!r}, which becomes 8-bit; observe it when calibrating, "
                "with data that reaches it"
            )
        return ranges[name].lo, ranges[name].hi

    return look_up


def _channel_means(placement: Placement, ranges: Ranges) -> dict[str, npt.NDArray[np.float64]]:
    """Mean of each channel of the inputs of operators with a bias, where calibration kept them."""
    means: dict[str, npt.NDArray[np.float64]] = {}
    for node in placement.weighted:
        name = "" if node.inputs[0] is None else str(node.inputs[0].name)
        has_bias = node.op_type == "Conv" or (node.op_type == "Gemm" and not attribute(node, "transA", 0))
        found = ranges[name].channel_means if has_bias and name in ranges else None
        if found is not None:
            means[name] = np.array(found, np.float64)
    return means


def _describe_widened(widened: dict[str, list[int]]) -> str:
    channels = sum(len(indices) for indices in widened.values())
    operators = ", ".join(f"{name!r} ({len(indices)})" for name, indices in widened.items())
    return (
        f"{channels} channels got a wider weight scale, so that no accumulator can pass 2**31: {operators}; "
        "their weights are tiny beside their bias, or sum over too many inputs"
    )


def _warn(message: str) -> None:
    warnings.warn(f"quantize: {message}", EdgekernWarning, stacklevel=3)
