"""What the cache's formats and its sinks cost: ``python -m bench formats [--plot stream.png] [--json rows.jsonl]``.

``heads``: attention of 32 query heads on 4 KV heads of 64 and of 128 over 1024 tokens whose keys have three pairs of
outlier channels, as trained models do. KL is of the attention weights that the stored keys give, from those of the
float keys; error is that of the output, relative to its size.

``stream``: stories260K, trained on 512 tokens, reads one text of 24 windows: with 4 sinks, without, and with all of the
text in sight. ``anew`` computes the last window afresh for each token, which is what a stream is to come near to.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from bench.datasets import DATA_ROOT
from bench.harness import Row, machine, print_table, write_json
from bench.peers import Array
from edgekern.errors import EdgekernWarning

HEADS, KV_HEADS, TOKENS, QUERIES = 32, 4, 1024, 16
OUTLIER_PAIRS, OUTLIER_SIZE = 3, 8.0
FORMATS: dict[str, dict[str, Any]] = {
    "float16": {"kv": "float16"},
    "int8": {"kv": "int8"},
    "k8v4": {"kv": "k8v4"},
    "k8v4, V symmetric": {"k": "int8", "v": ek.KVFormat("int4", 64)},
    "int4": {"kv": "int4"},
    "int4, K not rotated": {"k": ek.KVFormat("int4", 32, False), "v": ek.KVFormat("int4", 32, False)},
    "article": {"kv": "article"},
}
WINDOW, SINKS, WINDOWS, EVERY = 128, 4, 24, 8
HEAD_COLUMNS = {"head_dim": "d", "format": "s", "bits": ".2f", "kl": ".5f", "top1": ".1%", "error": ".2%"}
STREAM_COLUMNS = {"text": "s", "perplexity": ".3f", "over anew": "+.1%"}


def outlier_heads(dim: int) -> tuple[Array, Array, Array]:
    """q, k (rotated by their positions) and v: (tokens, heads, dim); the same few channels of k stand out."""
    rng = np.random.default_rng(dim)
    q, k, v = (rng.normal(size=(TOKENS, heads, dim)) for heads in (HEADS, KV_HEADS, KV_HEADS))
    half = dim // 2
    for head in range(KV_HEADS):
        pairs = rng.choice(half, OUTLIER_PAIRS, replace=False)
        k[:, head, [*pairs, *(pairs + half)]] += OUTLIER_SIZE * rng.choice((-1, 1), 2 * OUTLIER_PAIRS)
    angle = np.arange(TOKENS)[:, None, None] * 10000.0 ** (-np.arange(half) / half)

    def turned(x: npt.NDArray[np.float64]) -> Array:
        a, b = x[..., :half], x[..., half:]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
        ).astype(np.float32)

    return turned(q), turned(k), v.astype(np.float32)


def _weights(q: Array, k: Array) -> npt.NDArray[np.float64]:
    """Attention of the last queries over all tokens that each sees: (heads, queries, tokens)."""
    wide = np.repeat(k.astype(np.float64), HEADS // KV_HEADS, axis=1)
    scores = np.einsum("qhd,thd->hqt", q[-QUERIES:].astype(np.float64), wide) / np.sqrt(q.shape[2])
    behind = np.arange(TOKENS) > np.arange(TOKENS - QUERIES, TOKENS)[:, None]
    scores = np.where(behind, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def heads(dim: int) -> list[Row]:
    q, k, v = outlier_heads(dim)
    exact = _weights(q, k)
    wanted = np.einsum("hqt,thd->qhd", exact, np.repeat(v.astype(np.float64), HEADS // KV_HEADS, axis=1))
    rows: list[Row] = []
    for name, options in FORMATS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EdgekernWarning)
            cache = ek.RingKVCache(
                num_layers=1, num_kv_heads=KV_HEADS, num_heads=HEADS, head_dim=dim, window=TOKENS, **options
            )
        cache.append(k[None], v[None])
        stored = _weights(q, np.stack([cache.keys(0, token) for token in range(TOKENS)]))
        seen = exact > 0
        ratio = np.log(exact, where=seen, out=np.zeros_like(exact)) - np.log(
            stored, where=seen, out=np.zeros_like(exact)
        )
        error = cache.attend(0, q[-QUERIES:]) - wanted
        rows.append(
            {
                "record": "heads",
                "head_dim": dim,
                "format": name,
                "bits": 8 * cache.bytes_per_token / (2 * KV_HEADS * dim),
                "kl": float((exact * ratio).sum(axis=-1).mean()),
                "top1": float((exact.argmax(axis=-1) == stored.argmax(axis=-1)).mean()),
                "error": float(np.sqrt(np.square(error).sum() / np.square(wanted).sum())),
            }
        )
    return rows


def stream() -> tuple[list[Row], dict[str, npt.NDArray[np.float64]]]:
    """Rows of perplexity past the first window, and -log p at every EVERY-th token by how the text was read."""

    def load(**options: Any) -> ek.llm.Decoder:
        folder = DATA_ROOT / "llm"
        model, tokenizer = folder / "stories260K.bin", folder / "tok512.bin"
        return ek.llm.load(model, tokenizer=tokenizer, weights="float32", kv="float32", **options)

    again = load()
    text = (DATA_ROOT / "text" / "tinystories.txt").read_text(encoding="utf-8").replace("<|endoftext|>", "")
    ids = again.encode(text[: 8 * WINDOW * WINDOWS])[: WINDOW * WINDOWS + 1]
    at = np.arange(WINDOW + SINKS, len(ids) - 1, EVERY)
    anew = []
    for end in at:
        again.cache.reset()
        row = again.prefill([*ids[:1], *ids[end - WINDOW - SINKS + 2 : end + 1]]).astype(np.float64)
        anew.append(np.log(np.exp(row - row.max()).sum()) - (row[ids[end + 1]] - row.max()))
    losses = {
        "anew": np.array(anew),
        f"{SINKS} sinks": load(window=WINDOW, sinks=SINKS).cross_entropies(ids)[at],
        "no sinks": load(window=WINDOW + SINKS, sinks=0).cross_entropies(ids)[at],
        "no window": load(window=len(ids), sinks=0).cross_entropies(ids)[at],
    }
    base = losses["anew"].mean()
    rows: list[Row] = [
        {
            "record": "stream",
            "text": name,
            "perplexity": float(np.exp(loss.mean())),
            "over anew": float(np.exp(loss.mean() - base) - 1),
        }
        for name, loss in losses.items()
    ]
    return rows, losses


def draw(losses: dict[str, npt.NDArray[np.float64]], path: Path) -> None:
    """Perplexity over that of the window computed anew, two windows at a time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    each = 2 * WINDOW // EVERY
    means = {name: loss[: len(loss) // each * each].reshape(-1, each).mean(axis=1) for name, loss in losses.items()}
    for name, color in ((f"{SINKS} sinks", "#0b6e99"), ("no sinks", "#c2571a"), ("no window", "#888888")):
        ratio = np.exp(means[name] - means["anew"])
        axes.plot(2 + 2 * np.arange(len(ratio)), ratio, marker="o", markersize=3, label=name, color=color)
    axes.axhline(1, color="#555555", linewidth=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xlabel(f"windows of {WINDOW} tokens that have gone by")
    axes.set_ylabel("perplexity over the window's anew")
    axes.set_title("stories260K (trained on 512 tokens) reads a text without end")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m bench formats", description=__doc__)
    options.add_argument("--plot", type=Path, help="draw the stream's perplexity to this file")
    options.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    given = options.parse_args(argv)
    rows = [row for dim in (64, 128) for row in heads(dim)]
    print_table(rows, HEAD_COLUMNS)
    if DATA_ROOT.is_dir():
        found, losses = stream()
        print_table(found, STREAM_COLUMNS)
        rows += found
        if given.plot is not None:
            draw(losses, given.plot)
    else:
        print(f"stream: left out, {DATA_ROOT} is absent")
    write_json(given.json, [{"record": "run", "bench": "formats", **machine()}, *rows])
    return 0
