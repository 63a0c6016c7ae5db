"""Resize: nearest ones pick, the others weigh neighbors along one axis after the other.

onnxruntime says with which weights: it resizes the unit vectors of an axis when the model is compiled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx import helper

from edgekern._core import StepKind
from edgekern.compiler.floats.moves import pick
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, new_tensor
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.evaluate import evaluate, to_proto
from edgekern.graph.values import constant, ints_attribute, known_shape, label, operands, text_attribute

Array = npt.NDArray[Any]
_BAND = 1 << 22  # elements of the unit vectors that are resized at once


def reason(node: ir.Node) -> str | None:
    data = node.inputs[0]
    if data is None or data.dtype not in FLOAT:
        return "it reads a type for which Resize has no kernel"
    if any(constant(value) is None for value in node.inputs[1:] if value is not None):
        return "its shape depends on the data"
    if text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "a Resize that crops has no kernel"
    if text_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return "a Resize that keeps the aspect ratio has no kernel"
    if 0 in (*known_shape(data), *known_shape(node.outputs[0])):
        return "a Resize of nothing has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = next(operands(node))
    x, before, after = lowering.real(source), known_shape(source), known_shape(value)
    scales = _scales(node, len(before))
    moving = [axis for axis in range(len(before)) if before[axis] != after[axis] or scales.get(axis, 1.0) != 1.0]
    if text_attribute(node, "mode", "nearest") == "nearest":
        tables = [
            _weights(lowering, node, before[axis], after[axis], scales.get(axis)).argmax(axis=0)
            if axis in moving
            else np.arange(before[axis])
            for axis in range(len(before))
        ]
        return pick(lowering, x, value, tables, label(node), "Resize")
    order = x.order or tuple(range(len(before)))
    for axis in sorted(moving, key=lambda axis: after[axis] / before[axis]):
        x = _resample(lowering, node, value, x, order.index(axis), after[axis], scales.get(axis))
    return x if moving else view(x)


def _scales(node: ir.Node, rank: int) -> dict[int, float]:
    """The scale of each axis, where scales are given and not sizes."""
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if given is None or given.size == 0:
        return {}
    axes = ints_attribute(node, "axes", list(range(rank)))
    return {axis % rank: float(scale) for axis, scale in zip(axes, given.reshape(-1), strict=True)}


def _weights(lowering: Lowering, node: ir.Node, n: int, m: int, scale: float | None) -> Array:
    """(n, m): what each element of an axis is worth for each of the result."""
    attributes = [attribute for name, attribute in node.attributes.items() if name != "axes"]
    single = helper.make_node("Resize", ["x", "", "scales", ""] if scale else ["x", "", "", "sizes"], ["y"])
    single.attribute.extend(ir.to_proto(attribute) for attribute in attributes)
    bands = []
    for first in range(0, n, rows := max(1, _BAND // n)):
        count = min(rows, n - first)
        eye = np.eye(count, n, first, dtype=np.float32)[np.newaxis, np.newaxis]
        if scale:
            constants = {"scales": to_proto(np.array([1, 1, 1, scale], np.float32), "scales")}
        else:
            constants = {"sizes": to_proto(np.array([1, 1, count, m], np.int64), "sizes")}
        [band] = evaluate(lowering.model, [single], constants, ["y"], {"x": eye})
        bands.append(band[0, 0])
    return np.concatenate(bands)


def _resample(
    lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor, place: int, m: int, scale: float | None
) -> Tensor:
    weights = _weights(lowering, node, x.shape[place], m, scale).T  # (m, n)
    taps = max(1, int((weights != 0).sum(axis=1).max()))
    at = np.argsort(weights == 0, axis=1, kind="stable")[:, :taps]  # those that count, ascending
    kept = np.take_along_axis(weights, at, axis=1)
    at = np.where(kept != 0, at, at[:, :1])  # what does not count is read nowhere else
    shape = (*x.shape[:place], m, *x.shape[place + 1 :])
    y = new_tensor(value, shape, x.order)
    arguments = {
        "outer": math.prod(x.shape[:place]),
        "n": x.shape[place],
        "m": m,
        "inner": math.prod(x.shape[place + 1 :]),
        "taps": taps,
    }
    blobs = [np.ascontiguousarray(at, np.int32).tobytes(), np.ascontiguousarray(kept, np.float32).tobytes()]
    return lowering.emit(KernelStep(StepKind.RESAMPLE, label(node), "Resize", [x], y, blobs, arguments))


OPERATOR = FloatOperator(frozenset({"Resize"}), reason, lower)
