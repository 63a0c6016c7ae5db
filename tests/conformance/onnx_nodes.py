"""ONNX's operators of a transformer, put in terms of edgekern's: shapes and attributes only, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]


def _heads(x: Array, heads: int | None) -> Array:
    """(batch, tokens, heads * dim) as (batch, heads, tokens, dim)."""
    if x.ndim == 4:
        return x
    assert heads is not None
    return np.ascontiguousarray(x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2))


def _floats(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype != np.bool_ else x


def attention(inputs: Sequence[Array | None], attributes: Attributes, isa: str) -> list[Array]:
    """Y, present_key and present_value; the scores, a fourth output, are never made."""
    q, k, v, mask, past_k, past_v, lengths = [*inputs, *[None] * (7 - len(inputs))]
    assert q is not None
    assert k is not None
    assert v is not None
    rank = q.ndim
    q = _heads(q, attributes.get("q_num_heads"))
    k, v = (_heads(x, attributes.get("kv_num_heads")) for x in (k, v))
    position: Any = 0
    if past_k is not None and past_v is not None:
        position = past_k.shape[2]
        k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
    elif lengths is not None:
        position = lengths - q.shape[2]
    if mask is not None and mask.shape[-1] < k.shape[2]:
        behind = [(0, 0)] * (mask.ndim - 1) + [(0, k.shape[2] - mask.shape[-1])]
        mask = np.pad(mask, behind, constant_values=False if mask.dtype == np.bool_ else -np.inf)
    left, right = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    y = ek.attention(
        *(_floats(x) for x in (q, k, v)),
        None if mask is None else _floats(mask),
        causal=bool(attributes.get("is_causal", 0)),
        window=(None if left < 0 else left, None if right < 0 else right),
        position=position,
        kv_lengths=lengths,
        scale=attributes.get("scale"),
        softcap=attributes.get("softcap", 0.0),
        isa=isa,
    )
    if rank == 3:
        y = y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)
    return [y, k, v]


def rotary_embedding(inputs: Sequence[Array | None], attributes: Attributes, isa: str) -> list[Array]:
    x, cosines, sines, positions = [*inputs, *[None] * (4 - len(inputs))]
    assert x is not None
    assert cosines is not None
    assert sines is not None
    four = _heads(x, attributes.get("num_heads"))
    interleaved = bool(attributes.get("interleaved", 0))
    y = ek.rotary_embedding(*map(_floats, (four, cosines, sines)), positions, interleaved=interleaved, isa=isa)
    return [y if x.ndim == 4 else y.swapaxes(1, 2).reshape(x.shape)]


def rms_normalization(inputs: Sequence[Array | None], attributes: Attributes, isa: str) -> list[Array]:
    x, weight = inputs
    assert x is not None
    assert weight is not None
    return [ek.rms_norm(_floats(x), _floats(weight), eps=attributes.get("epsilon", 1e-5), isa=isa)]


def tensor_scatter(inputs: Sequence[Array | None], attributes: Attributes, isa: str) -> list[Array]:
    """Through a ring cache without sinks: its slot p % window is where TensorScatter, circular, writes token p."""
    past, update, indices = [*inputs, None][:3]
    assert past is not None
    assert update is not None
    shape = past.shape
    if past.ndim == 3:
        past, update = past[:, None], update[:, None]
    out, dim = np.empty(past.shape, past.dtype), past.shape[3]
    window, tokens = past.shape[2], update.shape[2]
    begin = np.zeros(len(past), np.int64) if indices is None else indices
    for batch, index in enumerate(begin):
        cache = ek.RingKVCache(
            num_layers=1,
            num_kv_heads=past.shape[1],
            head_dim=-(-dim // 8) * 8,
            window=window,
            sinks=0,
            max_chunk=1,
            rewind=0,
            kv="float32",
            isa=isa,
        )
        cache.reset(position=int(index))
        rows = np.roll(past[batch], -int(index), axis=1)  # what lies in slot index is the oldest
        text = np.concatenate([rows, update[batch]], axis=1).swapaxes(0, 1)
        text = np.ascontiguousarray(np.pad(text, ((0, 0), (0, 0), (0, -dim % 8)))[None])
        cache.append(text, text)
        positions = cache.positions()
        assert positions.max() == index + window + tokens - 1
        for slot, position in enumerate(positions):
            out[batch, :, slot] = cache.keys(0, int(position))[:, :dim]
    return [out.reshape(shape)]
