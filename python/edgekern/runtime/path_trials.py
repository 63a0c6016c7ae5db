"""Trying every way in which the steps of a program can run on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arrays import Lent
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.machine import cpu_model
from edgekern.runtime.measured_paths import BY_RULE, Choice, MeasuredPaths, StepPath, identity
from edgekern.runtime.profile import positive
from edgekern.runtime.session import InferenceSession

Times = npt.NDArray[np.float64]

ROUNDS = 9
# What another way must gain, in nearly all rounds: a step that is chosen by noise is no choice.
_LEAST_GAIN, _MOST_ROUNDS_LOST = 1.04, 1
_LEAST_WHOLE_GAIN = 1.01  # of all that are chosen together
_NOTHING = "none"  # the path of a step whose result is empty


def measure_paths(
    session: InferenceSession,
    feeds: Mapping[str, Lent],
    *,
    runs: int = 90,
    advance: Callable[[], None] = lambda: None,
) -> MeasuredPaths:
    """Time each step of a session in every way that it can run, and take those that are faster than the rule.

    Parameters
    ----------
    session : whose program, instruction set and number of threads are meant
    feeds : as of :meth:`InferenceSession.run`
    runs : of each way that are timed, in :data:`ROUNDS` rounds that visit all of them
    advance : called after each of twice as many rounds

    Returns
    -------
    MeasuredPaths
        Without steps where the whole program does not gain.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        As :meth:`InferenceSession.run`, and when ``session`` is none or ``runs`` is not a positive integer.
    MemoryBudgetError
        When the arenas of all ways, one of each, are larger than the memory that this process can have.
    """
    if not isinstance(session, InferenceSession):
        raise ArgumentTypeError(f"measure_paths: session must be an InferenceSession, got {type(session).__name__}")
    positive("measure_paths", "runs", runs)
    if (buckets := session.program.buckets) is not None:
        smallest = dict(zip((one.name for one in buckets.dimensions), buckets.sizes(0), strict=True))
        if (found := session.choose(feeds)) != [smallest]:
            raise ArgumentValueError(
                f"measure_paths: of several sizes the smallest is measured, {smallest}; feeds of {found} were given"
            )
    by_rule = MeasuredPaths(
        identity(session.program_of_mode), session.isa, session.num_threads, cpu_model(), 0, 0.0, 0.0, ()
    )
    ways = _ways(session)
    most = max(map(len, ways), default=0)
    # Session k runs each step in its k-th way, by rule where it has fewer.
    columns = [[step[k] if k < len(step) else BY_RULE for step in ways] for k in range(most)]
    sessions = [_open(session, by_rule, column) for column in columns]
    each = -(-runs // ROUNDS)
    times = _timed(sessions, feeds, each, advance) if most > 1 else np.zeros((most, ROUNDS, len(ways)))
    chosen = [_faster(session, number, step, times[:, :, number]) for number, step in enumerate(ways)]
    steps = tuple(step for step in chosen if step is not None)
    tried = sum(len(step) > 1 for step in ways)
    result = replace(by_rule, tried=tried, steps=steps)
    del sessions
    if not steps:
        return result
    pair = [_open(session, by_rule, [BY_RULE] * len(ways)), _session_of(session, result)]
    rule_us, us = map(float, np.median(_whole(pair, feeds, each, advance), axis=1))
    return replace(result, rule_us=rule_us, us=us, steps=steps if rule_us >= _LEAST_WHOLE_GAIN * us else ())


def _ways(session: InferenceSession) -> list[list[Choice]]:
    """Of each step, by rule first."""
    found = []
    for number, path in enumerate(session.paths):
        keys = ["", *session._runner.core.choices(number)[1:]]
        threads = [False] if session.num_threads == 1 or path == _NOTHING else [False, True]
        found.append([(key, alone) for alone in threads for key in keys])
    return found


def _open(session: InferenceSession, by_rule: MeasuredPaths, column: list[Choice]) -> InferenceSession:
    steps = session.program_of_mode.steps
    chosen = [
        StepPath(number, steps[number].name, path, alone, 0.0, 0.0)
        for number, (path, alone) in enumerate(column)
        if (path, alone) != BY_RULE
    ]
    return _session_of(session, replace(by_rule, steps=tuple(chosen)))


def _session_of(session: InferenceSession, paths: MeasuredPaths) -> InferenceSession:
    return InferenceSession(
        session.program, num_threads=session.num_threads, isa=session.isa, paths=paths, mode=session.mode
    )


def _timed(
    sessions: list[InferenceSession], feeds: Mapping[str, Lent], each: int, advance: Callable[[], None]
) -> Times:
    """Microseconds (session, round, step), the median of each round's runs."""
    clocks: list[Any] = [session._runner.core.clock(True) for session in sessions]
    outs = [session.run(None, feeds) for session in sessions]
    found = np.zeros((len(sessions), ROUNDS, len(clocks[0])))
    for number in range(ROUNDS):
        for turn in range(len(sessions)):
            at = (turn + number) % len(sessions)
            sessions[at].run(None, feeds, out=outs[at])  # caches and threads come to this one
            times = np.zeros((each, len(clocks[0])))
            for run in range(each):
                sessions[at].run(None, feeds, out=outs[at])
                times[run] = clocks[at]
            found[at, number] = np.median(times, axis=0) / 1e3
        advance()
    return found


def _whole(
    sessions: list[InferenceSession], feeds: Mapping[str, Lent], each: int, advance: Callable[[], None]
) -> Times:
    """Microseconds of runs (session, round) without a clock in them."""
    outs = [session.run(None, feeds) for session in sessions]
    found = np.zeros((len(sessions), ROUNDS))
    for number in range(ROUNDS):
        for turn in range(len(sessions)):
            at = (turn + number) % len(sessions)
            sessions[at].run(None, feeds, out=outs[at])
            times = []
            for _ in range(each):
                start = time.perf_counter_ns()
                sessions[at].run(None, feeds, out=outs[at])
                times.append(time.perf_counter_ns() - start)
            found[at, number] = np.median(times) / 1e3
        advance()
    return found


def _faster(session: InferenceSession, number: int, ways: list[Choice], times: Times) -> StepPath | None:
    """The way that takes least, where it gains enough over the rule; ``times`` are (session, round)."""
    rule = times[0] if len(times) else np.zeros(ROUNDS)
    best = None
    for at, (path, alone) in enumerate(ways[1:], start=1):
        with np.errstate(divide="ignore", invalid="ignore"):
            gains = rule / times[at]
        if not np.median(gains) >= _LEAST_GAIN or int(np.sum(gains < 1)) > _MOST_ROUNDS_LOST:
            continue
        us = float(np.median(times[at]))
        if best is None or us < best.us:
            name = session.program_of_mode.steps[number].name
            best = StepPath(number, name, path, alone, float(np.median(rule)), us)
    return best
