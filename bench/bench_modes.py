"""Precisions of one model in one file, beside a file each: ``python -m bench modes [NAME=MODEL ...] [--threads 1 2]
[--switches 1000] [--json rows.jsonl]``.

``MODEL`` is an .onnx or .ekm; without any, the digits that come with the package, rows quantized as they come and in
float32. A row for each number of threads and mode: microseconds that a switch takes, a run behind it, and the same run
of the single file, both right after a run of another mode; and what opening the single file takes, which a switch would
be otherwise. Medians of runs that take turns; outputs are compared to the byte first. A second table has bytes: of each
file, of all in one, and of what is apart in each: its header, its index, and blobs that no file above has.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import edgekern as ek
from bench.harness import Row, machine, print_table, write_json
from edgekern.file_kinds import kind_of_file
from edgekern.runtime import random_feeds

PACKAGES = ("numpy", "onnx")
TIMES = {
    "threads": "d",
    "switch_us": ".2f",
    "switch_max_us": ".1f",
    "mode": "s",
    "run_ms": ".3f",
    "single_ms": ".3f",
    "open_ms": ".2f",
    "same_bits": "s",
}
BYTES = {"file": "s", "bytes": ",d", "blobs": "d", "apart_bytes": ",d"}
_FEWEST = 30


def programs(given: Sequence[str]) -> dict[str, ek.Program]:
    if not given:
        from edgekern import quickstart

        quantized = ek.quantize(quickstart.MODEL, None, ek.QuantConfig(recipe="w8a8-dynamic"))
        return {"performance": ek.compile(quantized), "accuracy": ek.compile(quickstart.MODEL)}
    pairs = [text.partition("=")[::2] for text in given]
    return {
        name: ek.Program.load(path) if kind_of_file(path) == "ekm" else ek.compile(Path(path)) for name, path in pairs
    }


def timed(both: ek.Program, alone: Mapping[str, ek.Program], threads: int, switches: int) -> list[Row]:
    feeds = random_feeds(both.inputs)
    session = ek.InferenceSession(both, num_threads=threads)
    singles = {name: ek.InferenceSession(one, num_threads=threads) for name, one in alone.items()}
    for name, single in singles.items():
        wanted, got = single.run(None, feeds), session.run(None, feeds, mode=name)
        assert [y.tobytes() for y in wanted] == [y.tobytes() for y in got], name
    names = list(singles)
    took = []
    for number in range(switches):
        name = names[number % len(names)]
        start = time.perf_counter_ns()
        session.mode = name
        took.append(time.perf_counter_ns() - start)
    rows = list[Row]()
    for name, single in singles.items():
        runs: dict[str, list[int]] = {"run": [], "single": [], "open": []}
        for _ in range(_FEWEST):
            _others(session, names, name, feeds)
            start = time.perf_counter_ns()
            session.mode = name
            session.run(None, feeds)
            runs["run"].append(time.perf_counter_ns() - start)
            _others(session, names, name, feeds)
            start = time.perf_counter_ns()
            single.run(None, feeds)
            runs["single"].append(time.perf_counter_ns() - start)
            start = time.perf_counter_ns()
            ek.InferenceSession(alone[name], num_threads=threads)
            runs["open"].append(time.perf_counter_ns() - start)
        figures = {f"{what}_ms": float(np.median(times)) / 1e6 for what, times in runs.items()}
        rows.append(
            {
                "threads": threads,
                "switch_us": float(np.median(took)) / 1e3,
                "switch_max_us": max(took) / 1e3,
                "mode": name,
                **figures,
                "same_bits": "yes",
            }
        )
    return rows


def _others(session: ek.InferenceSession, names: Sequence[str], name: str, feeds: Mapping[str, Any]) -> None:
    for other in names:
        if other != name:
            session.run(None, feeds, mode=other)


def sizes(both: ek.Program, alone: Mapping[str, ek.Program]) -> list[Row]:
    known: set[bytes] = set()
    rows = list[Row]()
    for name, one in alone.items():
        apart = sum(blob.bytes for blob in one.index.blobs if blob.sha256 not in known)
        known |= {blob.sha256 for blob in one.index.blobs}
        apart += one.container.start + one.index.blobs[0].offset
        rows.append({"file": name, "bytes": one.nbytes, "blobs": len(one.index.blobs), "apart_bytes": apart})
    return [*rows, {"file": "all in one", "bytes": both.nbytes, "blobs": len(both.index.blobs), "apart_bytes": 0}]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench modes", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if any("=" not in text for text in options.models) or len(options.models) == 1:
        parser.error("give two models or more as NAME=MODEL")
    alone = programs(options.models)
    both = ek.compile_modes(alone)
    rows = [row for threads in options.threads for row in timed(both, alone, threads, options.switches)]
    print_table(rows, TIMES)
    held = sizes(both, alone)
    print_table(held, BYTES)
    first, *others = list(alone)
    apart = sum(cast(int, row["apart_bytes"]) for row in held[1:-1])
    print(f"all in one: {both.nbytes - alone[first].nbytes:,} bytes more than {first}; apart in {others} are {apart:,}")
    facts = machine(PACKAGES)
    write_json(options.json, [{**facts, **row} for row in (*rows, *held)])
    return 0
