"""The ring cache as it fills and wraps: ``python -m bench kv [--threads 1 2] [--json run.json]``.

One token's keys and values of 22 layers (4 heads of 64, as TinyLlama's) are appended, and in a second group attended
to as well, when 1, 2, 5 and 10 windows of 1024 have gone by. A ring takes the same time at each; ``numpy_concatenate``,
for comparison only, is the cache that grows by an array a token.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

import edgekern as ek
from bench.harness import Contender, Row
from bench.peers import Array, close
from bench.suite import Case, Plan, Result, parser, run

LAYERS, KV_HEADS, HEADS, HEAD_DIM, WINDOW = 22, 4, 32, 64, 1024
WINDOWS = (1, 2, 5, 10)
GROWS = "numpy_concatenate"
NOISE = 0.02  # of a query in 8 bits


def _cache(windows: int, window: int, threads: int) -> ek.RingKVCache:
    cache = ek.RingKVCache(
        num_layers=LAYERS,
        num_kv_heads=KV_HEADS,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        window=window,
        max_chunk=64,
        num_threads=threads,
    )
    rng = np.random.default_rng(windows)
    for _ in range(windows):
        rows = rng.normal(size=(2, LAYERS, window, KV_HEADS, HEAD_DIM)).astype(np.float32)
        cache.append(rows[0], rows[1])
    return cache


def _attention(cache: ek.RingKVCache, query: Array) -> Array:
    """What the latest token sees in the last layer, from the stored rows in float64."""
    layer, last = LAYERS - 1, cache.position() - 1
    seen = [p for p in range(last + 1) if p < cache.sinks or last - p < cache.window]
    keys, values = (np.stack([read(layer, p) for p in seen]).astype(np.float64) for read in (cache.keys, cache.values))
    heads = np.repeat(np.arange(KV_HEADS), HEADS // KV_HEADS)
    scores = np.einsum("hd,phd->hp", query[0], keys[:, heads]) / np.sqrt(HEAD_DIM)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = np.einsum("hp,phd->hd", shares / shares.sum(axis=1, keepdims=True), values[:, heads])[None]
    return result


def _append_case(windows: int, window: int, threads: int) -> Case:
    cache = _cache(windows, window, threads)
    token = np.random.default_rng(0).normal(size=(LAYERS, 1, KV_HEADS, HEAD_DIM)).astype(np.float32)
    grown = np.zeros((LAYERS, windows * window, KV_HEADS, HEAD_DIM), np.float32)

    def append() -> int:
        before = cache.position()
        cache.append(token, token)
        return cache.position() - before

    def check(tokens: int) -> None:
        assert tokens == 1
        stored = cache.keys(0, cache.position() - 1)
        np.testing.assert_allclose(stored, token[0, 0], atol=np.abs(token).max() / 127)

    def concatenate() -> list[Array]:
        return [np.concatenate([grown, token], axis=1) for _ in ("k", "v")]

    contenders = [
        Contender("edgekern_int8", append, check),
        Contender(GROWS, concatenate, lambda both: None),
    ]
    return Case("append a token", f"{windows} windows", contenders, references=(GROWS,))


def _step_case(windows: int, window: int, threads: int) -> Case:
    cache = _cache(windows, window, threads)
    rng = np.random.default_rng(0)
    token = rng.normal(size=(1, KV_HEADS, HEAD_DIM)).astype(np.float32)
    query = rng.normal(size=(1, HEADS, HEAD_DIM)).astype(np.float32)
    out = np.empty_like(query)

    def step() -> Array:
        with cache.stage(1) as staged:
            for layer in range(LAYERS):
                staged.write(layer, token, token)
                staged.attend(layer, query, out=out)
            staged.commit()
        return out

    def check(found: Array) -> None:
        close(_attention(cache, query), NOISE)(found)

    read = cache.bytes_per_token * window
    return Case(
        "append, and attend to the window", f"{windows} windows", [Contender("edgekern_int8", step, check, 1, read)]
    )


def cases(*, threads: int, quick: bool) -> Iterator[Plan]:
    window = 64 if quick else WINDOW
    for build, name in ((_append_case, "append"), (_step_case, "step")):
        for windows in WINDOWS:
            yield f"{name} {windows} windows", partial(build, windows, window, threads)


def figures(results: Sequence[Result]) -> Row:
    """How much the slowest of a group takes over the fastest: 1 where time does not depend on the position."""
    found: dict[str, float] = {}
    for group in dict.fromkeys(result.case.group for result in results):
        times = [row.timings[row.ours].best for row in results if row.case.group == group]
        found[f"{group}: slowest over fastest position"] = max(times) / min(times)
    return found


def main(argv: Sequence[str]) -> int:
    options = parser("kv", __doc__).parse_args(argv)
    run("kv", options, lambda threads: cases(threads=threads, quick=options.quick), figures)
    return 0
