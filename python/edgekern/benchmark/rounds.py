"""Contenders timed in turns, run by run, so that drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST_ROUNDS, MOST_ROUNDS = 5, 20
# Threads spin for a while after their work, onnxruntime's for 50 ms, on the core that the next one needs.
_PAUSE_S, _REST_S, _STILL = 0.005, 0.2, 0.2
_LEAST_WARM_UP_S, _MOST_WARM_UP_S = 0.002, 0.03  # a core that has rested is slow, and its caches are others'
_MOST_RUNS = 100_000  # of one contender: what is kept of each is its time

RULE = (
    "rule: outputs are compared first; then {rounds} rounds, in each of which all take turns and another one begins; "
    "a turn begins when no thread of the process is busy, with runs that are not timed; a ratio is the median of the "
    "rounds' ratios of medians"
)


@dataclass(frozen=True)
class Timing:
    """Times of one contender.

    Attributes
    ----------
    p50_us, p95_us, p99_us : microseconds of a run
    runs : that were timed
    medians_us : of each round
    """

    p50_us: float
    p95_us: float
    p99_us: float
    runs: int
    medians_us: tuple[float, ...]

    @property
    def runs_per_s(self) -> float:
        return 1e6 / self.p50_us


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one contender is as another: the median of the rounds, the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def ratio(ours: Timing, other: Timing) -> Ratio:
    """Above 1 where ``ours`` takes less time; both are of the same rounds."""
    rounds = np.divide(other.medians_us, ours.medians_us)
    return Ratio(float(np.median(rounds)), float(rounds.min()), float(rounds.max()))


def rest() -> None:
    """Sleep until no thread of this process is busy, for a fifth of a second at most."""
    end = time.perf_counter() + _REST_S
    busy = _PAUSE_S
    while busy > _STILL * _PAUSE_S and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_PAUSE_S)
        busy = time.process_time() - before


def timed(
    contenders: Mapping[str, Callable[[], object]],
    *,
    runs: int | None,
    seconds: float,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time every run of some callables.

    Parameters
    ----------
    contenders : by name
    runs : of each that are timed; None is as many as take ``seconds``, at least one in each of five rounds
    seconds : of each contender, warm-ups and rests not counted
    advance : called :data:`MOST_ROUNDS` times
    """
    counts = {name: runs or _runs_of(run, seconds) for name, run in contenders.items()}
    rounds = min(MOST_ROUNDS, *counts.values())
    turn = list(contenders)
    samples: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in turn:
            count = counts[name] // rounds + (number < counts[name] % rounds)
            rest()
            samples[name].append(_sample(contenders[name], count))
        turn = turn[1:] + turn[:1]
        for _ in range(MOST_ROUNDS * (number + 1) // rounds - MOST_ROUNDS * number // rounds):
            advance()
    return {name: _timing(parts) for name, parts in samples.items()}


def _runs_of(run: Callable[[], object], seconds: float) -> int:
    took = int(_sample(run, 2)[-1])
    return min(max(FEWEST_ROUNDS, int(seconds * 1e9 / max(took, 1))), _MOST_RUNS)


def _sample(run: Callable[[], object], count: int) -> npt.NDArray[np.int64]:
    """Nanoseconds of each run, behind some that bring caches and threads to where they are in a loop."""
    clock, begin, done = time.perf_counter_ns, time.perf_counter(), 0
    while (took := time.perf_counter() - begin) < _MOST_WARM_UP_S and (took < _LEAST_WARM_UP_S or done < count):
        run()
        done += 1
    times = np.empty(count, np.int64)
    for at in range(count):
        start = clock()
        run()
        times[at] = clock() - start
    return times


def _timing(parts: Sequence[npt.NDArray[np.int64]]) -> Timing:
    every = np.concatenate(parts) / 1e3
    p50, p95, p99 = np.percentile(every, (50, 95, 99))
    medians = tuple(float(np.median(part)) / 1e3 for part in parts)
    return Timing(float(p50), float(p95), float(p99), len(every), medians)
