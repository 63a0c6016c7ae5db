"""Rotation: what flows through the layers is turned, and the weights are turned back (Ashkboos et al., QuaRot, 2024).

``x R`` has the same norm as x, so a matrix that reads normed rows may read turned ones when it is turned too: with the
gains of the norms folded into the matrices, one orthogonal R for all that is added to the residual stream leaves every
logit as it is, but for rounding. Channels that stand out are spread over all. The values of each head are turned in
the same way, between v and o. What would need a turn while the model runs (queries and keys behind their positions,
the inputs of down) is left as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgekern.llm.encodings import F16, F32, FloatArray
from edgekern.llm.weights import EMBEDDING, FINAL_NORM, HEAD, Stored, Weights, layer_name

_LARGEST_BLOCK = 64  # of a Hadamard matrix that is multiplied by as one


class Rotation:
    """A random orthogonal matrix of any size m * 2^n, m odd: signs, a Hadamard matrix, and a dense one of size m.

    Parameters
    ----------
    size : int
    rng : of the signs and the dense part
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._signs = rng.choice((-1.0, 1.0), size)
        power = size & -size
        self._parts: list[npt.NDArray[np.float64]] = []
        if power != size:
            dense, triangle = np.linalg.qr(rng.normal(size=(size // power, size // power)))
            self._parts.append(dense * np.sign(np.diagonal(triangle)))
        while power > 1:
            block = min(power, _LARGEST_BLOCK)
            self._parts.append(hadamard(block))
            power //= block

    def __call__(self, x: npt.NDArray[np.floating]) -> FloatArray:
        """``x R`` for rows (..., size), in double on the way."""
        turned = x.astype(np.float64) * self._signs
        shape = turned.shape
        turned = turned.reshape(-1, *(len(part) for part in self._parts))
        for axis, part in enumerate(self._parts, 1):
            turned = np.moveaxis(np.moveaxis(turned, axis, -1) @ part, -1, axis)
        rows: FloatArray = turned.reshape(shape).astype(np.float32)
        return rows


def hadamard(size: int) -> npt.NDArray[np.float64]:
    """The orthogonal Hadamard matrix of a power of two (Sylvester, 1867)."""
    made = np.ones((1, 1))
    while len(made) < size:
        made = np.block([[made, made], [made, -made]])
    return np.asarray(made / np.sqrt(size))


class Source:
    """The float weights of a model, each made when it is asked for."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config

    def read(self, name: str) -> FloatArray:
        """A matrix, (rows, columns)."""
        return self.weights[name].read()

    def vector(self, name: str) -> FloatArray:
        """A norm's gains or a bias."""
        return self.weights[name].vector()

    def head(self) -> FloatArray:
        """The matrix of the logits."""
        return self.weights.head.read()

    def embedding(self) -> Stored:
        """The table as the file is to hold it."""
        return self.weights[EMBEDDING]

    def stored(self, name: str) -> Stored:
        """A matrix as packing takes it."""
        return self.weights.head if name == HEAD else self.weights[name]

    def embed(self, ids: npt.NDArray[np.integer]) -> FloatArray:
        """The rows of tokens."""
        table = self.embedding()
        rows = np.unique(ids)
        return np.concatenate([table.read(row, row + 1) for row in rows])[np.searchsorted(rows, ids)]


class Rotated(Source):
    """The same model with its residual stream and its heads' values turned; its norms have no gains, and its head is a
    matrix of its own.

    Parameters
    ----------
    weights : the model
    seed : of the rotation
    """

    def __init__(self, weights: Weights, seed: int) -> None:
        super().__init__(weights)
        rng = np.random.default_rng(seed)
        self.config = replace(weights.config, tied=False)
        self._stream, self._values = Rotation(self.config.dim, rng), Rotation(self.config.head_dim, rng)
        table = weights[EMBEDDING]
        half = table.encoding is not F32
        turned = np.empty((self.config.vocab, self.config.dim), np.float16 if half else np.float32)
        for first in range(0, len(turned), 1024):
            turned[first : first + 1024] = self._stream(table.read(first, min(first + 1024, len(turned))))
        data = turned.view(np.uint8).reshape(len(turned), -1)
        self._table = Stored(table.source, table.shape, F16 if half else F32, data)

    def read(self, name: str) -> FloatArray:
        layer, kind = name.split(".")[1:]
        w = super().read(name)
        if kind in ("q", "k", "v", "gate", "up"):
            norm = "attention_norm" if kind in ("q", "k", "v") else "ffn_norm"
            w = self._stream(w * super().vector(layer_name(int(layer), norm)))
        if kind == "v":
            w = self._by_head(np.ascontiguousarray(w.T)).T
        if kind == "o":
            w = self._by_head(w)
        if kind in ("o", "down"):
            w = self._stream(np.ascontiguousarray(w.T)).T
        return np.ascontiguousarray(w)

    def vector(self, name: str) -> FloatArray:
        values = super().vector(name)
        if name.endswith("norm"):
            return np.ones_like(values)
        return self._by_head(values[None])[0] if name.endswith(".v_bias") else values

    def head(self) -> FloatArray:
        return self._stream(super().head() * super().vector(FINAL_NORM))

    def embedding(self) -> Stored:
        return self._table

    def stored(self, name: str) -> Stored:
        w = self.head() if name == HEAD else self.read(name)
        return Stored(name, (w.shape[0], w.shape[1]), F32, w.view(np.uint8).reshape(len(w), -1))

    def _by_head(self, rows: FloatArray) -> FloatArray:
        """Rows (n, heads * head_dim), each head turned."""
        heads = self._values(rows.reshape(len(rows), -1, self.config.head_dim))
        return heads.reshape(rows.shape)
