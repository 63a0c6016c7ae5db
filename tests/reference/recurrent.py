"""LSTM, GRU and RNN, one time step and one gate after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference.fma import fma
from reference.functions import sigmoid, tanh
from reference.linear import dynamic_quantize

Array = npt.NDArray[Any]

GATES = {0: 4, 1: 3, 2: 1}  # of LSTM, GRU, RNN
STRIP = 16


def relu(x: Array) -> Array:
    return np.where(x < 0, np.float32(0), x)


FUNCTIONS = (sigmoid, tanh, relu)


def padded(hidden: int) -> int:
    return -(-hidden // STRIP) * STRIP


def unpack(blob: Array, directions: int, k: int, gates: int, hidden: int) -> Array:
    """Strips of [k][16], gate behind gate, to (directions, gates, k, hidden)."""
    strips = padded(hidden) // STRIP
    each = blob[: directions * gates * strips * k * STRIP].reshape(directions, gates, strips, k, STRIP)
    return each.transpose(0, 1, 3, 2, 4).reshape(directions, gates, k, strips * STRIP)[..., :hidden]


def product(x: Array, weights: Array, bias: Array) -> Array:
    """One fused multiply-add after the other, then the bias."""
    total = np.zeros((*x.shape[:-1], weights.shape[1]), np.float32)
    for k in range(weights.shape[0]):
        total = fma(x[..., k, None], weights[k], total)
    return total + bias


def unpack_codes(blob: Array, columns: int, k: int) -> tuple[Array, Array]:
    """int8 weights (k, columns) from panels of [k / 4][width][4] with their sums behind them, and what follows."""
    quads, at, panels = -(-k // 4), 0, []
    while at < columns:
        width = min(64, columns - at)
        panel = blob[at * quads * 4 : (at + width) * quads * 4].view(np.int8).reshape(quads, width, 4)
        panels.append(panel.transpose(0, 2, 1).reshape(quads * 4, width)[:k])
        at += width
    return np.concatenate(panels, axis=1), blob[columns * (quads + 1) * 4 :]


def unpack_gates(blob: Array, directions: int, k: int, at_once: Array, hidden: int) -> Array:
    """The gates of each direction, so many columns at once, to (directions, gates, k, hidden)."""
    found = []
    for _ in range(directions):
        for gates in at_once:
            codes, blob = unpack_codes(blob, gates * padded(hidden), k)
            found.append(codes.reshape(k, gates, -1)[..., :hidden].transpose(1, 0, 2))
    return np.concatenate(found).reshape(directions, -1, k, hidden)


def product_of_codes(x: Array, weights: Array, scale: Array, bias: Array) -> Array:
    """Each row quantized by its largest, then multiplied exactly."""
    codes, row_scale = dynamic_quantize(x)
    exact = codes.astype(np.int64) @ weights.astype(np.int64)
    return exact.astype(np.float32) * (row_scale[:, None] * scale) + bias


def recurrent(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    steps, batch, hidden, directions = (a[name] for name in ("steps", "batch", "hidden", "directions"))
    gates = GATES[a["cell"]]
    dynamic = len(step.blobs) == 4
    if dynamic:
        at_once = [2, 1] if a["cell"] == 1 and not a["linear_before_reset"] else [gates]
        w = unpack_gates(machine.blob(step, 0), directions, a["inputs"], [gates], hidden)
        r = unpack_gates(machine.blob(step, 1), directions, hidden, at_once, hidden)
        scales = machine.blob(step, 3, "<f4")[: directions * 2 * gates * padded(hidden)]
        scales = scales.reshape(directions, 2, gates, padded(hidden))[..., :hidden]
    else:
        w, r = (
            unpack(machine.blob(step, at, "<f4"), directions, k, gates, hidden)
            for at, k in ((0, a["inputs"]), (1, hidden))
        )
    biases = machine.blob(step, 2, "<f4")[: directions * 2 * gates * padded(hidden)]
    biases = biases.reshape(directions, 2, gates, padded(hidden))[..., :hidden]
    values = x[0].reshape(steps, batch, a["inputs"])
    rest = x[1:]
    lengths = rest.pop(0).reshape(batch) if a["has_lengths"] else np.full(batch, steps)
    lengths = np.where((lengths < 0) | (lengths > steps), 0, lengths)
    zeros = np.zeros((directions, batch, hidden), np.float32)
    h = rest.pop(0).reshape(zeros.shape).copy() if a["has_h0"] else zeros.copy()
    c = rest.pop(0).reshape(zeros.shape).copy() if a["has_c0"] else zeros.copy()
    clip = np.float32(a["clip"] or np.inf)
    result = np.zeros((steps, directions, batch, hidden), np.float32)
    with np.errstate(all="ignore"):
        for d in range(directions):
            f, g, of_cell = (FUNCTIONS[number] for number in a["activations"][3 * d : 3 * d + 3])
            backwards = d == 1 if directions == 2 else a["reverse"]

            def gate(function: Any, a: Array, b: Array) -> Array:
                return function(np.clip(a + b, -clip, clip))

            def times(x: Array, which: int, i: int, d: int = d) -> Array:
                weights, bias = (w, r)[which][d, i], biases[d, which, i]
                return product_of_codes(x, weights, scales[d, which, i], bias) if dynamic else product(x, weights, bias)

            for number in range(steps):
                on = np.flatnonzero(number < lengths)
                t = lengths[on] - 1 - number if backwards else np.full(on.size, number)
                before = h[d, on]
                wx = [times(values[t, on], 0, i) for i in range(gates)]
                rh = [times(before, 1, i) for i in range(gates)]
                if a["cell"] == 0:
                    in_, out, forget = (gate(f, wx[i], rh[i]) for i in range(3))
                    c[d, on] = forget * c[d, on] + in_ * gate(g, wx[3], rh[3])
                    h[d, on] = out * of_cell(c[d, on])
                elif a["cell"] == 1:
                    z, reset = (gate(f, wx[i], rh[i]) for i in range(2))
                    if a["linear_before_reset"]:
                        fresh = gate(g, wx[2], reset * rh[2])
                    else:
                        fresh = gate(g, wx[2], times(reset * before, 1, 2))
                    h[d, on] = (np.float32(1) - z) * fresh + z * before
                else:
                    h[d, on] = gate(f, wx[0], rh[0])
                result[t, d, on] = h[d, on]
    states = [h, c] if a["cell"] == 0 else [h]
    return np.concatenate([result.reshape(-1), *(state.reshape(-1) for state in states)])


STEPS = {"RECURRENT": recurrent, "RECURRENT_DYNAMIC": recurrent}
