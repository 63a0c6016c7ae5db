"""The loop that all benches share: limits before and after every case, answers first, a table, JSON lines.

A case whose limits drifted, or in which somebody beat them, is measured again, and once more when all others are done:
a loud minute is over by then. If that does not help it is marked void, and so is the run.
"""

import argparse
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import edgekern as ek
from bench.harness import Contender, Row, Timing, machine, measure, print_table, rest, write_json
from bench.limits import Probe, Sample, last_level_cache_bytes, void_reasons
from bench.peers import PACKAGES, peer_threads
from bench.shapes import FASTEST_PEER
from edgekern import _core
from edgekern.calibration.progress import progress_bar

ATTEMPTS = 3
# Rotated weights fill so many last-level caches, and so does what the bandwidth is measured on. With four of them a
# part survives in the cache: two cores then seem to read half as much again as memory gives.
CACHES_TO_FILL = 8
TIE = 0.03


@dataclass(frozen=True)
class Case:
    """One row: everybody who does the same work.

    Attributes
    ----------
    group : rows that share a geometric mean
    operations : of one call, two a multiply-add; 0 where they are not counted
    rotated : weights come from memory, a fresh copy every call
    known_shares : the part of the peak that a peer, or the fastest of them, is known to reach
    references : contenders timed for comparison, neither ours nor peers
    rounds : at least so many; fewer where a call takes seconds
    """

    group: str
    name: str
    contenders: Sequence[Contender]
    operations: int = 0
    rotated: bool = False
    known_shares: Mapping[str, float] = field(default_factory=dict)
    references: Sequence[str] = ()
    rounds: int = 7


@dataclass(frozen=True)
class Result:
    """A measured case; its contenders are gone, ``read_bytes`` says how many bytes of weights each read in a call."""

    case: Case
    timings: Mapping[str, Timing]
    read_bytes: Mapping[str, int]
    before: Sample
    after: Sample
    void: Sequence[str]
    attempts: int
    threads: int

    @property
    def ours(self) -> str:
        """The slowest of our own contenders: that one counts."""
        return max(filter(is_ours, self._compared), key=lambda name: self.timings[name].best)

    @property
    def read_share(self) -> float:
        """The part of the read bandwidth at which our weights were read."""
        limit = max(self.before.bytes_per_second, self.after.bytes_per_second)
        return self.read_bytes[self.ours] / self.timings[self.ours].best / limit

    @property
    def _compared(self) -> list[str]:
        return [name for name in self.timings if name not in self.case.references]

    @property
    def best_peer(self) -> str | None:
        peers = [name for name in self._compared if not is_ours(name)]
        return min(peers, key=lambda name: self.timings[name].best, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times faster than the fastest peer, best of all rounds against best of all rounds."""
        peer = self.best_peer
        return None if peer is None else self.timings[peer].best / self.timings[self.ours].best


def is_ours(name: str) -> bool:
    return name.startswith("edgekern")


def copies_beyond_cache(weight_bytes: int) -> int:
    """How many copies of these weights to rotate through, so that each call reads memory."""
    return max(2, math.ceil(CACHES_TO_FILL * last_level_cache_bytes() / weight_bytes))


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog=f"python -m bench {name}", description=description)
    result.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads to measure")
    result.add_argument("--seconds", type=float, default=0.15, help="time per contender and case")
    result.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these")
    result.add_argument("--json", type=Path, help="append one JSON object a case to this file")
    result.add_argument("--quick", action="store_true", help="small cases, short samples: does it work, not how fast")
    return result


# A case by name, and how to set it up; what it holds is freed after its turn.
Plan = tuple[str, Callable[[], Case]]


def run(
    bench: str,
    options: argparse.Namespace,
    cases: Callable[[int], Iterable[Plan]],
    facts: Callable[[Sequence[Result]], Row] = lambda results: {},
    peak: Callable[[str, int, float], float] = _core.measure_dot_peak,
) -> list[Result]:
    """Measure all cases for every number of threads, print them, and append them to the JSON file.

    Parameters
    ----------
    cases : given a number of threads, what to measure
    facts : further figures from all results of one number of threads, printed and kept with the summary
    peak : what the operations of a case are held against
    """
    host = {"edgekern": ek.__version__, **machine(PACKAGES)}
    header: Row = {"record": "run", "bench": bench, "threads": options.threads, "quick": options.quick, **host}
    print(*(f"{key}: {fact}" for key, fact in host.items()), sep="; ")
    write_json(options.json, [header])
    isa, everything = str(ek.cpu_info()["isa"]), []
    for threads in options.threads:
        memory = (8 << 20) if options.quick else CACHES_TO_FILL * last_level_cache_bytes()
        probe = Probe(isa, threads, memory, seconds=0.005 if options.quick else 0.05, peak=peak)
        with peer_threads(threads):
            results = _measure_all(bench, cases(threads), probe, options)
        summaries = list(_summaries(bench, threads, results))
        print_results(results, probe)
        for summary in summaries:
            print(
                "; ".join(f"{key}: {_short(value)}" for key, value in summary.items() if key not in ("record", "bench"))
            )
        for result in results:
            for reason in result.void:
                print(f"VOID {result.case.name} ({result.case.group}): {reason}")
        if any(result.void for result in results):
            print(f"THIS RUN IS VOID: {sum(bool(r.void) for r in results)} of {len(results)} rows must not be quoted")
        figures = facts(results)
        for key, value in figures.items():
            print(f"{key}: {_short(value)}")
        write_json(options.json, [*summaries, {"record": "facts", "bench": bench, "threads": threads, **figures}])
        everything += results
    return everything


def _measure_all(bench: str, cases: Iterable[Plan], probe: Probe, options: argparse.Namespace) -> list[Result]:
    """Results in the order of the cases; the JSON file gets them as they come, and the last one of a case counts."""
    plans = [plan for plan in cases if not options.only or any(text in plan[0] for text in options.only)]
    results: dict[int, Result] = {}

    def measure_cases(what: list[int], description: str) -> None:
        with progress_bar(description, len(what), enabled=True, ticking=False) as step:
            for i in what:
                result = _measure(plans[i][1], probe, options)
                so_far = results[i].attempts if i in results else 0
                results[i] = replace(result, attempts=so_far + result.attempts)
                write_json(options.json, [_record(bench, results[i], probe)])
                step()

    measure_cases(list(range(len(plans))), f"{bench}, {probe.threads} thread(s)")
    void = [i for i, result in results.items() if result.void]
    if void and not options.quick:
        measure_cases(void, "void rows again")
    return list(results.values())


def _measure(build: Callable[[], Case], probe: Probe, options: argparse.Namespace) -> Result:
    case = build()
    contenders = list(_right_ones(case))
    rounds = min(case.rounds, 3) if options.quick else case.rounds
    read = {contender.name: contender.read_bytes for contender in contenders}
    rest()
    before = probe.sample()
    for attempt in range(1, ATTEMPTS + 1):
        reads = [0.0]  # bandwidth wanders within a second: take it in every round, too
        sample_reads = partial(_append_read, reads, probe) if case.rotated else _nothing
        timings = measure(contenders, seconds=options.seconds, min_rounds=rounds, each_round=sample_reads)
        rest()
        after = probe.sample()
        after = replace(after, bytes_per_second=max(after.bytes_per_second, *reads))
        void = _void(case, timings, read, before, after)
        result = Result(replace(case, contenders=()), timings, read, before, after, void, attempt, probe.threads)
        before = after
        if not void or options.quick:
            break
    del case, contenders
    gc.collect()
    return result


def _append_read(reads: list[float], probe: Probe) -> None:
    reads.append(probe.read())


def _nothing() -> None:
    pass


def _right_ones(case: Case) -> Iterator[Contender]:
    """Leave out peers whose answer is wrong, and say so; a wrong answer of ours ends the run."""
    for contender in case.contenders:
        try:
            contender.check(contender.run())
        except AssertionError:
            if is_ours(contender.name):
                raise
            print(f"{case.name}: {contender.name} gives a wrong answer and is left out")
        else:
            yield contender


def _void(
    case: Case, timings: Mapping[str, Timing], read: Mapping[str, int], before: Sample, after: Sample
) -> list[str]:
    rates = {name: case.operations / timing.best for name, timing in timings.items()}
    bandwidths = {name: read[name] / timing.best for name, timing in timings.items()} if case.rotated else {}
    peers = {name: rate for name, rate in rates.items() if not is_ours(name)}
    peers[FASTEST_PEER] = max(peers.values(), default=0.0)
    known = {name: (peers[name], share) for name, share in case.known_shares.items() if name in peers}
    return void_reasons(before, after, rates, bandwidths, known)


def geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _summaries(bench: str, threads: int, results: Sequence[Result]) -> Iterator[Row]:
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [result for result in results if result.case.group == group]
        ratios = [row.ratio for row in rows if row.ratio is not None]
        yield {
            "record": "summary",
            "bench": bench,
            "group": group,
            "threads": threads,
            "rows": len(rows),
            "geometric_mean": geometric_mean(ratios),
            "lowest": min(ratios, default=None),
            "losing": [row.case.name for row in rows if row.ratio is not None and row.ratio < 1],
            "losing_beyond_tie": [row.case.name for row in rows if row.ratio is not None and row.ratio < 1 - TIE],
            "void": [row.case.name for row in rows if row.void],
        }


def _record(bench: str, result: Result, probe: Probe) -> Row:
    case = result.case
    return {
        "record": "case",
        "bench": bench,
        "group": case.group,
        "case": case.name,
        "threads": probe.threads,
        "isa": probe.isa,
        "rotated": case.rotated,
        "operations": case.operations,
        "read_bytes": dict(result.read_bytes),
        "before": asdict(result.before),
        "after": asdict(result.after),
        "read_streams": probe.streams[0],
        "attempts": result.attempts,
        "void": list(result.void),
        "ours": result.ours,
        "best_peer": result.best_peer,
        "ratio": result.ratio,
        "%peak": peak_percent(result),
        "%limit": limit_percent(result, probe),
        "%read": 100 * result.read_share if case.rotated else None,
        "timings": {name: asdict(timing) for name, timing in result.timings.items()},
    }


def peak_percent(result: Result) -> float | None:
    """Our share of the peak, best of all rounds."""
    peak = max(result.before.operations_per_second, result.after.operations_per_second)
    rate = result.case.operations / result.timings[result.ours].best
    return 100 * rate / peak if result.case.operations else None


def limit_percent(result: Result, probe: Probe) -> float | None:
    """Our share of what binds: arithmetic, or reading the weights once from where they live."""
    size = result.read_bytes.get(result.ours, 0)
    if not result.case.operations or not size:
        return None
    peak = max(result.before.operations_per_second, result.after.operations_per_second)
    read = max(result.before.bytes_per_second, result.after.bytes_per_second)
    if not result.case.rotated:
        read = probe.cached_bytes_per_second(size)
    return 100 * max(result.case.operations / peak, size / read) / result.timings[result.ours].best


def print_results(results: Sequence[Result], probe: Probe) -> None:
    """One table a group: TOPS where operations are counted, microseconds elsewhere."""
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [result for result in results if result.case.group == group]
        counted = all(row.case.operations for row in rows)
        everyone = list(dict.fromkeys(name for row in rows for name in row.timings))
        lines = [
            {
                "case": row.case.name,
                "us": row.timings[row.ours].best * 1e6,
                "%peak": peak_percent(row),
                "%limit": limit_percent(row, probe),
                "best peer": row.best_peer,
                "ratio": row.ratio,
                "": "void" if row.void else "",
                **{
                    name: row.case.operations / timing.best / 1e12 if counted else timing.best * 1e6
                    for name, timing in row.timings.items()
                },
            }
            for row in rows
        ]
        peak = max(row.after.operations_per_second for row in rows) / 1e12
        read = max(row.after.bytes_per_second for row in rows) / 1e9
        print(
            f"\n{group}, {probe.threads} thread(s), {probe.isa}: peak {peak:.3f} TOPS, reading {read:.1f} GB/s;", end=""
        )
        print(f" best of all rounds, {'TOPS' if counted else 'microseconds'} by contender")
        columns = {"case": "", "us": ".1f", "%peak": ".0f", "%limit": ".0f", "best peer": "", "ratio": ".2f", "": ""}
        print_table(lines, columns | dict.fromkeys(everyone, ".3f" if counted else ".1f"))


def _short(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value
