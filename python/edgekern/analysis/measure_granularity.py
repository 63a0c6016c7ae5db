"""What a scale for a tensor, a channel or a group of weights loses, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._reports import Chart, Report, table
from edgekern.analysis.figures import SENSITIVE_DB, WATCH_DB, decibels
from edgekern.analysis.rules import chosen
from edgekern.errors import ArgumentValueError, QuantizationError
from edgekern.graph.dynamic import weight_inputs
from edgekern.graph.families import PRODUCTS, RECURRENT
from edgekern.graph.fold_constants import folded
from edgekern.graph.infer_types import with_types, without_false_shapes
from edgekern.graph.model import open_model
from edgekern.graph.values import float_constant, is_float_constant, label
from edgekern.quantization.choose_encodings import layout_of
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.prepare import prepare
from edgekern.quantization.weights import BLOCK, WeightLayout, channel_scales

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Matrix = npt.NDArray[np.floating]

_SHOWN = 20


@dataclass(frozen=True)
class GranularityRow:
    """What rounding the weights of one layer to 8 bits loses, by how many share a scale.

    Attributes
    ----------
    name, op : the node's
    shape : of the weights, with what was folded into them
    mse_tensor, mse_channel, mse_group128, mse_group32 : mean square error with one scale, one for each output channel,
        and one for each 128 or 32 weights of a channel
    tensor_db, channel_db, group128_db, group32_db : the same as signal to noise, in dB
    """

    name: str
    op: str
    shape: tuple[int, ...]
    mse_tensor: float
    mse_channel: float
    mse_group128: float
    mse_group32: float
    tensor_db: float
    channel_db: float
    group128_db: float
    group32_db: float


@dataclass(frozen=True, repr=False)
class Granularity(Report):
    """Rows of :func:`granularity`, worst per channel first; ``str()`` is the table of the first 20.

    Attributes
    ----------
    rows : tuple of GranularityRow
    whole : the same of all weights together
    """

    rows: tuple[GranularityRow, ...]
    whole: GranularityRow

    def table(self, count: int | None = None) -> str:
        """The first rows, or all, and the sum."""
        columns = {"layer": "<", "operator": "<", "weights": "<", "tensor MSE": ".3g", "channel": ".3g"}
        columns |= {"128": ".3g", "32": ".3g", "tensor dB": ".2f", "channel ": ".2f", "128 ": ".2f", "32 ": ".2f"}
        return table(columns, [_cells(row) for row in (*self.rows[:count], self.whole)])

    def __str__(self) -> str:
        left = len(self.rows) - _SHOWN
        more = f"\n... and {left} layers that lose less; table() has all" if left > 0 else ""
        return (
            f"{self.table(_SHOWN)}{more}\nint8 weights at max|w| / 127: a scale a tensor, a channel, 128 or 32 weights"
        )

    def __repr__(self) -> str:
        whole = self.whole
        return (
            f"Granularity({len(self.rows)} layers, tensor {whole.tensor_db:.2f} dB, channel {whole.channel_db:.2f} dB)"
        )

    def _chart(self) -> Chart:
        bars = [(row.name, row.channel_db) for row in self.rows]
        limits = {"watch": WATCH_DB, "sensitive": SENSITIVE_DB}
        return Chart("Weights with a scale a channel", "SQNR, dB", bars, limits)


def granularity(float_model: ModelLike, layers: Sequence[str] | None = None) -> Granularity:
    """Round the weights of every product to 8 bits with a scale a tensor, a channel, and a group of 128 and 32.

    ``quantize`` writes a scale a channel: where a scale a tensor loses much more, a compiler that has no other will.
    Each weight goes to its nearest integer.

    Parameters
    ----------
    float_model : path, bytes or onnx.ModelProto
    layers : rules, optional
        Types of operators or patterns of node names, as for :class:`edgekern.QuantConfig`: only the layers named.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type, a rule names no layer, or the model has no weights.
    QuantizationError
        When weights are NaN or infinite.
    """
    opened = open_model(float_model, function="granularity")
    model = folded(with_types(without_false_shapes(opened)), function="granularity").to_ir()
    prepare(model)
    nodes = [node for node in model.graph if node.domain == "" and node.op_type in PRODUCTS | RECURRENT]
    weighted = [node for node in nodes if all(is_float_constant(node.inputs[at]) for at in weight_inputs(node))]
    if not weighted:
        raise ArgumentValueError(
            "granularity: float_model must have a product by constant float32 weights, and has none; give the model "
            "before it was quantized"
        )
    rows, whole = [], _Total()
    for node in chosen("granularity", weighted, layers, lambda node: (label(node), node.op_type)):
        total = _Total()
        shapes = [total.add(node, node.inputs[at]) for at in weight_inputs(node)]
        whole.merge(total)
        rows.append(total.row(label(node), node.op_type, shapes[0]))
    rows.sort(key=lambda row: row.channel_db)
    return Granularity(tuple(rows), whole.row("all weights", "", (whole.count,)))


class _Total:
    """Squared errors of one tensor's weights, or of several."""

    _GROUPS: ClassVar[tuple[int | None, ...]] = (None, 128, 32)

    def __init__(self) -> None:
        self.count, self.signal, self.noise = 0, 0.0, [0.0] * (1 + len(self._GROUPS))

    def add(self, node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
        weights = float_constant(value)
        assert weights is not None
        if not np.isfinite(weights).all():
            name = "" if value is None else value.name
            raise QuantizationError(f"granularity: {node.op_type} {label(node)!r}: {name!r} holds NaN or Inf")
        layout = layout_of(node, max(weights.ndim, 2)) if node.op_type in PRODUCTS else WeightLayout(0, 1)
        by_channel = layout.by_channel(
            weights.reshape(-1, weights.shape[-1]) if node.op_type in RECURRENT else _matrix(weights)
        )
        rows = by_channel.reshape(len(by_channel), -1)
        self.count += weights.size
        self.signal += float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
        self.noise[0] += _noise(rows, channel_scales(rows.reshape(1, -1), 0)[[0] * len(rows)])
        for at, size in enumerate(self._GROUPS, 1):
            shared = rows if size is None else _in_groups(rows, size)
            self.noise[at] += _noise(shared, channel_scales(shared, 0))
        return tuple(weights.shape)

    def merge(self, other: _Total) -> None:
        self.count += other.count
        self.signal += other.signal
        self.noise = [a + b for a, b in zip(self.noise, other.noise, strict=True)]

    def row(self, name: str, op: str, shape: tuple[int, ...]) -> GranularityRow:
        mse = [noise / max(self.count, 1) for noise in self.noise]
        return GranularityRow(name, op, shape, *mse, *(decibels(self.signal, noise) for noise in self.noise))


def _matrix(weights: Matrix) -> Matrix:
    return weights[:, None] if weights.ndim == 1 else weights


def _in_groups(rows: Matrix, size: int) -> Matrix:
    """Pieces of rows, the last of each filled up with zeros, which are exact."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
    return padded.reshape(-1, size)


def _noise(rows: Matrix, scale: npt.NDArray[np.float32]) -> float:
    """What rounding to int8 adds, a scale a row, some rows at a time."""
    total, step = 0.0, max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        some, of = rows[start : start + step].astype(np.float64), scale[start : start + step]
        error = Encoding(of, signed=True, axis=0).quantize(some) * of[:, None].astype(np.float64) - some
        total += float(np.einsum("ij,ij->", error, error))
    return total


def _cells(row: GranularityRow) -> tuple[object, ...]:
    mse = (row.mse_tensor, row.mse_channel, row.mse_group128, row.mse_group32)
    db = (row.tensor_db, row.channel_db, row.group128_db, row.group32_db)
    return (row.name, row.op, "x".join(map(str, row.shape)), *mse, *db)
