"""Many callers of one session: ``python -m bench callers [--threads 1 2] [--json run.json]``.

32 callers of a Batcher give one row at a time; beside it stand callers, one an arena, that run whole batches of 8: what
the batcher loses is stacking, handing back, and waking. ``--threads`` is the number of arenas, of one thread each.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Thread

import numpy as np
import onnx

import edgekern as ek
from bench.bench_models import DIGITS, quantized
from bench.datasets import DATA_ROOT
from bench.harness import Contender, Row
from bench.peers import Array, equals
from bench.suite import Case, Plan, Result, parser, run

CALLERS, ROWS = 32, 8
MODELS = {"mobilenetv2": 4, DIGITS: 100}  # requests of each caller
WHOLE = "whole_batches"


def _all_at_once(count: int, call: Callable[[], Array], times: int) -> Array:
    """The last result of any of so many callers."""
    results: list[Array] = []

    def loop() -> None:
        for _ in range(times - 1):
            call()
        results.append(call())

    threads = [Thread(target=loop) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results[-1]


def _case(name: str, arenas: int) -> Case:
    model, sample = quantized(name)
    key = onnx.load_model_from_string(model).graph.input[0].name
    one = np.ascontiguousarray(sample)
    rows = np.repeat(one, ROWS, axis=0)
    session = ek.InferenceSession(ek.compile(model, batch=ROWS, allow_host=False), num_threads=1, arenas=arenas)
    batcher, requests = ek.Batcher(session), MODELS[name]
    batches = CALLERS * requests // ROWS // arenas
    [expected] = session.run(None, {key: rows})

    def single() -> Array:
        return batcher.run(None, {key: one})[0]

    def whole() -> Array:
        return session.run(None, {key: rows})[0]

    return Case(
        f"{CALLERS} callers of a batcher",
        name,
        [
            Contender(
                "edgekern",
                partial(_all_at_once, CALLERS, single, requests),
                equals(expected[:1]),
                calls=CALLERS * requests,
            ),
            Contender(
                WHOLE, partial(_all_at_once, arenas, whole, batches), equals(expected), calls=arenas * batches * ROWS
            ),
        ],
        references=(WHOLE,),
    )


def cases(arenas: int, *, quick: bool) -> Iterator[Plan]:
    for name in (DIGITS,) if quick else MODELS:
        yield name, partial(_case, name, arenas)


def figures(results: Sequence[Result]) -> Row:
    """The rows a second of a batcher over those of whole batches."""
    return {
        f"{result.case.name}: of whole batches' throughput": result.timings[WHOLE].best
        / result.timings["edgekern"].best
        for result in results
    }


def main(argv: Sequence[str]) -> int:
    arguments = parser("callers", __doc__)
    options = arguments.parse_args(argv)
    if not options.quick and not DATA_ROOT.is_dir():
        arguments.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    run("callers", options, lambda threads: cases(threads, quick=options.quick), figures)
    return 0
