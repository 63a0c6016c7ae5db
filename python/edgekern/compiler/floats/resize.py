"""Resize: nearest ones pick, the others weigh neighbors along one axis after the other.

onnxruntime says with which weights: it resizes the unit vectors of an axis when the model is compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx import helper

from edgekern._core import StepKind
from edgekern.compiler.floats.moves import pick
from edgekern.compiler.floats.operator import CODES, FLOAT, FloatOperator, new_tensor
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.evaluate import evaluate, to_proto
from edgekern.graph.values import (
    constant,
    float_attribute,
    ints_attribute,
    known_shape,
    label,
    operands,
    text_attribute,
)

Array = npt.NDArray[Any]
_BAND = 1 << 22  # elements of the unit vectors that are resized at once


def reason(node: ir.Node) -> str | None:
    data = node.inputs[0]
    picks = text_attribute(node, "mode", "nearest") == "nearest"
    crops = text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if data is None or data.dtype not in (FLOAT | CODES if picks and not crops else FLOAT):
        return "it reads a type for which Resize has no kernel"
    if any(constant(value) is None for value in node.inputs[1:] if value is not None):
        return "its shape depends on the data"
    if 0 in (*known_shape(data), *known_shape(node.outputs[0])):
        return "a Resize of nothing has no kernel"
    return None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    source = next(operands(node))
    x, before, after = lowering.real(source), known_shape(source), known_shape(value)
    filler = float_attribute(node, "extrapolation_value", 0.0)
    if text_attribute(node, "mode", "nearest") == "nearest":
        return pick(lowering, x, value, nearest_tables(lowering, node), label(node), "Resize", filler)
    axes = _axes(lowering, node)
    outside = [axis.outside() for axis in axes]
    order = x.order or tuple(range(len(before)))
    moving = [place for place, axis in enumerate(axes) if axis.moves]
    for place in sorted(moving, key=lambda place: after[place] / before[place]):
        x = _resample(lowering, node, value, x, order.index(place), axes[place])
    if not any(beyond.any() for beyond in outside):
        return x if moving else view(x)
    tables = [np.where(beyond, -1, np.arange(len(beyond))) for beyond in outside]
    return pick(lowering, x, value, tables, label(node), "Resize", filler)


def nearest_tables(lowering: Lowering, node: ir.Node) -> list[Array]:
    """Which element each one of the result is, along every axis; -1 beyond what is cropped."""
    axes = _axes(lowering, node)
    tables = [axis.weights().argmax(axis=0) if axis.moves else np.arange(axis.n) for axis in axes]
    return [np.where(axis.outside(), -1, table) for axis, table in zip(axes, tables, strict=True)]


def _axes(lowering: Lowering, node: ir.Node) -> list[_Axis]:
    before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    return [_Axis.of(lowering, node, axis, n, m) for axis, (n, m) in enumerate(zip(before, after, strict=True))]


@dataclass(frozen=True)
class _Axis:
    """What a Resize makes of one axis.

    Attributes
    ----------
    n, m : its sides before and after
    scale : where scales are given
    crop : the part of it that is resized, from and to, where a Resize crops
    limit : the sides, before and asked for, of the axis that says how large an image may get that keeps its aspect
    asked : the side that was asked for, where another may be the limit
    """

    lowering: Lowering
    node: ir.Node
    n: int
    m: int
    scale: float | None = None
    crop: tuple[float, float] | None = None
    limit: tuple[int, int] | None = None
    asked: int = 0

    @staticmethod
    def of(lowering: Lowering, node: ir.Node, axis: int, n: int, m: int) -> _Axis:
        shape = known_shape(node.inputs[0])
        axes = [axis % len(shape) for axis in ints_attribute(node, "axes", list(range(len(shape))))]
        if axis not in axes:
            return _Axis(lowering, node, n, m)
        at = axes.index(axis)
        roi, scales, sizes = (None if array is None else array.reshape(-1) for array in _given(node))
        crops = text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        crop = (float(roi[at]), float(roi[at + len(axes)])) if crops and roi is not None else None
        if scales is not None:
            return _Axis(lowering, node, n, m, float(scales[at]), crop)
        policy = text_attribute(node, "keep_aspect_ratio_policy", "stretch")
        if policy == "stretch" or sizes is None:
            return _Axis(lowering, node, n, m, None, crop)
        ratios = [int(size) / shape[axis] for size, axis in zip(sizes, axes, strict=True)]
        first = ratios.index(min(ratios) if policy == "not_larger" else max(ratios))
        common = math.gcd(shape[axes[first]], int(sizes[first]))
        limit = shape[axes[first]] // common, int(sizes[first]) // common
        return _Axis(lowering, node, n, m, None, crop, limit, int(sizes[at]))

    @property
    def moves(self) -> bool:
        return self.n != self.m or self.scale not in (None, 1.0) or self.crop not in (None, (0.0, 1.0))

    def weights(self) -> Array:
        """(n, m): what each element of it is worth for each of the result."""
        bands = []
        for first in range(0, self.n, rows := max(1, _BAND // (self.n * (self.limit or (1,))[0]))):
            bands.append(self._resized(np.eye(min(rows, self.n - first), self.n, first, dtype=np.float32), 0.0))
        return np.concatenate(bands)

    def outside(self) -> npt.NDArray[np.bool_]:
        """(m): which elements of the result lie beyond what is cropped."""
        if self.crop is None:
            return np.zeros(self.m, np.bool_)
        return np.asarray(self._resized(np.zeros((1, self.n), np.float32), 1.0)[0] != 0)

    def _resized(self, rows: Array, extrapolation: float) -> Array:
        """Rows of n elements, as the node resizes them."""
        own = {"axes", "extrapolation_value", *(["keep_aspect_ratio_policy"] if self.limit is None else [])}
        single = helper.make_node("Resize", ["x", "roi", "scales" if self.scale else "", "sizes"], ["y"])
        single.attribute.extend(ir.to_proto(x) for name, x in self.node.attributes.items() if name not in own)
        single.attribute.append(helper.make_attribute("extrapolation_value", extrapolation))
        single.input[3 if self.scale else 2] = ""
        high, tall = self.limit or (1, 1)
        x = np.repeat(rows[np.newaxis, :, np.newaxis], high, axis=2)
        sizes = np.array([1, len(rows), tall, self.asked or self.m], np.int64)
        if self.limit is not None:
            single.attribute.append(helper.make_attribute("axes", [2, 3]))
            sizes = sizes[2:]
        lo, hi = self.crop or (0.0, 1.0)
        arrays: dict[str, Array] = {"roi": np.array([0, 0, 0, lo, 1, 1, 1, hi], np.float32)}
        arrays |= {"scales": np.array([1, 1, 1, self.scale], np.float32)} if self.scale else {"sizes": sizes}
        constants = {name: to_proto(array, name) for name, array in arrays.items()}
        if self.limit is not None:
            constants["roi"] = to_proto(np.array([0, lo, 1, hi], np.float32), "roi")
        [y] = evaluate(self.lowering.model, [single], constants, ["y"], {"x": x})
        return np.asarray(y[0, :, 0])


def _given(node: ir.Node) -> list[Array | None]:
    """The arrays of its region, scales and sizes; None for one that is missing or empty."""
    arrays = [constant(value) for value in node.inputs[1:]]
    return [None if array is None or array.size == 0 else array for array in (*arrays, None, None, None)][:3]


def _resample(lowering: Lowering, node: ir.Node, value: ir.Value, x: Tensor, place: int, axis: _Axis) -> Tensor:
    weights, m = axis.weights().T, axis.m  # (m, n)
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
