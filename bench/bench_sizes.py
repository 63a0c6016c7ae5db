"""Programs of several sizes beside programs of one: ``python -m bench sizes MODEL.onnx [--batch 1,2,4,8]
[--shape seq=16|128|512] [--threads 1 2] [--every seq] [--json rows.jsonl]``.

A row for each combination of sizes: the same run on the program that has all of them and on one compiled for this
combination alone, interleaved; of rows that are independent, the largest batch beside as many runs of one. Outputs are
compared to the byte first. ``--every NAME`` compiles a program for every size of one dimension up to the largest, with
the smallest of the others, and compares the outputs of each.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from bench.harness import Contender, Row, in_turn, machine, measure, print_table, write_json
from edgekern.artifact.buckets import Buckets
from edgekern.calibration.progress import progress_bar
from edgekern.cli.data import read_shapes, read_sizes
from edgekern.compiler.draws import all_feeds

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
PACKAGES = ("numpy", "onnx")
COLUMNS = {"threads": "d", "sizes": "s", "alone_ms": ".3f", "several_ms": ".3f", "ratio": ".3f"}


def one_size(model: Path, buckets: Buckets, sizes: Sequence[int], asked: Mapping[str, Any]) -> ek.Program:
    """Compiled for one combination alone."""
    batch, shapes = 1, dict(asked)
    for one, size in zip(buckets.dimensions, sizes, strict=True):
        if one.name == "batch" and one.name not in asked:
            batch = size
        else:
            shapes[one.name] = size
    program: ek.Program = ek.compile(model, batch=batch, shapes=shapes or None)
    return program


def same(wanted: Sequence[Array], got: Sequence[Array]) -> None:
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def timed(model: Path, program: ek.Program, asked: Mapping[str, Any], threads: int) -> list[Row]:
    buckets, rows = program.buckets, list[Row]()
    assert buckets is not None
    session = ek.InferenceSession(program, num_threads=threads)
    for number in range(buckets.combinations):
        sizes = buckets.sizes(number)
        alone = ek.InferenceSession(one_size(model, buckets, sizes, asked), num_threads=threads)
        feeds = next(all_feeds(alone.program.inputs, buckets))
        rows.append(_row(", ".join(map(str, sizes)), threads, session, feeds, alone, [feeds]))
    if any(one.rows for one in buckets.dimensions):
        largest = buckets.combinations - 1
        feeds = next(all_feeds(program.variants[largest].inputs, buckets))
        count = next(one.sizes[-1] for one in buckets.dimensions if one.rows)
        single = [
            {name: array[i : i + 1] if buckets.inputs.get(name) else array for name, array in feeds.items()}
            for i in range(count)
        ]
        sizes = tuple(
            1 if one.rows else size for one, size in zip(buckets.dimensions, buckets.sizes(largest), strict=True)
        )
        alone = ek.InferenceSession(one_size(model, buckets, sizes, asked), num_threads=threads)
        rows.append(_row(f"{count} rows, one by one", threads, session, feeds, alone, single))
    return rows


def _row(
    name: str, threads: int, session: ek.InferenceSession, feeds: Feeds, alone: ek.InferenceSession, each: list[Feeds]
) -> Row:
    wanted = [
        np.concatenate(parts) if len(each) > 1 else parts[0]
        for parts in zip(*(alone.run(None, one) for one in each), strict=True)
    ]
    runs = [lambda one=one: alone.run(None, one) for one in each]
    contenders = [
        Contender("alone", in_turn(runs), lambda _: None),
        Contender("several", lambda: session.run(None, feeds), lambda got: same(wanted, got)),
    ]
    times = {name: timing.best * 1e3 for name, timing in measure(contenders, min_rounds=15).items()}
    ratio = times["several"] / times["alone"]
    return {
        "threads": threads,
        "sizes": name,
        "alone_ms": times["alone"],
        "several_ms": times["several"],
        "ratio": ratio,
    }


def compared(model: Path, program: ek.Program, asked: Mapping[str, Any], name: str) -> str:
    """Every size of a dimension."""
    buckets, session = program.buckets, ek.InferenceSession(program)
    assert buckets is not None
    number = [one.name for one in buckets.dimensions].index(name)
    smallest, largest = list(buckets.sizes(0)), buckets.dimensions[number].sizes[-1]
    with progress_bar("sizes", largest, enabled=True) as advance:
        for size in range(1, largest + 1):
            smallest[number] = size
            alone = ek.InferenceSession(one_size(model, buckets, smallest, asked))
            for feeds in all_feeds(alone.program.inputs, buckets):
                same(alone.run(None, feeds), session.run(None, feeds))
            advance()
    return f"{largest} sizes of {name}: the bytes of a program for each"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench sizes", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--shape", action="append")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--every", metavar="DIMENSION")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    asked = read_shapes("bench", options.shape) or {}
    fixed = {name: size for name, size in asked.items() if isinstance(size, int)}
    program = ek.compile(options.model, batch=read_sizes("bench", options.batch), shapes=asked or None)
    if program.buckets is None:
        parser.error("give several sizes, such as --batch 1,2,4,8")
    single = one_size(options.model, program.buckets, program.buckets.sizes(0), fixed)
    print(
        f"{options.model.name}: {program.buckets}; {program.nbytes / single.nbytes:.4f} of the bytes of one size alone"
    )
    rows = [row for threads in options.threads for row in timed(options.model, program, fixed, threads)]
    print_table(rows, COLUMNS)
    if options.every:
        print(compared(options.model, program, fixed, options.every))
    facts = machine(PACKAGES)
    write_json(options.json, [{**facts, "model": options.model.name, **row} for row in rows])
    return 0
