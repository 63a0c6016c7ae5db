"""LSTM, GRU and RNN, one time step and one gate after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference.fma import fma
from reference.functions import sigmoid, tanh

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


def recurrent(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    a = step.arguments
    steps, batch, hidden, directions = (a[name] for name in ("steps", "batch", "hidden", "directions"))
    gates = GATES[a["cell"]]
    w, r = (
        unpack(machine.blob(step, at, "<f4"), directions, k, gates, hidden) for at, k in ((0, a["inputs"]), (1, hidden))
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

            for number in range(steps):
                on = np.flatnonzero(number < lengths)
                t = lengths[on] - 1 - number if backwards else np.full(on.size, number)
                before = h[d, on]
                wx = [product(values[t, on], w[d, i], biases[d, 0, i]) for i in range(gates)]
                rh = [product(before, r[d, i], biases[d, 1, i]) for i in range(gates)]
                if a["cell"] == 0:
                    in_, out, forget = (gate(f, wx[i], rh[i]) for i in range(3))
                    c[d, on] = forget * c[d, on] + in_ * gate(g, wx[3], rh[3])
                    h[d, on] = out * of_cell(c[d, on])
                elif a["cell"] == 1:
                    z, reset = (gate(f, wx[i], rh[i]) for i in range(2))
                    if a["linear_before_reset"]:
                        fresh = gate(g, wx[2], reset * rh[2])
                    else:
                        fresh = gate(g, wx[2], product(reset * before, r[d, 2], biases[d, 1, 2]))
                    h[d, on] = (np.float32(1) - z) * fresh + z * before
                else:
                    h[d, on] = gate(f, wx[0], rh[0])
                result[t, d, on] = h[d, on]
    states = [h, c] if a["cell"] == 0 else [h]
    return np.concatenate([result.reshape(-1), *(state.reshape(-1) for state in states)])


STEPS = {"RECURRENT": recurrent}
