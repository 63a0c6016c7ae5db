"""Times of several programs that can be held against one another on a machine that does other work, too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.ops import dequantize_linear, quantize_linear
from edgekern.runtime import InferenceSession

Feeds = Mapping[str, Any]
Times = npt.NDArray[np.float64]

ROUNDS = 9
_ROUND_S, _FEWEST, _MOST = 0.05, 5, 50  # of one program in a round, and its runs
_ELEMENTS, _TRIES = 1 << 16, 30


def steady_ms(sessions: Sequence[InferenceSession], feeds: Feeds, *, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of a run of each, by the clock of :func:`steady_steps`."""
    return [sum(ms for _, ms in steps) + beside for steps, beside in steady_steps(sessions, feeds, rounds=rounds)]


def steady_steps(
    sessions: Sequence[InferenceSession], feeds: Feeds, *, rounds: int = ROUNDS
) -> list[tuple[list[tuple[str, float]], float]]:
    """Of each program the name of every step with its milliseconds, in order, and what a run takes beside its steps.

    The programs run in turns, and of the medians of a turn the least counts: others' work makes a step slower and none
    faster. Where others want the CPU, a run is interrupted each time that is longer than the system's slices of time,
    and a step of it is not. So what a run takes is what its steps take, and what was beside them in the quietest run.
    """
    names: list[list[str]] = [[] for _ in sessions]
    best: list[Times] = [np.empty(0) for _ in sessions]
    beside = np.full(len(sessions), np.inf)
    for turn in range(rounds):
        for at, session in enumerate(sessions):
            runs = int(np.clip(_ROUND_S / max(_seconds(session, feeds), 1e-6), _FEWEST, _MOST))
            profile = session.profile(feeds, runs=runs)
            took = np.array([step.p50_us for step in profile.steps])
            names[at] = [step.name for step in profile.steps]
            best[at] = took if turn == 0 else np.minimum(best[at], took)
            beside[at] = min(beside[at], profile.beside_us)
    return [
        (list(zip(called, (times / 1e3).tolist(), strict=True)), float(rest) / 1e3)
        for called, times, rest in zip(names, best, beside, strict=True)
    ]


def conversion_ms() -> float:
    """Milliseconds that an element takes from float32 to 8 bits, or back: the mean of both."""
    floats = np.linspace(-1, 1, _ELEMENTS, dtype=np.float32)
    codes = quantize_linear(floats, 1 / 128, 128)
    took = []
    for convert in (lambda: quantize_linear(floats, 1 / 128, 128), lambda: dequantize_linear(codes, 1 / 128, 128)):
        least = np.inf
        for _ in range(_TRIES):
            start = time.perf_counter()
            convert()
            least = min(least, time.perf_counter() - start)
        took.append(least)
    return float(np.mean(took)) * 1e3 / _ELEMENTS


def _seconds(session: InferenceSession, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start
