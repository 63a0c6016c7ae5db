"""A LLaMA-family decoder in float32, one line for one thing: what edgekern.llm has to reproduce."""

import math

import numpy as np


def rms_norm(x, gain, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * gain


def rotate(x, positions, config):
    """x: (tokens, heads, head_dim); element i turns with element i + head_dim / 2."""
    half = x.shape[-1] // 2
    turns = [position * phase % 2**64 / 2**64 for position in positions for phase in config.rope_phases()]
    angle = 2 * math.pi * np.array(turns).reshape(-1, 1, half)
    cos = np.float32(np.cos(angle)) * np.float32(config.rope_attention)
    sin = np.float32(np.sin(angle)) * np.float32(config.rope_attention)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Llama:
    """Reads all tensors of an edgekern.llm Weights; `window` as in the config."""

    def __init__(self, weights):
        self.config = weights.config
        self.w = {name: stored.read() for name, stored in weights.tensors.items()}
        self.head = weights.head.read()

    def logits(self, ids):
        """(tokens, vocab) float32."""
        c, w = self.config, self.w
        n = len(ids)
        x = w["embedding"][np.asarray(ids)]
        at = np.arange(n)
        visible = at[None, :] <= at[:, None]
        if c.window is not None:
            visible &= at[:, None] - at[None, :] < c.window
        for layer in range(c.layers):
            name = f"layers.{layer}."

            def project(h, kind, name=name):
                y = h @ w[name + kind].T
                return y + w[name + kind + "_bias"][0] if c.qkv_bias and kind in "qkv" else y

            h = rms_norm(x, w[name + "attention_norm"][0], c.eps)
            q = rotate(project(h, "q").reshape(n, c.heads, c.head_dim), range(n), c)
            k = rotate(project(h, "k").reshape(n, c.kv_heads, c.head_dim), range(n), c)
            v = project(h, "v").reshape(n, c.kv_heads, c.head_dim)
            shared = np.arange(c.heads) // (c.heads // c.kv_heads)
            scores = q.swapaxes(0, 1) @ k[:, shared].transpose(1, 2, 0) / np.float32(math.sqrt(c.head_dim))
            weights = softmax(np.where(visible, scores, np.float32(-np.inf)))
            attended = (weights @ v[:, shared].swapaxes(0, 1)).swapaxes(0, 1).reshape(n, c.q_width)
            x = x + project(attended, "o")
            h = rms_norm(x, w[name + "ffn_norm"][0], c.eps)
            x = x + project(silu(project(h, "gate")) * project(h, "up"), "down")
        return rms_norm(x, w["final_norm"][0], c.eps) @ self.head.T

    def greedy(self, ids, count):
        ids = list(ids)
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids


def cross_entropy(logits, targets):
    """-log p of each target, natural, in double."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    return np.log(np.exp(z).sum(axis=-1)) - z[np.arange(len(targets)), targets]
