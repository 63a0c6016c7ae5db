"""Many callers of one session for a long time: what each waits, and whether memory, answers and speed stay."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import byte_count
from edgekern.errors import ArgumentTypeError, ArgumentValueError, MemoryBudgetError
from edgekern.runtime.profile import positive, random_feeds
from edgekern.runtime.session import InferenceSession

Array = npt.NDArray[Any]

FEEDS = 8  # different ones, which callers take in turn
STEPS = 100  # of progress, and readings of memory
_WARM_UP = 100  # runs of each caller, a tenth of them at most
_GROWTH_SHARE, _GROWTH_BYTES = 0.01, 1 << 20  # of what memory grows by chance: the larger
_SLOWER = 0.05  # of the first tenth's p50, from which on the last one is another
_POLL_S = 0.02
_MOST_CALLERS = 1 << 14


@dataclass(frozen=True)
class Stress:
    """What :func:`stress` has measured; ``str()`` is a table.

    Attributes
    ----------
    concurrency, runs : callers, and runs of each
    arenas, num_threads, isa : of the session
    seconds, runs_per_s : of all runs
    p50_ms, p95_ms, p99_ms : of a request behind the warm-up, waiting for its turn included
    alone_ms : p50 of a run with one caller an arena, so that none waits; measured just before and just after
    ideal_ms : what each request takes where a fair queue loses nothing: ``concurrency / arenas * alone_ms``
    warm_up : first runs of each caller that the following figures leave out
    first_p50_ms, last_p50_ms : of a request in the first and the last tenth of the other runs
    drifted : runs whose outputs have other bytes than the first run's of the same feeds
    before_bytes, after_bytes : resident memory, the means of ``readings`` each, in the tenth of the runs behind the
        warm-up and in the last tenth
    growth_bytes, allowed_growth_bytes : of these, and what may be chance: 1 %, at least 1 MiB
    peak_bytes, budget_bytes : the most that the process has had resident, and what it may
    """

    concurrency: int
    runs: int
    arenas: int
    num_threads: int
    isa: str
    seconds: float
    runs_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    alone_ms: float
    ideal_ms: float
    warm_up: int
    first_p50_ms: float
    last_p50_ms: float
    drifted: int
    readings: int
    before_bytes: int
    after_bytes: int
    growth_bytes: int
    allowed_growth_bytes: int
    peak_bytes: int
    budget_bytes: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Which of outputs, memory growth and peak memory are not as they must be."""
        found = {
            "outputs": self.drifted > 0,
            "memory growth": self.growth_bytes > self.allowed_growth_bytes,
            "peak memory": self.peak_bytes > self.budget_bytes,
        }
        return tuple(name for name, failed in found.items() if failed)

    def to_json(self) -> str:
        """All figures, and the failures."""
        return json.dumps({**asdict(self), "failures": self.failures}, indent=1)

    def __str__(self) -> str:
        def fair(ms: float) -> str:
            return f"{ms / self.ideal_ms:.2f} of a fair queue's {self.ideal_ms:.1f} ms"

        def verdict(name: str) -> str:
            return "FAILED" if name in self.failures else "ok"

        change = self.last_p50_ms / self.first_p50_ms - 1
        steady = "ok" if abs(change) <= _SLOWER else "slower" if change > 0 else "faster"
        free = f"{self.arenas / self.alone_ms * 1e3:.1f} where no one waits"
        first = f"{change:+.1%} of the first tenth's; up to 5 % is steady"
        chance = f"at most {_mib(self.allowed_growth_bytes)}: 1 %, at least 1 MiB; means of {self.readings} readings"
        budget = f"at most {_mib(self.budget_bytes)}, of which it is {self.peak_bytes / self.budget_bytes:.1%}"
        changed = f"{self.drifted} of {self.concurrency * self.runs} differ"
        rows = [
            ("", "measured", "beside", ""),
            ("throughput", f"{self.runs_per_s:.1f} runs/s", free, ""),
            ("request, p50", f"{self.p50_ms:.1f} ms", fair(self.p50_ms), ""),
            ("request, p95", f"{self.p95_ms:.1f} ms", fair(self.p95_ms), ""),
            ("request, p99", f"{self.p99_ms:.1f} ms", fair(self.p99_ms), ""),
            ("p50, last tenth", f"{self.last_p50_ms:.1f} ms", first, steady),
            ("outputs", changed, "the bytes of the first run", verdict("outputs")),
            ("memory growth", _mib(self.growth_bytes, "+"), chance, verdict("memory growth")),
            ("peak memory", _mib(self.peak_bytes), budget, verdict("peak memory")),
        ]
        width = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [f"{a:<{width[0]}}  {b:>{width[1]}}  {c:<{width[2]}}  {d}".rstrip() for a, b, c, d in rows]
        on = f"{_count(self.arenas, 'arena')} of {_count(self.num_threads, 'thread')}, {self.isa}"
        head = (
            f"{_count(self.concurrency, 'caller')}, {_count(self.runs, 'run')} each, on {on}: {self.seconds:.1f} s; "
            f"the first {self.warm_up} of each warm up"
        )
        return "\n".join([head, "", *lines])


def memory_budget(function: str, budget: object) -> int:
    """Bytes of "60%", of the memory that this process can have, or of a size as :func:`byte_count` takes it.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When it is neither.
    """
    if not isinstance(budget, str) or not budget.strip().endswith("%"):
        return byte_count(function, "budget", budget)
    try:
        share = float(budget.strip().removesuffix("%"))
    except ValueError:
        share = 0.0
    if not 0 < share <= 100:
        raise ArgumentValueError(f"{function}: budget must be a size or a share in (0%, 100%], got {budget!r}")
    return int(_core.memory_limit() * share / 100)


def stress(
    session: InferenceSession,
    *,
    concurrency: int = 100,
    runs: int = 1000,
    budget: int | str = "60%",
    advance: Callable[[], None] = lambda: None,
) -> Stress:
    """Let callers run a session on random feeds, each as soon as its run before has ended.

    Parameters
    ----------
    session : whose arenas they share
    concurrency, runs : callers, each a thread, and runs of each
    budget : what the process may have resident at most: bytes, a size such as "2G", or a share of the memory that it
        can have such as "60%"
    advance : called :data:`STEPS` times, as the runs go on

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, or the system has no more threads.
    MemoryBudgetError
        When the times of all runs do not fit in the budget.
    EdgekernError
        What a run raises ends all of them.
    """
    if not isinstance(session, InferenceSession):
        raise ArgumentTypeError(f"stress: session must be an InferenceSession, got {type(session).__name__}")
    positive("stress", "concurrency", concurrency)
    positive("stress", "runs", runs)
    budget_bytes = memory_budget("stress", budget)
    if concurrency > _MOST_CALLERS:
        raise ArgumentValueError(f"stress: concurrency must be at most {_MOST_CALLERS}, got {concurrency}")
    if (noted := 8 * concurrency * runs) > budget_bytes:
        raise MemoryBudgetError(
            f"stress: the times of {concurrency * runs} runs take {_mib(noted)}, and the budget is "
            f"{_mib(budget_bytes)}; give fewer runs"
        )
    feeds = [random_feeds(session.program.inputs, seed) for seed in range(FEEDS)]
    expected = [_digests(session.run(None, feed)) for feed in feeds]
    few = session.num_arenas
    alone = [_Callers(session, feeds, expected, few, min(runs, _WARM_UP)) for _ in ("before", "after")]
    callers = _Callers(session, feeds, expected, concurrency, runs)
    alone[0].go(lambda: None)
    readings = callers.go(advance)
    alone[1].go(lambda: None)
    alone_ms = float(np.median([one.times for one in alone])) * 1e3
    warm_up = min(_WARM_UP, runs // 10)
    times = callers.times[:, warm_up:]
    tenth = max(1, times.shape[1] // 10)
    before, after = _windows(readings, warm_up / runs)
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(times, (50, 95, 99)))
    return Stress(
        concurrency=concurrency,
        runs=runs,
        arenas=few,
        num_threads=session.num_threads,
        isa=session.isa,
        seconds=callers.seconds,
        runs_per_s=concurrency * runs / callers.seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        alone_ms=alone_ms,
        ideal_ms=max(1.0, concurrency / few) * alone_ms,
        warm_up=warm_up,
        first_p50_ms=float(np.median(times[:, :tenth])) * 1e3,
        last_p50_ms=float(np.median(times[:, -tenth:])) * 1e3,
        drifted=sum(one.drifted for one in (*alone, callers)),
        readings=min(len(before), len(after)),
        before_bytes=round(np.mean(before)),
        after_bytes=round(np.mean(after)),
        growth_bytes=round(np.mean(after) - np.mean(before)),
        allowed_growth_bytes=max(_GROWTH_BYTES, round(np.mean(before) * _GROWTH_SHARE)),
        peak_bytes=max(_peak_bytes(), *(taken for _, taken in readings)),  # the kernel's own is late by some pages
        budget_bytes=budget_bytes,
    )


class _Callers:
    """Threads that run a session; what they note lies in memory that is there from the start."""

    def __init__(
        self,
        session: InferenceSession,
        feeds: Sequence[dict[str, Array]],
        expected: Sequence[bytes],
        count: int,
        runs: int,
    ) -> None:
        self._session, self._feeds, self._expected = session, feeds, expected
        self.times = np.full((count, runs), np.nan)
        self.seconds = 0.0
        self._done, self._drifted = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._stop, self._errors = threading.Event(), list[BaseException]()

    @property
    def drifted(self) -> int:
        return int(self._drifted.sum())

    def go(self, advance: Callable[[], None]) -> list[tuple[float, int]]:
        """Until all have ended: the share of the runs that was done, and resident bytes, again and again."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(len(self.times))]
        readings: list[tuple[float, int]] = []
        start = time.perf_counter()
        try:
            for number, thread in enumerate(threads):
                try:
                    thread.start()
                except RuntimeError as error:
                    raise ArgumentValueError(
                        f"stress: concurrency must be callers that the system has threads for, {number} here, got "
                        f"{len(threads)}"
                    ) from error
            while len(readings) < STEPS and not self._stop.is_set():
                share = float(self._done.sum()) / self.times.size
                while len(readings) < int(share * STEPS):
                    readings.append((share, resident_bytes()))
                    advance()
                self._stop.wait(_POLL_S)
            for thread in threads:
                thread.join()
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        self.seconds = time.perf_counter() - start
        if self._errors:
            raise self._errors[0]
        return readings

    def _call(self, number: int) -> None:
        try:
            for run in range(self.times.shape[1]):
                if self._stop.is_set():
                    return
                which = (number + run) % len(self._feeds)
                start = time.perf_counter()
                results = self._session.run(None, self._feeds[which])
                self.times[number, run] = time.perf_counter() - start
                self._drifted[number] += _digests(results) != self._expected[which]
                self._done[number] += 1
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()


def _digests(results: Sequence[Array]) -> bytes:
    """Of all bytes of all outputs."""
    found = hashlib.blake2b(digest_size=16)
    for array in results:
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()


def _windows(readings: Sequence[tuple[float, int]], warm: float) -> tuple[list[int], list[int]]:
    """Resident bytes in the tenth of the runs behind the warm-up, and in the last tenth."""
    before = [taken for share, taken in readings if warm < share <= warm + 0.1]
    after = [taken for share, taken in readings if share > 0.9]
    return before or [readings[0][1]], after or [readings[-1][1]]


def resident_bytes() -> int:
    """Of this process."""
    return _status_bytes("VmRSS")


def _peak_bytes() -> int:
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    """Linux's; elsewhere the most so far, which grows when memory does."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) << 10


def _mib(count: int, sign: str = "") -> str:
    return f"{count / (1 << 20):{sign},.1f} MiB" if count < 10 << 30 else f"{count / (1 << 30):{sign},.1f} GiB"


def _count(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
