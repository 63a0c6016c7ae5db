"""What opening a program costs: ``python -m bench load [--threads 1 2] [--json run.json]``.

The core holds a file in memory to its format and hashes (``edgekern``); the peer only hashes the same blobs with
Python's hashlib, which is OpenSSL, one after another. ``lazy`` is the same check without the hashes of blobs. A disk is
not measured.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import edgekern as ek
from bench.harness import Contender, Row
from bench.peers import Array
from bench.suite import Case, Plan, Result, parser, run
from edgekern import _core
from edgekern.artifact import container

LAZY = "lazy"
MIB = 1 << 20
SIZES = ((8, 64 << 10), (8, MIB), (8, 8 * MIB), (1, 64 * MIB))  # blobs, bytes of each


def file(blobs: int, nbytes: int) -> Array:
    """A program without steps, with blobs that no step names."""
    index = _core.ProgramIndex(producer="bench", segments=[_core.Segment(begin=0, end=0)])
    rng = np.random.default_rng([blobs, nbytes])
    return container.build(index, [(f"{i}.blob", rng.bytes(nbytes)) for i in range(blobs)], {"ekm.producer": "bench"})


def _equals(expected: Any) -> Any:
    def check(found: Any) -> None:
        assert found == expected

    return check


def _case(blobs: int, nbytes: int, threads: int) -> Case:
    ek.set_num_threads(threads)
    data = file(blobs, nbytes)
    opened = container.check(data, "the file", "full")
    places = [opened.view(blob.name) for blob in opened.index.blobs]
    digests = [blob.sha256 for blob in opened.index.blobs]
    return Case(
        "opening",
        f"{blobs} x {nbytes >> 10} KiB",
        [
            Contender("edgekern", lambda: _core.open_container(data, "it", True)[0], _equals(opened.index)),
            Contender("hashlib", lambda: [hashlib.sha256(place).digest() for place in places], _equals(digests)),
            Contender(LAZY, lambda: _core.open_container(data, "it", False)[0], _equals(opened.index)),
        ],
        references=(LAZY,),
    )


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for blobs, nbytes in SIZES[:1] if quick else SIZES:
        yield f"{blobs} x {nbytes >> 10} KiB", partial(_case, blobs, nbytes, threads)


def figures(results: Sequence[Result]) -> Row:
    """GB/s of the whole check."""
    sizes = {f"{blobs} x {nbytes >> 10} KiB": blobs * nbytes for blobs, nbytes in SIZES}
    return {
        f"{result.case.name}: GB/s": sizes[result.case.name] / result.timings["edgekern"].best / 1e9
        for result in results
    }


def main(argv: Sequence[str]) -> int:
    options, before = parser("load", __doc__).parse_args(argv), ek.get_num_threads()
    try:
        run("load", options, lambda threads: cases(threads, quick=options.quick), figures)
    finally:
        ek.set_num_threads(before)
    return 0
