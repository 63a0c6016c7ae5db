"""Cube against Vector: ``python -m bench cube [--threads 1 2] [--json run.json]``.

One product, [4096, 128] x [128, 4096], sent through the blocked path and through the unblocked one. Each has a roof of
its own: the Cube's is the dot-product peak, because its weights stay in the L2 while rows pass over them; the
Vector path reads all weights again for every few rows, so that reading them from where they live may bind first.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import edgekern as ek
from bench.bench_gemm import exact
from bench.harness import Contender, Row
from bench.limits import Probe
from bench.peers import Array, equals
from bench.shapes import Shape
from bench.suite import Case, Result, parser, run
from edgekern import _core

SHAPE, QUICK_SHAPE = Shape(4096, 4096, 128, "the article's"), Shape(300, 520, 32, "quick")
# Rows that share one reading of the weights: the height of the tallest register tile.
TILE_ROWS = 6
UNITS = ("cube", "vector")


def _operands(shape: Shape) -> tuple[Array, Array]:
    rng = np.random.default_rng(shape.operations)
    return (
        rng.integers(0, 256, (shape.m, shape.k), dtype=np.uint8),
        rng.integers(-128, 128, (shape.k, shape.n), dtype=np.int8),
    )


def _as_unit(unit: str, a: Array, packed: ek.PackedWeights, threads: int, expected: Array) -> Contender:
    out = ek.matmul_integer(a, packed, num_threads=threads)  # begins on a line of 64 bytes, as results of ours do

    def work() -> Array:
        _core.gemm_on_unit(a, packed, out, unit, num_threads=threads)
        return out

    return Contender(f"edgekern_{unit}", work, equals(expected))


def _case(shape: Shape, threads: int) -> Case:
    a, b = _operands(shape)
    packed, expected = ek.pack_weights(b), exact(a, b)
    contenders = [_as_unit(unit, a, packed, threads, expected) for unit in UNITS]
    return Case("one product, two paths", str(shape), contenders, shape.operations)


def figures(shape: Shape, isa: str) -> Callable[[Sequence[Result]], Row]:
    def of(results: Sequence[Result]) -> Row:
        found: dict[str, object] = {}
        for result in results:
            probe = Probe(isa, result.threads, 2 * shape.k * shape.n + (1 << 20), seconds=0.02)
            peak = max(result.before.operations_per_second, result.after.operations_per_second)
            best = {unit: result.timings[f"edgekern_{unit}"].best for unit in UNITS}
            read = math.ceil(shape.m / TILE_ROWS) * shape.k * shape.n
            roofs = {
                "cube": shape.operations / peak,
                "vector": max(shape.operations / peak, read / probe.cached_bytes_per_second(shape.k * shape.n)),
            }
            for unit in UNITS:
                found[f"{unit}: TOPS"] = shape.operations / best[unit] / 1e12
                found[f"{unit}: % of its roof"] = 100 * roofs[unit] / best[unit]
            found["cube over vector"] = best["vector"] / best["cube"]
        return found

    return of


def main(argv: Sequence[str]) -> int:
    options = parser("cube", __doc__).parse_args(argv)
    shape = QUICK_SHAPE if options.quick else SHAPE
    isa = str(ek.cpu_info()["isa"])
    run("cube", options, lambda threads: [(str(shape), partial(_case, shape, threads))], figures(shape, isa))
    return 0
