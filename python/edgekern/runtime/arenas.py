"""Arenas of one program, and who may use them: first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.runtime.host import HostRunner

if TYPE_CHECKING:
    from edgekern.artifact import Program, TensorInfo

Array = npt.NDArray[Any]


class Arena:
    """What one run at a time needs: the core's memory, and the host steps that read and write it."""

    def __init__(self, program: Program, isa: str, num_threads: int, timeout_s: float | None) -> None:
        manifest = program.manifest
        names = ([name for name, _ in side] for side in (manifest.inputs, manifest.outputs))
        self.core = _core.Session(program.index, program.container.blobs.data, isa, num_threads, *names)
        self.hosts = [
            HostRunner(program, step, self.core, self.core.num_threads, timeout_s) for step in program.host_steps
        ]
        self.inputs = _places(program.inputs, manifest.inputs, self.core)
        self.outputs = _places(program.outputs, manifest.outputs, self.core)
        self._order = manifest.order

    def run(self, arrays: list[Array], targets: list[Array | None]) -> bool:
        """On the caller's arrays; False, and nothing is run, with host steps, and on strided and unaligned ones."""
        return not self.hosts and self.core.run(arrays, targets)

    def run_copied(self, arrays: list[Array], targets: list[Array | None]) -> list[int]:
        """Copies everything in and out: for host steps, which read and write the arena, and for strided and unaligned
        arrays. Gives the nanoseconds of the host steps."""
        self.fill(arrays)
        took = [0] * len(self.hosts)
        for what, number in self._order:
            if what == "segment":
                self.core.run_segment(number)
                continue
            start = time.perf_counter_ns()
            self.hosts[number].run()
            took[number] = time.perf_counter_ns() - start
        for place, target in zip(self.outputs.values(), targets, strict=True):
            if target is not None:
                np.copyto(target, place)
        return took

    def fill(self, arrays: Sequence[Array]) -> None:
        for place, array in zip(self.inputs.values(), arrays, strict=True):
            np.copyto(place, array)

    def after_fork(self) -> None:
        for host in self.hosts:
            host.after_fork()


def _places(infos: Sequence[TensorInfo], numbers: Sequence[tuple[str, int]], core: _core.Session) -> dict[str, Array]:
    """Where inputs or outputs lie in the arena."""
    return {info.name: core.tensor(number) for info, (_, number) in zip(infos, numbers, strict=True)}


class Turns:
    """Lends arenas; who finds none waits behind those who came before.

    An interrupt may come between any two lines of Python but those that hold what has to be given back.
    """

    def __init__(self, arenas: Sequence[Arena]) -> None:
        self._arenas = tuple(arenas)
        self.after_fork()

    def after_fork(self) -> None:
        """What threads of the parent process hold here, they never give back."""
        self._mutex = threading.Lock()
        self._free = list(self._arenas)
        self._waiting: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    @contextmanager
    def taken(self) -> Iterator[Arena]:
        held: list[Arena] = []
        try:
            self._take(held)
            yield held[0]
        finally:
            for arena in held:
                self._give(arena)

    def _take(self, held: list[Arena]) -> None:
        """Put an arena into ``held``."""
        with self._mutex:
            if self._free and not self._waiting:
                held[:] = self._free[-1:]
                del self._free[-1]
                return
            me = _Waiting(held)
            self._waiting.append(me)
        try:
            me.gate.acquire()
        except BaseException:  # Ctrl-C: the place in the row goes to the next
            with self._mutex:
                if me in self._waiting:
                    self._waiting.remove(me)
            raise

    def _give(self, arena: Arena) -> None:
        with self._mutex:
            if not self._waiting:
                self._free.append(arena)
                return
            first = self._waiting.popleft()
            first.held[:] = [arena]
        first.gate.release()


class _Waiting:
    """A caller, and where it finds the arena that it is handed."""

    def __init__(self, held: list[Arena]) -> None:
        self.held = held
        self.gate = threading.Lock()
        self.gate.acquire()
