"""RunTrace: the times of a session's runs, in a file as onnxruntime writes one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from edgekern import files
from edgekern._warn import warn_caller
from edgekern.errors import ArgumentValueError
from edgekern.runtime.providers import CPU

if TYPE_CHECKING:
    from edgekern.artifact import Program
    from edgekern.runtime.runner import Arena, Runner

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_MOST_EVENTS = 1_000_000  # some 200 MB of JSON


class RunTrace:
    """Watches arenas from the opening of a session until :meth:`finish`.

    Parameters
    ----------
    prefix : how the file's name begins; the time is appended
    start_ns : of ``time.monotonic_ns()``, when the session began to open

    Raises
    ------
    ArgumentValueError
        When the folder of the file is not there.
    """

    def __init__(self, prefix: str, start_ns: int) -> None:
        now = time.time_ns()
        stamp = datetime.fromtimestamp(now // 10**9).strftime("%Y-%m-%d_%H-%M-%S")
        self.path = f"{prefix}_{stamp}_{now % 10**9:09}.json"
        if not Path(self.path).parent.is_dir():
            raise ArgumentValueError(
                f"SessionOptions: profile_file_prefix must begin with a folder that is there, got {prefix!r}"
            )
        self.start_ns, self._pid = start_ns, os.getpid()
        self._runs: list[_Run] = []
        self._opened_ns, self._events = start_ns, 0
        self._on, self._writing = True, threading.Lock()

    def watch(self, arena: Arena) -> None:
        """Time each run in it from now on."""
        for runner in arena.runners:
            clock = runner.core.clock(True)
            assert clock is not None
            runner.clocked = True
            runner.run_direct = self._timing(runner, runner.run_direct, clock)
            runner.run_bound = self._timing(runner, runner.run_bound, clock)
            runner.run_copying = self._timing(runner, runner.run_copying, clock)  # type: ignore[method-assign]
        self._opened_ns = time.monotonic_ns()

    def leave(self) -> None:
        """In the child of a fork: the file is the parent's."""
        self._on, self._runs = False, []

    def finish(self) -> str:
        """Write the file, once. Where that fails, the times stay, and runs are timed on.

        Returns
        -------
        its name; an empty one when it is written already

        Raises
        ------
        ArgumentValueError
            When the folder of the file is there no more.
        OSError
            When it cannot be written.
        """
        if not self._on:
            return ""
        with self._writing:
            return self._written() if self._on else ""

    def _written(self) -> str:
        try:
            with files.atomic_write(Path(self.path), function="end_profiling") as file:
                file.write(json.dumps(self._told()).encode())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArgumentValueError(
                f"end_profiling: the folder of {self.path} must be there, and it is gone; make it again, and call "
                "end_profiling once more: the times are kept"
            ) from error
        self._on, self._runs = False, []
        return self.path

    def finish_at_last(self) -> None:
        """For a session that goes: nobody can call again."""
        try:
            self.finish()
        except (ArgumentValueError, OSError) as error:
            warn_caller(f"InferenceSession: the times of its runs are lost: {error}")

    def _timing(
        self, runner: Runner, run: Callable[_Given, _Result], clock: npt.NDArray[np.uint64]
    ) -> Callable[_Given, _Result]:
        program, paths = runner.program, runner.paths

        def timed(*given: _Given.args, **options: _Given.kwargs) -> _Result:
            start = time.monotonic_ns()
            result = run(*given, **options)
            if self._on and result is not False:  # False: nothing was run
                end, hosts = time.monotonic_ns(), result if isinstance(result, list) else []
                self._keep(_Run(program, paths, threading.get_native_id(), start, end, clock.copy(), hosts))
            return result

        return timed

    def _keep(self, run: _Run) -> None:
        before = self._events
        self._events += 1 + len(run.steps) + len(run.hosts)
        if self._events <= _MOST_EVENTS:
            self._runs.append(run)
        elif before <= _MOST_EVENTS:
            warn_caller(f"InferenceSession: {self.path} is full after {len(self._runs)} runs; later ones are not in it")

    def _told(self) -> list[dict[str, Any]]:
        """Events in the format of Chrome's traces; times in us since the start."""
        events = [self._event("Session", "session_initialization", self._pid, self.start_ns, self._opened_ns)]
        for run in self._runs:
            events.append(self._event("Session", "model_run", run.thread, run.start, run.end))
            at = run.start
            for number, (name, op, path, nanoseconds) in enumerate(run.told()):
                event = self._event("Node", f"{name}_kernel_time", run.thread, at, at + nanoseconds)
                event["args"] = {"op_name": op, "provider": CPU, "node_index": str(number), "path": path}
                events.append(event)
                at += nanoseconds
        return events

    def _event(self, category: str, name: str, thread: int, start_ns: int, end_ns: int) -> dict[str, Any]:
        times = {"dur": (end_ns - start_ns) / 1e3, "ts": (start_ns - self.start_ns) / 1e3}
        return {"cat": category, "pid": self._pid, "tid": thread, **times, "ph": "X", "name": name, "args": {}}


@dataclass(frozen=True, eq=False)
class _Run:
    """One run: nanoseconds of the monotonic clock, and of each step."""

    program: Program
    paths: tuple[str, ...]
    thread: int
    start: int
    end: int
    steps: npt.NDArray[np.uint64]
    hosts: list[int]

    def told(self) -> Iterator[tuple[str, str, str, int]]:
        """Name, operators, path and nanoseconds of each step, in the order in which they ran."""
        program, steps = self.program, self.steps.tolist()
        for what, number in program.manifest.order:
            if what == "host":
                step = program.host_steps[number]
                yield step.name, "+".join(step.operators), "host", self.hosts[number]
                continue
            segment = program.index.segments[number]
            for at in range(segment.begin, segment.end):
                yield program.steps[at].name, program.steps[at].op, self.paths[at], steps[at]
