"""Attention over a quantized cache: ``python -m bench attention [--threads 1 2] [--json run.json]``.

One token's queries at depths 1024 and 4096, in the shapes of TinyLlama (4 KV heads of 64 for 32 query heads), of an
8-billion LLaMA (8 of 128 for 32) and of one without grouped queries (8 of 128 for 8), on as many layers as leave the
caches behind; the peer is llama.cpp's flash attention on a Q8_0 cache, and on Q8_0 keys with Q4_0 values beside k8v4.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

import edgekern as ek
from bench import ggml
from bench.harness import Contender, Row, version
from bench.peers import Array, Check, close, join
from bench.suite import Case, Plan, Result, copies_beyond_cache, geometric_mean, parser, run

# KV heads, query heads, head_dim.
SHAPES = ((4, 32, 64), (8, 32, 128), (8, 8, 128))
DEPTHS = (1024, 4096)
PEERS = {"int8": ("q8_0", "q8_0"), "k8v4": ("q8_0", "q4_0")}
# Storing V in 4 bits costs more than rounding K, the query and the weights to 8.
NOISE = {"int8": 0.05, "k8v4": 0.2}


def _exact(q: Array, k: Array, v: Array) -> Array:
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("thd,nhd->htn", q, np.repeat(k, group, axis=1)) / np.sqrt(q.shape[2])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(np.einsum("htn,nhd->thd", weights, np.repeat(v, group, axis=1)), np.float32)


def _ours(kv: str, q: Array, k: Array, v: Array, layers: int, threads: int, check: Check) -> Contender:
    depth, kv_heads, dim = k.shape
    cache = ek.RingKVCache(
        num_layers=layers,
        num_kv_heads=kv_heads,
        num_heads=q.shape[1],
        head_dim=dim,
        window=depth,
        sinks=0,
        rewind=0,
        kv=kv,
        num_threads=threads,
    )
    for at in range(0, depth, cache.max_chunk):
        part = slice(at, at + cache.max_chunk)
        cache.append(*(np.repeat(x[None, part], layers, axis=0) for x in (k, v)))
    outs = [np.empty_like(q) for _ in range(layers)]
    read = cache.bytes_per_token // layers * depth
    return Contender(
        f"edgekern_{kv}",
        lambda: [cache.attend(layer, q, out=out) for layer, out in enumerate(outs)],
        check,
        layers,
        read,
    )


def _case(shape: tuple[int, int, int], depth: int, kv: str, threads: int, quick: bool) -> Case:
    kv_heads, heads, dim = shape
    rng = np.random.default_rng([*shape, depth])
    k, v = (rng.normal(size=(depth, kv_heads, dim)).astype(np.float32) for _ in range(2))
    q = 2 * rng.normal(size=(1, heads, dim)).astype(np.float32)
    layers = 2 if quick else copies_beyond_cache(2 * k.size)
    check = close([_exact(q, k, v)] * layers, NOISE[kv])
    peers = join(("llama.cpp", lambda: ggml.attention(PEERS[kv], q, k, v, layers, threads, check)))
    name = f"{depth}x{kv_heads}x{dim}, {heads} heads"
    return Case(kv, name, [_ours(kv, q, k, v, layers, threads, check), *peers], 4 * depth * heads * dim, rotated=True)


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for kv in PEERS:
        for shape in SHAPES[:1] if quick else SHAPES:
            for depth in (256,) if quick else DEPTHS:
                yield f"{depth}x{shape[0]}x{shape[2]}", partial(_case, shape, depth, kv, threads, quick)


def figures(results: Sequence[Result]) -> Row:
    """Shares of the read bandwidth, and the gain over llama.cpp, for each format."""
    found: dict[str, float | None] = {}
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [row for row in results if row.case.group == group]
        found[f"{group}: lowest share of the read bandwidth"] = min((row.read_share for row in rows), default=None)
        gains = [row.ratio for row in rows if row.ratio is not None]
        found[f"{group}: times as fast as llama.cpp"] = geometric_mean(gains)
    return found


def main(argv: Sequence[str]) -> int:
    options = parser("attention", __doc__).parse_args(argv)
    if version("llama_cpp_python"):
        print(f"llama.cpp: {ggml.system_info()}")
    run("attention", options, lambda threads: cases(threads, quick=options.quick), figures)
    return 0
