"""Small ring caches, the rows that tests put into them, and what the reference has of them."""

from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek

from reference import kvcache as reference
from reference.kvcache import Format

Float32 = npt.NDArray[np.float32]
HEADS, KV_HEADS = 4, 2


FORMATS = [
    Format("float32"),
    Format("float16"),
    Format("bfloat16"),
    Format("int8"),
    Format("int8", 32, False),
    Format("int4", 32),
    Format("int4", 64, False),
]


K_FORMATS = [*FORMATS, Format("int4", 32, False, True), Format("int8", 0, True, True)]


INT8 = Format()


def make(k_form: Format = INT8, v_form: Format = INT8, **options: Any) -> ek.RingKVCache:
    shape = {"num_layers": 1, "num_kv_heads": KV_HEADS, "num_heads": HEADS, "head_dim": 64}
    sizes = {"window": 40, "sinks": 3, "max_chunk": 8, "rewind": 5}
    formats = {"k": as_public(k_form), "v": as_public(v_form)}
    return ek.RingKVCache(**(shape | sizes | formats | options))


def as_public(form: Format) -> ek.KVFormat:
    return ek.KVFormat(form.kind, form.group or None, form.symmetric, form.rotated)  # type: ignore[arg-type]


def rows(rng: np.random.Generator, tokens: int, heads: int, dim: int) -> Float32:
    """Vectors of different sizes, some of them zero, some of one value."""
    x = rng.standard_normal((tokens, heads, dim)).astype(np.float32)
    x *= np.exp(rng.standard_normal((tokens, heads, 1))).astype(np.float32)
    x[rng.random(tokens) < 0.05] = 0
    x[rng.random(tokens) < 0.05] = 0.75
    return x


def feed(cache: ek.RingKVCache, k: Float32, v: Float32, q: Float32, q_sink: Float32 | None, chunk: int) -> Float32:
    """All tokens, in chunks, one layer: the attention of each."""
    out = []
    for at in range(0, len(k), chunk):
        part = slice(at, at + chunk)
        with cache.stage(len(k[part])) as staged:
            staged.write(0, k[part], v[part])
            out.append(staged.attend(0, q[part], None if q_sink is None else q_sink[part]))
            staged.commit()
    return np.concatenate(out)


def by_slot(cache: ek.RingKVCache, x: Float32, form: Format) -> list[reference.Rows]:
    """The reference's rows of each head, in the cache's slots, empty ones zero, padded to whole tiles."""
    positions = cache.positions()
    padded = np.zeros((-(-len(positions) // 64) * 64, *x.shape[1:]), np.float32)
    padded[: len(positions)][positions >= 0] = x[positions[positions >= 0]]
    return [reference.quantize(padded[:, head], form) for head in range(x.shape[1])]
