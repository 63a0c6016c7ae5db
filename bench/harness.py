"""Time contenders side by side: check every answer first, then interleave rounds so that drift hits all alike."""

import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# A sample is long enough for the clock.
SAMPLE_SECONDS = 0.002
# Threads spin for a while after their work, onnxruntime's for 50 ms: nobody is timed before the process stands still.
PAUSE_SECONDS = 0.005
REST_SECONDS = 0.2
STILL = 0.2
# Whoever takes longer than this has no use for runs outside the sample.
WARM_UP_SECONDS = 0.2
# So many rounds find the best that there is, however short a sample.
MAX_ROUNDS = 20
# Whoever is so many times slower than the fastest after so many rounds will not catch up; a burst of noise is shorter.
HOPELESS = 3.0
HOPELESS_ROUNDS = 10

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Contender:
    """Something to time: ``run`` does the work, ``check`` raises AssertionError unless its result is right.

    Attributes
    ----------
    calls : how many times ``run`` does the work; times are per call
    read_bytes : bytes of weights that one call must read
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    calls: int = 1
    read_bytes: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds a call."""

    median: float
    best: float
    p10: float
    p90: float
    samples: int


def in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """All calls, one after another. One call is itself: a loop around it would be timed with it."""
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


def _time(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def rest() -> None:
    """Sleep until no thread of this process is busy, for ``REST_SECONDS`` at most. Not edgekern's own: ``bench versus``
    runs this file beside older builds, which have none."""
    end = time.perf_counter() + REST_SECONDS
    busy = PAUSE_SECONDS
    while busy > STILL * PAUSE_SECONDS and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(PAUSE_SECONDS)
        busy = time.process_time() - before


def measure(
    contenders: Sequence[Contender],
    *,
    seconds: float = 0.4,
    min_rounds: int = 7,
    each_round: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time each contender for at least ``seconds``, in rounds that call ``each_round`` and then visit all of them.

    All are in every round, because more samples find a better best; and every round begins with the next one, because
    who comes first finds the caches full of what ``each_round`` read. One that is HOPELESS times slower than the
    fastest after its first rounds is not timed any longer.

    Raises
    ------
    AssertionError
        A contender's answer is wrong; nothing is timed then.
    """
    repeats: dict[str, int] = {}
    for contender in contenders:
        contender.check(contender.run())
        repeats[contender.name] = max(1, int(SAMPLE_SECONDS / max(_time(contender.run, 1), 1e-9)))
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    spent = dict.fromkeys(samples, 0.0)
    turn = list(contenders)
    rounds = 0
    while rounds < min_rounds or (rounds < MAX_ROUNDS and any(spent[c.name] < seconds for c in turn)):
        rest()
        each_round()
        for contender in turn:
            name = contender.name
            rest()
            if not samples[name] or samples[name][-1] * contender.calls < WARM_UP_SECONDS:
                _time(contender.run, repeats[name])  # outside the sample, and as long: one run leaves L3 half full
            seconds_a_run = _time(contender.run, repeats[name])
            samples[name].append(seconds_a_run / contender.calls)
            spent[name] += seconds_a_run * repeats[name]
        fastest = min(min(values) for values in samples.values())
        rounds += 1
        turn = turn[1:] + turn[:1]
        if rounds >= HOPELESS_ROUNDS:
            turn = [contender for contender in turn if min(samples[contender.name]) <= HOPELESS * fastest]
    return {name: _timing(values) for name, values in samples.items()}


def _timing(values: Sequence[float]) -> Timing:
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    return Timing(float(median), min(values), float(p10), float(p90), len(values))


def machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Everything a row needs so that it can be compared later: CPU, commit, versions."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else platform.machine()
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {"cpu": model, "commit": commit or None, "versions": {name: version(name) for name in packages}}


def version(package: str) -> str | None:
    """Version of an installed package; None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def sqnr_db(expected: Any, found: Any) -> float:
    """Signal to noise in dB over all elements: infinite where nothing differs."""
    signal = float(np.sum(np.square(expected, dtype=np.float64)))
    noise = float(np.sum(np.square(np.subtract(expected, found, dtype=np.float64))))
    return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf


def print_table(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Print rows under their column names; ``columns`` maps a key to its format, such as ``{"median_us": ".1f"}``."""
    cells = [[_cell(row.get(key), spec) for key, spec in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(columns), *cells, strict=True)]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def write_json(path: Path | None, rows: Iterable[Row]) -> None:
    """Append one JSON object a line."""
    if path is not None:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
