"""Order the steps between host steps so that fewer bytes live at once.

The search is the dynamic program of SERENITY (Ahn et al., MLSys 2020): what is alive depends on which steps are done
and not on their order, so of all orders of one set only the one with the lowest peak goes on. Only orders that stay
below the peak at hand are followed. A step that takes no more than it gives back, below the peak so far, is done at
once: it can only help whatever comes. Where more sets are open than a beam holds, those with the lowest peaks go on,
and the result need not be the best; a stage that would take too long even so keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekern.compiler.in_place import Replaceable
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.steps import KernelStep, Tensor, aligned

_WIDTH = 64  # sets of steps that are followed at a time
_MOST_TRIED = 100_000  # steps of a stage that are tried behind sets, so that long programs compile as fast


def order_steps(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor], able: Replaceable
) -> list[Stage]:
    """The stages with a lower peak of living bytes; as they are where no such order is found.

    ``able``: what steps may write over, where they are the last to read it; they need no room for their result then.
    A stage whose peak another one passes anyway stays as it is.
    """
    found = list(_costs(stages, inputs, outputs, able))
    best = [cost.best() if cost is not None else None for cost in found]
    peaks = [0 if cost is None else cost.peak for cost in found]
    lowered = max((peak if order is None else order.peak for peak, order in zip(peaks, best, strict=True)), default=0)
    ordered = list(stages)
    for at, (stage, peak, order) in enumerate(zip(stages, peaks, best, strict=True)):
        if order is not None and peak > lowered:
            ordered[at] = Stage(steps=tuple(stage.steps[step] for step in order.steps))
    return ordered


@dataclass(frozen=True)
class _Order:
    steps: list[int]
    peak: int


@dataclass(frozen=True)
class _State:
    """Some steps are done, the last of them ``step``; ``ready``: those that can be next, as bits."""

    peak: int
    live: int
    ready: int
    step: int
    before: _State | None


class _Cost:
    """What each step of a stage takes and gives back."""

    def __init__(self, steps: Sequence[KernelStep], living: set[Tensor], kept: set[Tensor], able: Replaceable) -> None:
        """``living``: what is there before the first step; ``kept``: what must outlive the stage."""
        makers = {step.output.root: at for at, step in enumerate(steps)}
        self.live = sum(aligned(x.nbytes) for x in living)
        self.takes = [aligned(step.output.nbytes) for step in steps]
        self.needs = [0] * len(steps)  # steps before it, as bits
        self.followers: list[list[int]] = [[] for _ in steps]
        readers: dict[Tensor, int] = {}
        for at, step in enumerate(steps):
            for x in {x.root: None for x in step.inputs}:
                readers[x] = readers.get(x, 0) | 1 << at
                if x in makers:
                    self.needs[at] |= 1 << makers[x]
                    self.followers[makers[x]].append(at)
        self.gives: list[list[tuple[int, int]]] = [[] for _ in steps]  # bytes, once these steps are done
        for at, step in enumerate(steps):
            for x in {x.root: None for x in step.inputs}:
                if x not in kept and (x in living or x in makers):
                    self.gives[at].append((aligned(x.nbytes), readers[x]))
            if step.output.root not in kept and step.output.root not in readers:
                self.gives[at].append((self.takes[at], 1 << at))
        self.over = [[readers[x] for x in able.get(step, ()) if x not in kept] for step in steps]
        self.peak = self._peak()

    def after(self, step: int, done: int, live: int) -> tuple[int, int]:
        """Bytes alive while a step runs after those that are done, and behind it."""
        both = live + self.takes[step]
        done |= 1 << step
        over = any(not readers & ~done for readers in self.over[step])
        return live if over else both, both - sum(size for size, readers in self.gives[step] if not readers & ~done)

    def _peak(self) -> int:
        """Of the order at hand."""
        peak = live = self.live
        for step in range(len(self.takes)):
            highest, live = self.after(step, (1 << step) - 1, live)
            peak = max(peak, highest)
        return peak

    def best(self) -> _Order | None:
        """An order with a lower peak; the lowest of all where the beam held every set."""
        count = len(self.takes)
        ready = sum(1 << step for step, needs in enumerate(self.needs) if not needs)
        states = {0: _State(self.live, self.live, ready, -1, None)}
        share, tried = _MOST_TRIED // max(count, 1), 0
        for _ in range(count):
            tried += sum(state.ready.bit_count() for state in states.values())
            if tried > _MOST_TRIED:
                return None
            following: dict[int, _State] = {}
            for done, state in states.items():
                for reached in self._next(done, state):
                    grown = done | 1 << reached.step
                    known = following.get(grown)
                    if known is None or reached.peak < known.peak:
                        following[grown] = reached
            states = _lowest(following, share)
        if not states or not count:
            return None
        (last,) = states.values()
        return _Order(_steps_of(last), last.peak)

    def _next(self, done: int, state: _State) -> list[_State]:
        """The states behind each step that can be next and stays below the peak at hand."""
        reached = []
        for step in _bits(state.ready):
            highest, live = self.after(step, done, state.live)
            if highest >= self.peak:
                continue
            grown = done | 1 << step
            ready = state.ready & ~(1 << step)
            for follower in self.followers[step]:
                if not self.needs[follower] & ~grown:
                    ready |= 1 << follower
            one = _State(max(state.peak, highest), live, ready, step, state)
            if live <= state.live and highest <= state.peak:
                return [one]
            reached.append(one)
        return reached


def _lowest(states: dict[int, _State], share: int) -> dict[int, _State]:
    """As many as a beam holds, and one at least, that have no more than ``share`` steps to try."""
    if len(states) <= _WIDTH and sum(state.ready.bit_count() for state in states.values()) <= share:
        return states
    kept: dict[int, _State] = {}
    for done in sorted(states, key=lambda done: (states[done].peak, states[done].live, done))[:_WIDTH]:
        share -= states[done].ready.bit_count()
        if kept and share < 0:
            break
        kept[done] = states[done]
    return kept


def _costs(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor], able: Replaceable
) -> Iterator[_Cost | None]:
    """Of each stage of kernels; what the host writes lives all the time and counts in none."""
    reads = [_reads(stage) for stage in stages]
    later: list[set[Tensor]] = [{y.root for y in outputs}]  # read behind each stage, the last first
    for read in reversed(reads[1:]):
        later.append(later[-1] | read)
    alive = {x.root for x in inputs}
    for stage, read, kept in zip(stages, reads, reversed(later), strict=True):
        if not stage.steps:
            alive &= kept
            yield None
            continue
        alive &= kept | read
        yield _Cost(stage.steps, alive, kept, able)
        alive = (alive | {step.output.root for step in stage.steps}) & kept


def _reads(stage: Stage) -> set[Tensor]:
    hosts = {x.root for host in stage.hosts for x in host.inputs.values()}
    return hosts | {x.root for step in stage.steps for x in step.inputs}


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _steps_of(last: _State) -> list[int]:
    steps, state = [], last
    while state.before is not None:
        steps.append(state.step)
        state = state.before
    return steps[::-1]
