"""Calibration text on its way through the layers: each matrix is rounded by what those before it really give it.

A layer is taken in the order in which it computes: q, k and v, then o, then gate and up, then down. What a matrix reads
is looked at, the matrix is rounded, and the text goes on over the rounded weights. So there is one pass over the text,
and one layer's float weights are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgekern.llm.config import ModelConfig
from edgekern.llm.encodings import FloatArray
from edgekern.llm.methods.rotation import Source
from edgekern.llm.methods.rounding import Inputs, Method, awq_factors, needs_text, round_matrix
from edgekern.llm.packing import Rounded, WeightFormat
from edgekern.llm.weights import FINAL_NORM, layer_name
from edgekern.transformer import attention, rms_norm

_TURN = 2.0**64


@dataclass
class RoundedLayer:
    """What a layer has become; ``qkv`` and ``gate_up`` one below the other, which packing puts side by side."""

    attention_norm: FloatArray
    qkv: Rounded
    qkv_bias: FloatArray | None
    o: Rounded
    ffn_norm: FloatArray
    gate_up: Rounded
    down: Rounded


class Text:
    """The hidden states of some texts, (tokens, dim), between two layers."""

    def __init__(self, source: Source, texts: Sequence[Sequence[int]]) -> None:
        self.config = source.config
        ends = np.cumsum([0, *(len(ids) for ids in texts)])
        self.spans = [slice(first, last) for first, last in pairwise(ends)]
        self.x = source.embed(np.concatenate([np.asarray(ids) for ids in texts]))
        half = self.config.head_dim // 2
        angles = np.outer(
            np.arange(max(len(ids) for ids in texts)), np.array(self.config.rope_phases(), np.float64) / _TURN
        )
        turns = (angles % 1.0) * (2 * np.pi)
        self._cos = (np.cos(turns) * self.config.rope_attention).astype(np.float32).reshape(-1, 1, half)
        self._sin = (np.sin(turns) * self.config.rope_attention).astype(np.float32).reshape(-1, 1, half)

    def normed(self, gain: FloatArray) -> FloatArray:
        return rms_norm(self.x, gain, eps=self.config.eps)

    def attended(self, qkv: FloatArray) -> FloatArray:
        """Attention of each text on itself: (tokens, q_width)."""
        c = self.config
        out = np.empty((len(qkv), c.q_width), np.float32)
        for span in self.spans:
            q, k, v = np.split(qkv[span], [c.q_width, c.q_width + c.kv_width], axis=1)
            heads = [part.reshape(len(part), -1, c.head_dim) for part in (q, k, v)]
            turned = [self._rotated(part) for part in heads[:2]]
            q4, k4, v4 = (np.ascontiguousarray(part.transpose(1, 0, 2)[None]) for part in (*turned, heads[2]))
            left = None if c.window is None else c.window - 1
            mixed = attention(q4, k4, v4, causal=True, window=(left, None))
            out[span] = mixed[0].transpose(1, 0, 2).reshape(len(q), -1)
        return out

    def _rotated(self, heads: FloatArray) -> FloatArray:
        first, second = np.split(heads, 2, axis=-1)
        cos, sin = self._cos[: len(heads)], self._sin[: len(heads)]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class LayerRounder:
    """Rounds the layers of a model in their order.

    Parameters
    ----------
    source : the float weights
    form, method : what they become, and how
    text : of the method's calibration, or None where it wants none
    advance : called after each matrix
    """

    def __init__(
        self, source: Source, form: WeightFormat, method: Method, text: Text | None, advance: Callable[[], None]
    ) -> None:
        assert (text is not None) == needs_text(method)
        self._source, self._form, self._method, self._text, self._advance = source, form, method, text, advance
        self._scales = method.startswith("awq")
        self.layers = source.config.layers

    def layer(self, index: int) -> RoundedLayer:
        """Round one layer, and send the text through it."""
        c, source, text = self._source.config, self._source, self._text

        def read(*names: str) -> FloatArray:
            return np.concatenate([source.read(layer_name(index, name)) for name in names])

        gains = [source.vector(layer_name(index, name)) for name in ("attention_norm", "ffn_norm")]
        bias = None
        if c.qkv_bias:
            bias = np.concatenate([source.vector(layer_name(index, f"{name}_bias")) for name in ("q", "k", "v")])
        x = None if text is None else text.normed(gains[0])
        qkv, gains[0], made = self._behind_norm(read("q", "k", "v"), gains[0], x)
        if text is not None and made is not None:
            made = made if bias is None else made + bias
            x = text.attended(made)
        o, factors = self._behind_rows(read("o"), x, self._shared_by_heads)
        if factors is not None:
            per_value = factors.reshape(c.kv_heads, -1, c.head_dim)[:, 0].reshape(-1)
            rows = np.concatenate([np.ones(c.q_width + c.kv_width, np.float32), 1 / per_value])
            qkv, bias = qkv.times(rows), None if bias is None else bias * rows
        if text is not None and x is not None:
            text.x += x @ o.restored().T if factors is None else (x / factors) @ o.restored().T
            x = text.normed(gains[1])
        gate_up, gains[1], made = self._behind_norm(read("gate", "up"), gains[1], x)
        if made is not None:
            gate, up = np.split(made, 2, axis=1)
            x = gate / (1 + np.exp(-gate)) * up
            del made, gate, up
        down, factors = self._behind_rows(read("down"), x, lambda magnitudes: magnitudes)
        if factors is not None:
            gate_up = gate_up.times(np.concatenate([np.ones_like(factors), 1 / factors]))
        if text is not None and x is not None:
            text.x += x @ down.restored().T if factors is None else (x / factors) @ down.restored().T
        return RoundedLayer(gains[0], qkv, bias, o, gains[1], gate_up, down)

    def head(self) -> tuple[Rounded, FloatArray]:
        """The head, and the gains of the norm before it."""
        gain = self._source.vector(FINAL_NORM)
        x = None if self._text is None else self._text.normed(gain)
        rounded, gain, _ = self._behind_norm(self._source.head(), gain, x, last=True)
        return rounded, gain

    def _behind_norm(
        self, w: FloatArray, gain: FloatArray, x: FloatArray | None, *, last: bool = False
    ) -> tuple[Rounded, FloatArray, FloatArray | None]:
        """A matrix whose inputs are normed rows x: rounded, the norm's gains then, and what it makes of x."""
        inputs = None if x is None else Inputs.of(x)
        if inputs is not None and self._scales:
            factors = awq_factors(w, self._form, inputs, inputs.magnitudes)
            w, inputs, gain = w * factors, inputs.over(factors), gain / factors
            x = None if x is None else x / factors
        rounded = round_matrix(w, self._form, self._method, inputs)
        self._advance()
        return rounded, gain, None if x is None or last else x @ rounded.restored().T

    def _behind_rows(
        self, w: FloatArray, x: FloatArray | None, shared: Callable[[FloatArray], FloatArray]
    ) -> tuple[Rounded, FloatArray | None]:
        """A matrix whose inputs are rows of another: rounded, and the factors by which those rows are to be divided."""
        inputs, factors = None if x is None else Inputs.of(x), None
        if inputs is not None and self._scales:
            factors = awq_factors(w, self._form, inputs, shared(inputs.magnitudes))
            w, inputs = w * factors, inputs.over(factors)
        rounded = round_matrix(w, self._form, self._method, inputs)
        self._advance()
        return rounded, factors

    def _shared_by_heads(self, magnitudes: FloatArray) -> FloatArray:
        """One magnitude for all query heads that read a value."""
        c: ModelConfig = self._source.config
        by_value = magnitudes.reshape(c.kv_heads, -1, c.head_dim)
        mean = by_value.mean(axis=1, keepdims=True)
        return np.broadcast_to(mean, by_value.shape).reshape(-1)
