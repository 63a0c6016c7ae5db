"""Cross-layer equalization: channels of two layers are made alike (Nagel et al., arXiv 1906.04721, section 4.1).

One scale for all weights of a layer rounds the channels with small weights to nothing. A channel can be divided by a
factor where it is made and multiplied by it where it is read: ``s = sqrt(r1 * r2) / r2`` leaves it the same largest
weight in both layers. Layers share tensors with others, so this goes around until nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgekern.errors import QuantizationError
from edgekern.graph.channel_bounds import bound_channels
from edgekern.graph.streams import Stream, find_streams, settled
from edgekern.graph.values import float_constant, label
from edgekern.quantization.choose_encodings import layout_of
from edgekern.quantization.methods.float_model import (
    Samples,
    Seen,
    float32_of,
    opened_float,
    replace_constant,
    see,
    written_float,
)
from edgekern.quantization.prepare import prepare

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Vector = npt.NDArray[np.float64]

MOST_ROUNDS, STILL = 100, 1e-3  # once around all streams; the logarithm of what a factor may still move by
# How much of a channel's range where it is made is what it holds, and not its weights: chosen by measurement.
AMPLITUDE = 0.1
# A bias counts as weights of a thousandth of it, or under weights near 0, as dead channels have, it grows without end.
BIAS = 2.0**-10


def equalize(model: ModelLike, samples: Samples | None = None) -> onnx.ModelProto:
    """Make channels of neighbouring layers alike, so that one scale holds all weights of a layer (equalization).

    Of Conv, ConvTranspose, Gemm and MatMul with constant weights, where nothing stands between two but what a positive
    factor for each channel goes through: Relu, LeakyRelu, PRelu, Clip, pooling, Pad, Resize, Flatten, sums of such
    tensors. BatchNormalization is folded first. Tensors that others read, too, or that are outputs, stay as they are.

    The function stays the same, but for the rounding of float32. A Clip with a limit that is neither 0 nor infinite
    (ReLU6) becomes a Relu and a Min with a limit for each channel; replacing it by a Relu, as the paper does, would
    change the function.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32. It is not changed.
    samples : Calibrator or iterable of feeds, optional
        The samples that a calibrator of this model kept, or mappings from input names to arrays. They show what each
        channel holds: no tensor then gets larger values than it had, and channels that hold much are not made so small
        that 8 bits of the tensor lose them. Without samples, weights and biases alone decide.

    Returns
    -------
    onnx.ModelProto
        A float model with the same names of inputs, outputs and activations. Calibrate it anew: its ranges are others.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When the model is not ONNX, or samples are neither a Calibrator nor feeds of this model.
    CalibrationError
        When there are no samples, or onnxruntime cannot run the model on them.
    QuantizationError
        When the model is quantized already, or a weight is NaN or infinite.

    Examples
    --------
    >>> equal = ek.equalize("model.onnx", samples)                  # doctest: +SKIP
    >>> calibrator = ek.Calibrator(equal).collect_many(samples)     # doctest: +SKIP
    >>> config = ek.QuantConfig(granularity="tensor")               # doctest: +SKIP
    >>> qdq = ek.quantize(equal, calibrator.compute_ranges(), config)  # doctest: +SKIP
    """
    opened = opened_float(model, function="equalize")
    prepare(opened)
    streams = find_streams(opened.graph)
    layers = {node: _Layer(node) for stream in streams for node in (*stream.makers, *stream.readers)}
    shared = [_Shared(stream, layers) for stream in streams if _fit(stream, layers)]
    if samples is not None:
        names = [str(value.name) for part in shared for value in settled(part.stream)]
        seen = see(opened, names, samples, function="equalize", axis=1)
        for part in shared:
            part.look(seen)
    for _ in range(MOST_ROUNDS):
        if max((part.balance() for part in shared), default=0.0) < STILL:
            break
    for layer in layers.values():
        layer.write()
    for part in shared:
        for node in part.stream.clamps:
            bound_channels(node, part.factors)
    return written_float(opened)


def _fit(stream: Stream, layers: dict[ir.Node, _Layer]) -> bool:
    """Whether all layers of a stream count the same channels; a Gemm behind a Flatten reads each several times."""
    channels = layers[stream.makers[0]].made.size
    same = all(layers[node].made.size == channels for node in stream.makers)
    return same and channels > 0 and all(layers[node].read.size % channels == 0 for node in stream.readers)


class _Layer:
    """A layer, by the largest weight between each input and each output channel, and the factors that it has got."""

    def __init__(self, node: ir.Node) -> None:
        weights = float_constant(node.inputs[1])
        assert weights is not None
        if not np.isfinite(weights).all():
            raise QuantizationError(f"equalize: {node.op_type} {label(node)!r}: its weights hold NaN or Inf")
        self._node, self._layout = node, layout_of(node, weights.ndim)
        by_channel = self._layout.by_channel(weights)
        outputs, inputs, groups = by_channel.shape[0], by_channel.shape[1], self._layout.groups
        self._largest = np.abs(by_channel).max(axis=2, initial=0).astype(np.float64).reshape(groups, -1, inputs)
        bias = float32_of(node.inputs[2]) if len(node.inputs) > 2 else None
        self._bias = np.zeros(outputs) if bias is None else bias
        self._into, self._out = np.ones(groups * inputs), np.ones(outputs)

    @property
    def made(self) -> Vector:
        """The range of each output channel's weights, not less than a share of its bias."""
        found: Vector = self._largest.max(axis=2, initial=0).reshape(-1)
        return np.maximum(found, np.abs(self._bias * self._out) * BIAS)

    @property
    def read(self) -> Vector:
        """The range of each input channel's weights."""
        found: Vector = self._largest.max(axis=1, initial=0).reshape(-1)
        return found

    def scale_made(self, factor: Vector) -> None:
        self._largest *= factor.reshape(len(self._largest), -1, 1)
        self._out *= factor

    def scale_read(self, factor: Vector) -> None:
        each = np.repeat(factor, self._into.size // factor.size)
        self._largest *= each.reshape(len(self._largest), 1, -1)
        self._into *= each

    def write(self) -> None:
        """Multiply weights and bias by the factors."""
        if (self._into == 1).all() and (self._out == 1).all():
            return
        weights = float32_of(self._node.inputs[1])
        assert weights is not None
        by_channel = self._layout.by_channel(weights)  # a view
        outputs, inputs = by_channel.shape[:2]
        by_group = self._into.reshape(-1, 1, inputs)
        each = np.broadcast_to(by_group, (len(by_group), outputs // len(by_group), inputs)).reshape(outputs, inputs, 1)
        by_channel *= each * self._out.reshape(-1, 1, 1)
        replace_constant(self._node, 1, weights)
        if len(self._node.inputs) > 2 and self._node.inputs[2] is not None:
            replace_constant(self._node, 2, self._bias * self._out)


@dataclass
class _Shared:
    """The factors of a stream: its makers have divided by them, its readers multiplied.

    Attributes
    ----------
    least : below it a factor would let the tensors hold larger values than they do
    amplitude : the largest magnitude that each channel holds; None where nobody looked
    """

    stream: Stream
    layers: dict[ir.Node, _Layer]
    factors: Vector = field(init=False)
    least: Vector = field(init=False)
    amplitude: Vector | None = None

    def __post_init__(self) -> None:
        channels = self.layers[self.stream.makers[0]].made.size
        self.factors, self.least = np.ones(channels), np.zeros(channels)

    def look(self, seen: dict[str, Seen]) -> None:
        """Keep what samples show of the tensors."""
        found = [seen[str(value.name)] for value in settled(self.stream) if str(value.name) in seen]
        largest = [self._by_channel(one.largest.astype(np.float64)) for one in found]
        if not largest or not np.max(largest) > 0:
            return
        reach = np.max(largest, axis=0)
        self.least = reach / reach.max()
        self.amplitude = reach

    def _by_channel(self, found: Vector) -> Vector:
        """Behind a Flatten each channel has several places."""
        largest: Vector = found.reshape(self.factors.size, -1).max(axis=1)
        return largest

    def balance(self) -> float:
        """Move the factors to where both sides have the same range, and say how far they moved."""
        makers = [self.layers[node] for node in self.stream.makers]
        readers = [self.layers[node] for node in self.stream.readers]
        made = np.max([layer.made for layer in makers], axis=0) * self.factors  # as they would be without factors
        read = np.max([self._by_channel(layer.read) for layer in readers], axis=0) / self.factors
        live = (made > 0) & (read > 0)
        if self.amplitude is not None and (held := live & (self.amplitude > 0)).any():
            in_weights = self.amplitude[held] * np.median(made[held] / self.amplitude[held])
            made[held] = made[held] ** (1 - AMPLITUDE) * in_weights**AMPLITUDE
        wanted = np.ones_like(made)
        wanted[live] = np.maximum(np.sqrt(made[live] / read[live]), self.least[live])
        moved = wanted / self.factors
        self.factors = wanted
        for layer in makers:
            layer.scale_made(1 / moved)
        for layer in readers:
            layer.scale_read(moved)
        return float(np.abs(np.log(moved)).max(initial=0.0))
