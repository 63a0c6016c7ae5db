"""Rotations of hidden channels that change nothing but how weights and activations round.

Channels that are far out are spread over all others by a random Hadamard matrix, whose inverse the layers that read
them have in their weights (QuaRot: Ashkboos et al., arXiv 2404.00456; the rotation of values and outputs is R2 of
SpinQuant: Liu et al., arXiv 2405.16406). Only what costs nothing at run time is rotated: values within heads, which
attention mixes over tokens and never over channels, and the residual stream where norms stand before layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgekern._arguments import integer
from edgekern._warn import warn_caller
from edgekern.errors import ArgumentValueError, EdgekernWarning, QuantizationError
from edgekern.graph.channel_moves import along_last, numbered, readers, source_of
from edgekern.graph.values import label
from edgekern.quantization.methods.channel_takers import mixed_numbers, numbers_read
from edgekern.quantization.methods.float_model import float32_of, opened_float, written_float
from edgekern.quantization.methods.hadamard import Rotation, random_hadamard
from edgekern.quantization.methods.linear_layers import Linear, linear_giving, linear_of
from edgekern.quantization.methods.rotate_stream import streams_of

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

FloatArray = npt.NDArray[np.floating]


def rotate(model: ModelLike, *, seed: int = 0) -> onnx.ModelProto:
    """Rotate hidden channels by random Hadamard matrices, wherever weights can hold the rotation and its inverse.

    These are the values of each attention head, between the projection that gives them and the one behind attention,
    and the residual stream where every norm of it leads to MatMul and Gemm alone (pre-norm). A stream that norms write,
    as in BERT, cannot be rotated. The model that is returned computes the same, up to float32's rounding, and has no
    node more. It needs no data. Calibrate it, not the one that was given.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32. It is not changed.
    seed : int. Of the signs that are drawn; at least 0.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, or the model is not ONNX.
    QuantizationError
        When the model is quantized, or nothing of it can be rotated; the message says why.

    Warns
    -----
    EdgekernWarning
        Of heads and streams that are left as they were, and why.

    Examples
    --------
    >>> rotated = ek.rotate("model.onnx")                                   # doctest: +SKIP
    >>> qdq = ek.quantize(rotated, None, ek.QuantConfig(recipe="w4a8-g32"))  # doctest: +SKIP
    """
    seed = integer("rotate", "seed", seed)
    if seed < 0:
        raise ArgumentValueError(f"rotate: seed must be at least 0, got {seed}")
    opened, rng = opened_float(model, function="rotate"), np.random.default_rng(seed)
    heads, left = heads_of(opened.graph)
    streams, fixed = streams_of(opened.graph)
    left += fixed
    if not heads and not streams:
        why = f": {'; '.join(left[:4])}" if left else ", which has no attention and no norm"
        raise QuantizationError(f"rotate: nothing of model can be rotated{why}")
    if left:
        warn_caller(f"rotate: {len(left)} stay as they were: {'; '.join(left[:4])}", EdgekernWarning)
    for found in heads:
        found.rotate(random_hadamard(found.depth, rng))
    for stream in streams:
        stream.rotate(random_hadamard(stream.channels, rng))
    return written_float(opened)


@dataclass(frozen=True, eq=False)
class Heads:
    """The values of an attention.

    Attributes
    ----------
    giving : the layer that gives the values
    channels : (heads, depth) int. Which of its outputs are the channels of each head.
    reading : the layers behind attention, whose inputs are heads of ``depth`` channels, one after the other
    """

    giving: Linear
    channels: npt.NDArray[np.int64]
    reading: tuple[Linear, ...]

    @property
    def depth(self) -> int:
        return int(self.channels.shape[1])

    def rotate(self, rotation: Rotation) -> None:
        """All heads by the same matrix (depth, depth)."""

        def given(outputs: FloatArray) -> FloatArray:
            made = np.array(outputs)
            made[..., self.channels] = outputs[..., self.channels] @ rotation
            return made

        self.giving.change_outputs(given)
        for layer in self.reading:
            layer.change_inputs(
                lambda weights: (weights.reshape(len(weights), -1, self.depth) @ rotation).reshape(weights.shape)
            )


def heads_of(graph: ir.Graph) -> tuple[list[Heads], list[str]]:
    """The attentions whose values can be rotated, and what is said of others."""
    found: list[Heads] = []
    left: list[str] = []
    for node in graph:
        if node.op_type != "MatMul" or node.domain != "" or linear_of(node) is not None:
            continue
        values = node.inputs[1]
        layer = None if values is None or float32_of(values) is not None else linear_giving(source_of(values))
        if layer is None:
            continue  # a product of queries and keys, or of what no layer gives
        heads = _heads(node, layer)
        if isinstance(heads, Heads):
            found.append(heads)
        elif heads:
            left.append(heads)
    return found, left


def _heads(node: ir.Node, layer: Linear) -> Heads | str:
    """Those of the values of a product; "" where these are no values."""
    called = f"values of {node.op_type} {label(node)!r}"
    source = layer.result
    numbers = numbered(source)
    read = None if numbers is None else numbers_read(source, numbers, node)
    if read is None:
        return ""
    channels = np.unique(read[..., 0, :].reshape(-1, read.shape[-1]), axis=0)
    if len(np.unique(channels)) != channels.size:
        return f"{called} (their heads overlap)"
    mixed = mixed_numbers(node.outputs[0], read)
    if mixed is None:
        return f"{called} (their shape is not known)"
    reading = []
    for reader in readers(node.outputs[0], mixed):
        behind = None if reader.node is None or reader.at != 0 else linear_of(reader.node)
        order = along_last(reader.numbers)
        if behind is None or order is None or len(order) != behind.weights.shape[1]:
            return f"{called} (not only layers by constant weights read what they become)"
        if len(order) % channels.shape[1] or not _are_heads(order.reshape(-1, channels.shape[1]), channels):
            return f"{called} (heads do not lie side by side)"
        reading.append(behind)
    return Heads(layer, channels, tuple(reading)) if reading else ""


def _are_heads(blocks: npt.NDArray[np.int64], channels: npt.NDArray[np.int64]) -> bool:
    known = {tuple(head) for head in channels.tolist()}
    return all(tuple(block) in known for block in blocks.tolist())
